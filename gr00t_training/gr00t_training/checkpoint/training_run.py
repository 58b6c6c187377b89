# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint was trained: where it started, how far it came, and its losses. For people and the model card."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gr00t_training.checkpoint.files import TRAINING_RUN_FILE, place, read_json_if_there
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.yaml_text import compose_yaml, plain_value

CARD_FILE = "README.md"
MAX_LOSSES = 24  # pairs that are kept
_CARD_LIMIT = 2**20  # [bytes]
_LICENSE_KEYS = ("license", "license_name", "license_link")
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]+)")  # of the hub's cache


@dataclass(frozen=True)
class TrainingRun:
    """How a checkpoint was trained."""

    base: str  # hub id with revision, or folder; empty: fresh weights
    license: Mapping[str, str]  # of the base, as its model card names it; empty: unknown
    step: int  # optimizer steps that were done
    losses: tuple[tuple[int, float], ...] = ()  # step and mean training loss up to it, thinned

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values; `read_training_run` reads them back."""
        return {**dataclasses.asdict(self), "losses": [list(pair) for pair in self.losses]}


def starting_run(base: Path | None) -> TrainingRun:
    """Describe a run that starts from the checkpoint in the folder `base`; None: from fresh weights."""
    if base is None:
        return TrainingRun("", {}, 0)
    match = _SNAPSHOT.search(str(base.resolve()))
    name = f"{match[1]}/{match[2]}@{match[3]}" if match else str(base.resolve())
    return TrainingRun(name, _license(base), 0)


def thinned(losses: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return at most `MAX_LOSSES` pairs that are spread over all, with the newest one."""
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    stride = max(1, math.ceil(len(finite) / MAX_LOSSES))
    return tuple(finite[::-1][::stride][::-1])


def read_training_run(folder: Path) -> TrainingRun | None:
    """Return how a checkpoint was trained; None if it is not stored.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = place(folder, TRAINING_RUN_FILE)
    content = read_json_if_there(file)
    if content is None:
        return None
    try:
        losses = tuple((int(step), float(loss)) for step, loss in content["losses"])
        names = {str(key): str(value) for key, value in content["license"].items()}
        return TrainingRun(str(content["base"]), names, int(content["step"]), losses)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: {error!r}; the checkpoint is damaged") from error


def _license(folder: Path) -> dict[str, str]:
    """Return what the head of a model card says about its license."""
    card = folder / CARD_FILE
    try:
        text = read_text(card, CheckpointError, _CARD_LIMIT) if card.exists() else ""
        head = text.split("---\n")[1] if text.startswith("---\n") else ""
        node = compose_yaml(head, str(card)) if head else None
        content = plain_value(node) if node is not None else {}
    except (CheckpointError, ConfigError, yaml.YAMLError):  # a damaged card of others stops no training
        return {}
    found = content if isinstance(content, dict) else {}
    return {key: str(found[key]) for key in _LICENSE_KEYS if found.get(key)}
