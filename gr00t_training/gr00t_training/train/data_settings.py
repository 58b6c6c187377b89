# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the data of a run: its datasets, and what of each is trained on. Needs no torch.

A data file is the YAML form of `DataSettings`. Its paths are relative to the folder of the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gr00t_training.dataset.episode_ranges import EPISODES_HELP
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.hub_download import dataset_id
from gr00t_training.io.object_storage import remote_url
from gr00t_training.io.text import MAX_INSTRUCTION
from gr00t_training.io.yaml_text import SIZE_LIMIT, read_yaml
from gr00t_training.settings import load_settings, parse_settings, setting

Variants = Mapping[str, tuple[str, ...]]  # text of a task -> texts that are drawn in its place


class StatisticsFrom(str, Enum):
    """Where the statistics come from that scale states and actions."""

    DATASET = "dataset"
    BASE = "base"


class Marks(str, Enum):
    """Which episodes are trained on by the operator's marks."""

    ALL = "all"
    VALID = "valid"  # all but those marked as not valid
    SUCCESS = "success"  # those marked as a success, and not as not valid


class Interventions(str, Enum):
    """Which rows are trained on by who commanded them."""

    ALL = "all"
    ONLY = "only"  # those in which a person had taken over
    WITHOUT = "without"  # all others


@dataclass(frozen=True)
class SourceSettings:
    """One dataset of a run."""

    dataset: str = setting(description="Folder, s3://bucket/prefix or hub id of the dataset.")
    embodiment: str | None = setting(None, "Name or YAML file; absent: --embodiment, or the one stored in the dataset.")
    tag: str | None = setting(None, "Embodiment tag instead of the embodiment's: two robots in a run need two.")
    weight: float | None = setting(
        None, "Share of the run's samples, in any unit; absent: the number of samples.", ge=0
    )
    episodes: tuple[Any, ...] = setting((), f"{EPISODES_HELP} Absent: all.")
    tasks: tuple[str, ...] = setting((), "Texts of tasks, * for any characters: episodes of one of them; absent: all.")
    marks: Marks = setting(Marks.VALID, "Episodes by the operator's marks: all, valid or success.")
    interventions: Interventions = setting(
        Interventions.ALL, "Rows in which a person had taken over: all rows, only those, or without them."
    )
    intervention_weight: int = setting(
        1, "How often a row in which a person had taken over is drawn, as a multiple of others.", ge=1, le=1000
    )
    leave_out_faults: bool = setting(False, "Leave out episodes in which gr00t_dataset validate --quick finds faults.")
    leave_out_filled: bool = setting(True, "Leave out rows with an image or state that was missing or too old.")
    language: tuple[str, ...] = setting((), "Annotation keys, one of which is drawn; absent: the embodiment's.")
    instructions: Mapping[str, tuple[str, ...]] | str = setting(
        default_factory=dict, description="Task -> texts drawn in its place, or a YAML or JSON file of that."
    )

    def __post_init__(self) -> None:
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight is {self.weight}, expected a number above 0; leave the dataset out instead")
        if self.intervention_weight > 1 and self.interventions is not Interventions.ALL:
            raise ValueError(
                f"intervention_weight is {self.intervention_weight} with interventions '{self.interventions.value}'; "
                "it compares rows by a person with others: expected 'all' (or 'weight' of the dataset)"
            )
        object.__setattr__(self, "episodes", tuple(map(str, self.episodes)))  # YAML reads 3 as a number
        if not isinstance(self.instructions, str):
            _check_variants(self.instructions)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values of what is not a default; `from_mapping` reads them back equal."""
        found = json.loads(json.dumps(dataclasses.asdict(self)))
        default = json.loads(json.dumps(dataclasses.asdict(SourceSettings(dataset=""))))
        return {name: value for name, value in found.items() if value != default[name]}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], subject: str) -> SourceSettings:
        """Read what `to_mapping` returned; `subject` names it in errors.

        Raises:
            ConfigError: it is damaged.
        """
        return parse_settings(cls, json.dumps(content), subject)


@dataclass(frozen=True)
class DataSettings:
    """The datasets of a run."""

    datasets: tuple[SourceSettings, ...] = setting(description="One entry per dataset.")

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ValueError("datasets is empty, expected at least one entry")


def read_data_file(path: str | Path) -> DataSettings:
    """Read a data file; paths in it become relative to the working folder, and files of instructions their content.

    Raises:
        ConfigError: a file is missing, not YAML, or a value is wrong; names file and line.
    """
    path = Path(path)
    found = load_settings(DataSettings, path)
    return DataSettings(datasets=tuple(_resolved(source, path.parent) for source in found.datasets))


def _resolved(source: SourceSettings, folder: Path) -> SourceSettings:
    def near(name: str | None) -> str | None:
        return str(folder / name) if name and (folder / name).exists() else name

    is_elsewhere = remote_url(source.dataset) or (
        not (folder / source.dataset).exists() and dataset_id(source.dataset) is not None
    )
    instructions = source.instructions
    if isinstance(instructions, str):
        instructions = read_instructions(folder / instructions)
    return dataclasses.replace(
        source,
        dataset=source.dataset if is_elsewhere else str(folder / source.dataset),
        embodiment=near(source.embodiment),
        instructions=instructions,
    )


def read_instructions(path: Path) -> Variants:
    """Read a YAML or JSON file that has the texts of each task.

    Raises:
        ConfigError: missing, or of another form.
    """
    read_text(path, ConfigError, SIZE_LIMIT)  # a missing file is named as such
    content = read_yaml(path)
    try:
        if not isinstance(content, Mapping):
            raise ValueError(f"is a {type(content).__name__}, expected tasks with lists of texts")
        found = {str(task): tuple(texts) if isinstance(texts, list) else texts for task, texts in content.items()}
        _check_variants(found)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return found


def _check_variants(variants: Mapping[str, Any]) -> None:
    for task, texts in variants.items():
        are_texts = isinstance(texts, tuple) and texts and all(isinstance(text, str) and text.strip() for text in texts)
        if not are_texts or any(len(text) > MAX_INSTRUCTION for text in texts):
            raise ValueError(
                f"instructions of '{task:.80}' are {texts!r:.80}, expected a list of texts of up to {MAX_INSTRUCTION} "
                "characters"
            )
