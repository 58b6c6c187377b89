# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The weights of a checkpoint under their published names, whether they are in its folder or an adapter's of a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gr00t_training.checkpoint.adapter import Adapter, LowRank, find_base, is_adapter, merged, read_adapter
from gr00t_training.checkpoint.files import BASE_FILE
from gr00t_training.checkpoint.weight_files import (
    LEROBOT_PREFIX,
    StoredTensor,
    TensorReader,
    find_sound_weights,
)
from gr00t_training.errors import CheckpointError

_MAX_BASES = 8  # an adapter of an adapter of a checkpoint is two


@dataclass(frozen=True)
class ModelWeights:
    """All weights of a model; an adapter's are merged as they are read."""

    tensors: Mapping[str, StoredTensor]  # what is in the files, where nothing is merged
    files: list[Path]
    adapter: Adapter | None = None
    base: ModelWeights | None = None  # of the adapter
    merges: bool = True  # False: weights of adapted layers are those of the base

    def read(self, name: str, reader: TensorReader) -> Tensor:
        """Return a weight, of the reader's type and on its device.

        Raises:
            CheckpointError: a file is damaged, or the adapter does not fit its base.
        """
        adapter, base = self.adapter, self.base
        if not adapter or not base:
            return reader.read(self.tensors[name])
        if name in adapter.rows:
            table = base.read(name, reader)
            table[adapter.rows[name]] = reader.read(adapter.trained[name]).to(table.dtype)
            return table
        if name in adapter.trained:
            return reader.read(adapter.trained[name])
        if name not in adapter.layers or not self.merges:
            return base.read(name, reader)
        return self._merged(name, adapter, base, reader)

    def _merged(self, name: str, adapter: Adapter, base: ModelWeights, reader: TensorReader) -> Tensor:
        exact, layer = reader.of_type(torch.float32), adapter.layers[name]
        parts = LowRank(*(part and exact.read(part) for part in (layer.a, layer.b, layer.magnitude)))
        try:
            weight = merged(base.read(name, exact), parts, adapter.scaling)
        except ValueError as error:
            raise CheckpointError(f"{adapter.path}: {name}: {error}; the adapter belongs to another model") from error
        return weight.to(reader.type_of(self.tensors[name]))


@dataclass(frozen=True)
class WeightSource:
    """Where a weight is read."""

    weights: ModelWeights
    name: str  # there

    @property
    def tensor(self) -> StoredTensor:
        """Type and shape in the file."""
        return self.weights.tensors[self.name]

    def read(self, reader: TensorReader) -> Tensor:
        """Return the weight; see `ModelWeights.read`."""
        return self.weights.read(self.name, reader)


def find_model_weights(
    folder: Path, *, base: str | Path | None = None, prefix: str = LEROBOT_PREFIX, merges: bool = True
) -> ModelWeights:
    """Read the headers of a checkpoint's weights, and of its base's if it is an adapter.

    Args:
        folder: local.
        base: of an adapter, see `find_base`.
        prefix: see `find_weights`.
        merges: adapters are merged; False: their layers have the base's weights, to continue their training.

    Raises:
        CheckpointError: a file is missing or damaged, or the base is missing or another one.
    """
    return _find(folder, base, prefix, merges, _MAX_BASES)


def _find(folder: Path, base: str | Path | None, prefix: str, merges: bool, depth: int) -> ModelWeights:
    if not is_adapter(folder):
        weights = find_sound_weights(folder, prefix=prefix)
        return ModelWeights(weights.tensors, weights.files)
    if not depth:
        raise CheckpointError(f"{folder}: is an adapter of more than {_MAX_BASES} adapters; merge it with its base")
    adapter = read_adapter(folder)
    below = _find(find_base(adapter, base), None, prefix, True, depth - 1)
    _check_fit(adapter, below)
    whole = {name: tensor for name, tensor in adapter.trained.items() if name not in adapter.rows}
    return ModelWeights({**below.tensors, **whole}, [*below.files, *adapter.files], adapter, below, merges)


def _check_fit(adapter: Adapter, base: ModelWeights) -> None:
    missing = [name for name in (*adapter.layers, *adapter.rows) if name not in base.tensors]
    if missing:
        raise CheckpointError(
            f"{adapter.path}: {missing[0]} is not in its base checkpoint; the adapter belongs to another model"
        )
    for name, rows in adapter.rows.items():
        found, expected = adapter.trained[name].shape, base.tensors[name].shape
        if found[1:] != expected[1:] or max(rows, default=0) >= expected[0]:
            raise CheckpointError(
                f"{adapter.path}: {name}: rows {rows} of shape {found} do not fit the base's {expected}; restore "
                f"{BASE_FILE}"
            )
