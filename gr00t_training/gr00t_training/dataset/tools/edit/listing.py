# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write what a new dataset lists of each episode, one episode after the other; nothing of them stays in memory.

v2.0 and v2.1 have lines (`episodes.jsonl`, `episodes_stats.jsonl`), v3.0 has a table whose files roll over by size as
those of the rows do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episodes_table import EpisodePlace, full_row
from gr00t_training.dataset.metadata.lists import episode_statistics_text
from gr00t_training.dataset.metadata.table_writer import EpisodesTableWriter
from gr00t_training.dataset.tools.edit.layouts import made

Statistics = Mapping[str, Mapping[str, list]]  # by feature and name


class Listing(Protocol):
    """Takes the episodes in order."""

    def add(self, entry: Mapping[str, Any], statistics: Statistics, place: EpisodePlace) -> None:
        """List an episode; DatasetError: its numbers or its entry cannot be written."""
        ...

    def close(self) -> None:
        """Finish all files; raises as `add` does."""
        ...


class ListedLines:
    """The lists of v2.0 and v2.1."""

    def __init__(self, folder: Path, *, has_statistics: bool) -> None:
        """Write into the dataset in `folder`; `has_statistics`: v2.1."""
        self._entries = _open_text(folder / schema.EPISODES_FILE)
        self._statistics = _open_text(folder / schema.EPISODES_STATS_FILE) if has_statistics else None

    def add(self, entry: Mapping[str, Any], statistics: Statistics, place: EpisodePlace) -> None:
        self._entries.write(schema.json_lines_text([dict(entry)]))
        if self._statistics is not None:
            self._statistics.write(episode_statistics_text({place.index: statistics}))

    def close(self) -> None:
        self._entries.close()
        if self._statistics is not None:
            self._statistics.close()


class ListedTable:
    """The episodes table of v3.0."""

    def __init__(self, folder: Path, fps: float, *, max_mb: float) -> None:
        """Write into the dataset in `folder`; a new file is begun when one has the given size."""
        self._folder, self._fps, self._max_bytes = folder, fps, max_mb * 2**20
        self._number = 0
        self._writer = self._open_file()

    def add(self, entry: Mapping[str, Any], statistics: Statistics, place: EpisodePlace) -> None:
        if self._writer.num_bytes >= self._max_bytes:
            self._writer.close()
            self._number += 1
            self._writer = self._open_file()
        place = dataclasses.replace(place, table_file=self._number)
        self._writer.add(full_row(place, entry, statistics, self._fps))

    def close(self) -> None:
        self._writer.close()

    def _open_file(self) -> EpisodesTableWriter:
        return EpisodesTableWriter(made(self._folder / schema.shared_path(schema.EPISODES_TABLE_PATH, self._number)))


def _open_text(path: Path) -> IO[str]:
    return open(made(path), "w", encoding="utf-8", newline="")
