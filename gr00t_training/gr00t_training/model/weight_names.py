# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert between NVIDIA's names of the weights and ours: one table per family, used in both directions.

A row maps the beginning of a name; what follows (`.weight`, `.layer_norm1.bias`) is the same on both sides. `#` stands
for a number, the same on both sides.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gr00t_training.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 5  # of a long list in an error
_EXPORT_PREFIX = "_groot_model."  # of all names in files that LeRobot's training writes


@dataclass(frozen=True)
class NameTable:
    """Names of one model family."""

    rows: tuple[tuple[str, str], ...]  # (published, ours)
    ignored: tuple[str, ...] = ()  # published beginnings of weights that no action needs
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # published name -> the one to take where it is absent
    # published name -> standard deviation of its random values if missing from a file; models without it ignore it
    optional: Mapping[str, float] = field(default_factory=dict)
    remedies: Mapping[str, str] = field(default_factory=dict)  # published name -> what to do where it is absent

    def to_ours(self, published: str) -> str | None:
        """Return our name; None for a weight that the model does not have."""
        return _rename(published, self.rows)

    def to_published(self, ours: str) -> str:
        """Return the published name; KeyError if it is not in the table."""
        name = _rename(ours, [(own, published) for published, own in self.rows])
        if name is None:
            raise KeyError(f"{ours}: not in the table of published names; add a row")
        return name


def published_weights(model: nn.Module, table: NameTable) -> dict[str, Tensor]:
    """Return the weights under their published names."""
    return {table.to_published(name): weight for name, weight in model.state_dict().items()}


def assign_weights(model: nn.Module, weights: Mapping[str, Tensor], table: NameTable, source: str) -> None:
    """Put weights with published names into `model`, which may be on the meta device; they are not copied.

    Weights that the model does not have are ignored, with a warning unless the table expects them.

    Args:
        model: receives the weights, in their own dtype and on their own device.
        weights: published name -> tensor.
        table: of the model's family.
        source: names the weights in errors.

    Raises:
        CheckpointError: weights are missing or have another shape; names them.
    """
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    weights = {name.removeprefix(_EXPORT_PREFIX): weight for name, weight in weights.items()}
    stand_ins = {name: weights[other] for name, other in table.stand_ins.items() if other in weights}
    weights = {**_fresh(shapes, weights, table), **stand_ins, **weights}
    ours = {name: weight for published, weight in weights.items() if (name := table.to_ours(published)) in shapes}
    missing = [table.to_published(name) for name in shapes if name not in ours]
    if missing:
        # a remedy is for one missing weight only
        remedy = table.remedies.get(missing[0]) if len(missing) == 1 else None
        raise CheckpointError(
            f"{source}: {len(missing)} of {len(shapes)} weights are missing: {_listing(missing)}; "
            f"{remedy or 'the file is incomplete or of another model'}"
        )
    wrong = [
        f"{table.to_published(name)} is {tuple(weight.shape)}, expected {tuple(shapes[name])}"
        for name, weight in ours.items()
        if weight.shape != shapes[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: weights do not fit config.json: {_listing(wrong)}; they belong to different models"
        )
    surplus, extra = unexpected_names(weights, shapes, table)
    if surplus:
        raise CheckpointError(
            f"{source}: {len(surplus)} weights belong to parts that are not in config.json: {_listing(surplus)}; "
            "restore the config.json that belongs to them"
        )
    if extra:
        logger.warning("%s: ignoring %d unknown weights: %s", source, len(extra), _listing(extra))
    model.load_state_dict(ours, assign=True)  # type: ignore[arg-type]


def unexpected_names(published: Iterable[str], ours: Collection[str], table: NameTable) -> tuple[list[str], list[str]]:
    """Return the names of weights that a model does not have: those of parts of its family, and unknown ones.

    Args:
        published: names of the stored weights.
        ours: names of the model's weights.
        table: of the family.
    """
    surplus, unknown = [], []
    for name in published:
        renamed = table.to_ours(name)
        if renamed not in ours and not name.startswith((*table.ignored, *table.optional)):
            (unknown if renamed is None else surplus).append(name)
    return surplus, unknown


def _fresh(shapes: Mapping[str, torch.Size], weights: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Return random values, on the device and in the type of the others, for missing optional weights."""
    fresh = {}
    for published, deviation in table.optional.items():
        ours = table.to_ours(published) or ""
        if ours in shapes and published not in weights and weights:
            like = next(iter(weights.values()))
            fresh[published] = deviation * torch.randn(shapes[ours], dtype=like.dtype, device=like.device)
    return fresh


def _rename(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    for beginning, replacement in rows:
        pattern = re.escape(beginning).replace(r"\#", r"(\d+)") + r"(?=\.|$)"
        if match := re.match(pattern, name):
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), replacement) + name[match.end() :]  # noqa: B023
    return None


def _listing(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
