# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Norm of the fused operations of the inference path.

Letters in shapes: M rows, D width, C choices.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Norm:
    """A norm over the last dimension: layer norm, or root mean square norm (arXiv 1910.07467)."""

    weight: Tensor | None  # (D,); (C, D) with `choice`
    bias: Tensor | None  # (D,); (C, D) with `choice`
    eps: float
    is_rms: bool = False
    choice: Tensor | None = None  # (M,) int32, which of the weights and biases each row of `x` takes

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`; `(M, D)` to `(M, D)` with `choice`."""
        if self.choice is not None:
            chosen = (None if part is None else part[self.choice] for part in (self.weight, self.bias))
            weight, bias = chosen
            x = Norm(None, None, self.eps, self.is_rms)(x)
            x = x if weight is None else x * weight
            return x if bias is None else x + bias
        if self.is_rms:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
