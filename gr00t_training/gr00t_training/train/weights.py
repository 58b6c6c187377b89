# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A model made smaller for training, and its whole weights for a checkpoint.

Frozen parts of the backbone compute in bfloat16, and only the dataset's rows of the tables per embodiment stay on the
device. What was loaded is kept on the host, so that a checkpoint has every weight that does not train unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gr00t_training.model.action_head import CategoryLinear
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.quantize import quantize_linears

ADAPTER_MARK = ".lora_"  # in the names of adapters' weights


class TrainedWeights:
    """The weights of a model during training."""

    def __init__(
        self,
        model: Gr00tModel,
        rows: Sequence[int],
        frozen_dtype: torch.dtype | None,
        *,
        is_whole: bool = True,
        quantizes: bool = False,
    ) -> None:
        """Make a model smaller; it must still be on the host, with its trained parts and adapters chosen.

        Args:
            model: changed in place.
            rows: of the tables per embodiment that the data need.
            frozen_dtype: of frozen parts of the backbone, and of frozen linear layers; None: as they are.
            is_whole: keep what is frozen on the host, for `whole`.
            quantizes: store frozen linear layers of the backbone in 4 bits.

        Raises:
            ConfigError: what quantizes is not installed.
        """
        self._model = model
        self._is_whole = is_whole
        self._shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if ADAPTER_MARK not in name}
        self._rows = list(rows)
        self._tables = {
            f"{prefix}.{name}": parameter.detach()
            for prefix, module in model.named_modules()
            if isinstance(module, CategoryLinear)
            for name, parameter in module.named_parameters(recurse=False)
        }
        model.action_head.keep_rows(self._rows)
        self._frozen: dict[str, Tensor] = {}
        # autocast would cast weights of linear layers in every step, with the same result
        linear = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.Linear))
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad and name.startswith(("backbone.", *linear)):
                if is_whole and (frozen_dtype or quantizes):
                    self._frozen[name] = parameter.detach()
                if frozen_dtype:
                    parameter.data = parameter.data.to(frozen_dtype)
        if quantizes:
            quantize_linears(model.backbone)

    def trained(self) -> dict[str, Tensor]:
        """Return the weights that train."""
        return {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}

    @property
    def num_bytes(self) -> int:
        """Size of the weights as a checkpoint stores them."""
        if not self._is_whole:
            return sum(x.nbytes for x in self.trained().values())
        return sum(x.nbytes for x in {**self._model.state_dict(), **self._frozen, **self._tables}.values())

    def whole(
        self, averages: Mapping[str, Tensor], together: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    ) -> dict[str, Tensor]:
        """Return all weights under the model's names.

        Args:
            averages: of trained weights, to be taken instead of them.
            together: puts weights together that are split over processes; may return some of them only.
        """
        state = self._model.state_dict()
        found = together({**{name: state[name] for name in self._shapes}, **self._frozen, **averages})
        for name in self._tables:
            if name in found:
                found[name] = self._whole_table(name, found[name])
        return found

    def beside_adapters(
        self, averages: Mapping[str, Tensor], base: Mapping[str, tuple[int, ...]]
    ) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """Return the weights missing from a base with adapters: those that were trained whole, or have another shape.

        Args:
            averages: of trained weights, to be taken instead of them.
            base: shapes of the base's weights, under the model's names.

        Returns:
            Weights under the names of a model without adapters; and which rows those of some tables are.
        """
        trained, state = {**self.trained(), **averages}, self._model.state_dict()
        found: dict[str, Tensor] = {}
        rows: dict[str, list[int]] = {}
        for name, shape in self._shapes.items():
            plain = name.replace(".base_layer.", ".")
            is_in_base = base.get(plain) == shape
            if is_in_base and name not in trained and name not in self._tables:  # rows of a new robot may be fresh
                continue
            found[plain] = (trained[name] if name in trained else state[name]).detach()
            if name in self._tables and is_in_base:
                rows[plain] = self._rows
            elif name in self._tables:
                found[plain] = self._whole_table(name, found[plain])
        return found, rows

    def _whole_table(self, name: str, rows: Tensor) -> Tensor:
        table = self._tables[name].clone()
        table[self._rows] = rows.detach().to(table)
        return table
