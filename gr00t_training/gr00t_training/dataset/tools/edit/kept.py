# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""An episode of a source and its part in a new dataset: rows and instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset.metadata.columns import is_text
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.tools.edit.rows import numbers_of_tasks
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.errors import DatasetError


@dataclass(frozen=True)
class KeptEpisode:
    """An episode of a source, and what of it goes into the new dataset."""

    source: SourceDataset
    number: int  # of the episode in the source
    start: int = 0  # first row
    stop: int | None = None  # end of the rows; None: all
    task: str | None = None  # new instruction of all rows
    renamed: Mapping[str, str] = field(default_factory=dict)  # old text of a task -> new text

    @property
    def episode(self) -> Episode:
        """The episode as its source lists it."""
        return self.source.episode(self.number)

    @property
    def end(self) -> int:
        """End of the rows that are kept, as a number."""
        return self.source.length_of(self.number) if self.stop is None else self.stop

    @property
    def length(self) -> int:
        """Number of rows that are kept."""
        return self.end - self.start

    @property
    def is_cut(self) -> bool:
        """Whether rows are left out."""
        return self.length != self.source.length_of(self.number)

    @property
    def subject(self) -> str:
        """What errors call it."""
        return f"{self.source.path}: episode {self.number}"

    def text(self, column: str, number: int) -> str:
        """Return the text of a task number in `column` as it becomes; DatasetError when it has none."""
        if self.task is not None and column in self.source.language_columns:
            return self.task
        if number not in self.source.tasks:
            raise DatasetError(
                f"{self.subject}: {column} holds task {number}, which has no text; add it to the list of tasks"
            )
        return self.renamed.get(self.source.tasks[number], self.source.tasks[number])

    def new_text(self, column: str, text: str) -> str:
        """Return what becomes of a text in `column` itself."""
        if self.task is not None and column in self.source.language_columns:
            return self.task
        return self.renamed.get(text, text)

    def new_entry(self, index: int) -> dict[str, Any]:
        """Return what is listed of the episode as number `index` of the new dataset."""
        entry = {**self.episode.entry, "episode_index": index, "tasks": self.listed_tasks(), "length": self.length}
        if self.is_cut and entry.get("sub_tasks"):
            entry["sub_tasks"] = [
                {**part, "start": max(part["start"] - self.start, 0), "end": min(part["end"], self.end) - self.start}
                for part in entry["sub_tasks"]
                if part["start"] < self.end and part["end"] > self.start
            ]
        return entry

    def listed_tasks(self) -> list[str]:
        """Return the tasks that the episode will be listed with."""
        texts = list(self.episode.entry.get("tasks") or [])
        if self.task is not None:
            before = self._instructions()
            texts = [self.task if text in before else text for text in texts] or [self.task]
        return list(dict.fromkeys(self.renamed.get(text, text) for text in texts))

    def _instructions(self) -> set[str]:
        """Return the instructions of the episode as they were."""
        table = self.source.read_rows(self.episode, self.source.language_columns)
        texts: set[str] = set()
        for name in table.column_names:
            if is_text(table.schema.field(name).type):
                texts |= set(table[name].to_pylist())
            texts |= {self.source.tasks[n] for n in self.task_numbers(table, name) if n in self.source.tasks}
        return texts

    def task_numbers(self, table: pa.Table, name: str) -> list[int]:
        """Return the different task numbers of a column, none where it holds texts; DatasetError names the episode."""
        try:
            numbers = numbers_of_tasks(table, name)
        except DatasetError as error:
            raise DatasetError(f"{self.subject}: {error}") from error
        return [] if numbers is None else [int(number) for number in np.unique(numbers)]


def all_of(source: SourceDataset) -> list[KeptEpisode]:
    """Return every episode of a dataset, to be kept unchanged."""
    return [KeptEpisode(source, number) for number in source.episodes.indices.tolist()]
