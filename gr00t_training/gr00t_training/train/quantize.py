# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Frozen linear layers in 4 bits (NF4, arXiv 2305.14314) through bitsandbytes.

Weights become 4 bits where the model is moved to its device. Training through them costs a conversion per layer and
pass; merging an adapter uses the base's own weights.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gr00t_training.errors import ConfigError


def check_quantized(model: nn.Module) -> None:
    """Check that the linear layers of a model can be replaced.

    Raises:
        ConfigError: bitsandbytes is not installed, or no layer is frozen.
    """
    bitsandbytes("quantize_base")
    if not _frozen_linears(model):
        raise ConfigError("quantize_base: all layers of the backbone train; freeze some, or leave it out")


def quantize_linears(model: nn.Module) -> None:
    """Replace the frozen linear layers of a model by ones in 4 bits.

    Raises:
        ConfigError: bitsandbytes is not installed, or no layer is frozen.
    """
    check_quantized(model)
    make = _layer_class(bitsandbytes("quantize_base"))
    for name, module in _frozen_linears(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(module))


def _frozen_linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and not any(x.requires_grad for x in module.parameters())
    ]


def quieten() -> None:
    """Let bitsandbytes, which PEFT imports too, not warn of a kernel that it can do without."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def bitsandbytes(option: str) -> ModuleType:
    """Import bitsandbytes; `option` needs it.

    Raises:
        ConfigError: it is not installed.
    """
    quieten()
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            f"{option}: needs the library bitsandbytes ({error}); install it with pip install 'gr00t_training[lora]'"
        ) from error
    return bitsandbytes


def _layer_class(library: Any) -> Any:
    class QuantizedLinear(library.nn.Linear4bit):
        """A linear layer in 4 bits that follows autocast, as ordinary ones do."""

        def __init__(self, layer: nn.Linear) -> None:
            with torch.device("meta"):
                super().__init__(
                    layer.in_features,
                    layer.out_features,
                    layer.bias is not None,
                    compute_dtype=layer.weight.dtype,
                    quant_type="nf4",
                )
            weight = layer.weight.detach()
            self.weight = library.nn.Params4bit(
                weight, requires_grad=False, compress_statistics=False, quant_type="nf4", module=self
            )
            self.bias = layer.bias

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled(x.device.type):
                x = x.to(torch.get_autocast_dtype(x.device.type))
            return super().forward(x)

    return QuantizedLinear
