# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Make room in a model for a robot that it was not made for: more channels, or another embodiment.

What the model has learned is carried over. New channels start without influence: their rows of an input layer are
zero, so a widened model computes on the old channels what it did, whatever the new ones contain. Columns that produce
new channels, and all layers of a new embodiment, start from the initial values of a fresh layer, drawn from PyTorch's
generator.

Letters in shapes: N embodiments, I inputs, O outputs.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence

import torch

from gr00t_training.embodiment import Embodiment
from gr00t_training.model.action_head import CategoryLinear
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.transforms.state_action import KeyTransform
from gr00t_training.types import KeyKind

logger = logging.getLogger(__name__)


def with_room(config: Gr00tConfig, embodiments: Sequence[Embodiment], horizon: int) -> Gr00tConfig:
    """Return `config` with room for the channels of all embodiments and chunks of `horizon` ticks; never with less.

    Raises:
        ValueError: more channels than any model has, or a longer horizon than the model has positions for.
    """
    head = config.action_head
    names = ", ".join(f"'{embodiment.name}'" for embodiment in embodiments)
    if head.add_position_embedding and horizon > head.max_positions:
        raise ValueError(
            f"embodiment {names}: action_horizon is {horizon}, the model has positions for {head.max_positions} "
            "(max_seq_len of config.json); set a shorter action_horizon"
        )
    widths = {kind: max(_width(embodiment, kind) for embodiment in embodiments) for kind in _ROOM}
    changes = {name: max(getattr(head, name), widths[kind]) for kind, name in _ROOM.items()}
    try:
        return dataclasses.replace(config, action_head=dataclasses.replace(head, **changes, action_horizon=horizon))
    except ValueError as error:
        raise ValueError(f"embodiment {names}: {error}; use fewer keys") from error


_ROOM = {KeyKind.STATE: "state_dim", KeyKind.ACTION: "action_dim"}


def with_projectors(projectors: Mapping[str, int], tags: Iterable[str], num_rows: int) -> dict[str, int]:
    """Return a row of the tables per embodiment for each tag, also for those without one.

    A new tag takes the highest row that no tag has, or one behind the last.

    Args:
        projectors: tag -> row, of the model.
        tags: to have a row.
        num_rows: of the tables.
    """
    found = dict(projectors)
    for tag in tags:
        if tag not in found:
            free = set(range(num_rows)) - set(found.values())
            found[tag] = max(free, default=max([num_rows - 1, *found.values()]) + 1)
    return found


def with_rows(config: Gr00tConfig, projectors: Mapping[str, int]) -> Gr00tConfig:
    """Return `config` with tables that have all rows of `projectors` that are new; see `with_projectors`."""
    head = config.action_head
    rows = max(head.num_embodiments, *(row + 1 for row in projectors.values()))
    return dataclasses.replace(config, action_head=dataclasses.replace(head, num_embodiments=rows))


def widen(model: Gr00tModel, wide: Gr00tModel, fresh_rows: Sequence[int]) -> None:
    """Put the weights of a model into a wider one.

    Args:
        model: as it was read; not used afterwards.
        wide: of `trial.shape_model`, at least as wide, with at least as many embodiments.
        fresh_rows: embodiments whose layers get new weights.
    """
    weights = model.state_dict()
    tables = {name: module for name, module in model.named_modules() if isinstance(module, CategoryLinear)}
    history = wide.config.action_head.state_history or 1
    changed = []
    for name, table in tables.items():
        expected = wide.get_parameter(f"{name}.W")
        groups = history if name == _STATE_INPUT else 1
        grown = _widened_table(table, tuple(expected.shape), fresh_rows, groups)
        weights.update({f"{name}.{part}": value for part, value in grown.items()})
        changed += [
            f"{name}.{part} {tuple(getattr(table, part).shape)} -> {tuple(value.shape)}"
            for part, value in grown.items()
            if value.shape != getattr(table, part).shape
        ]
    wide.load_state_dict(weights, assign=True)
    if changed:
        logger.info("widened for the robot, with the weights carried over: %s", ", ".join(changed))


_STATE_INPUT = "action_head.state_encoder.layer1"


@torch.no_grad()
def _widened_table(
    table: CategoryLinear, shape: tuple[int, ...], fresh_rows: Sequence[int], groups: int
) -> dict[str, torch.Tensor]:
    """Return weight `(N, I, O)` and bias `(N, O)` of the new shape.

    Args:
        table: as it was read.
        shape: of the new weight.
        fresh_rows: embodiments that get new weights.
        groups: equal parts of the inputs, each of which grows at its end: the rows of a state that is one token.
    """
    rows, inputs, outputs = shape
    old_rows, old_inputs, old_outputs = table.W.shape
    weight = table.W.new_zeros(rows, groups, inputs // groups, outputs)
    bias = table.b.new_zeros(rows, outputs)
    weight[:old_rows, :, : old_inputs // groups, :old_outputs] = table.W.unflatten(1, (groups, -1))
    bias[:old_rows, :old_outputs] = table.b
    weight = weight.flatten(1, 2)
    if outputs > old_outputs:
        weight[:, :, old_outputs:] = CategoryLinear(rows, inputs, outputs - old_outputs).W.to(weight)
    for row in fresh_rows:
        fresh = CategoryLinear(1, inputs, outputs)
        weight[row], bias[row] = fresh.W[0].to(weight), fresh.b[0].to(bias)
    return {"W": weight, "b": bias}


def _width(embodiment: Embodiment, kind: KeyKind) -> int:
    """Return the channels of a kind as the model sees them."""
    vectors = embodiment.vectors(kind)
    return sum(KeyTransform(vectors[key], None).dim for key in embodiment.used(kind))
