# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Storage of finished episodes; `store_v2` and `store_v3` implement it.

A store owns all files of a dataset that readers see. It reads the dataset back, sets aside files without metadata, and
adds or removes the last episode by one deciding rename: steps before it are harmless if it never happens, steps after
it are repeated when the dataset is next opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.metadata.info import make_recorded_info
from gr00t_training.dataset.metadata.tables import read_table
from gr00t_training.dataset.writing.files import DatasetFiles
from gr00t_training.dataset.writing.finished import FinishedEpisode
from gr00t_training.dataset.writing.totals import FLOAT_COLUMNS, Totals
from gr00t_training.embodiment import Embodiment, modality_layout, to_mapping
from gr00t_training.errors import DatasetError


class Store(Protocol):
    """The finished episodes of a dataset that is open for writing."""

    totals: Totals

    def load(self) -> None:
        """Read the dataset and make all files consistent.

        Raises:
            DatasetError: damaged.
            OSError: something cannot be written.
        """
        ...

    def publish(self, episode: FinishedEpisode, report: Mapping[str, Any]) -> None:
        """Make a finished episode part of the dataset.

        Raises:
            OSError, DatasetError: it cannot be written; `load` then finds out what is on disk.
        """
        ...

    def take_last(self, folder: Path) -> None:
        """Take the last episode out of the dataset and put its files into `folder`, which exists.

        Raises:
            OSError, DatasetError: as `publish`.
        """
        ...

    def remember(self) -> None:
        """Note that the files are as they should be, after a change that is not the store's."""
        ...

    def close(self) -> None:
        """Tidy up for readers, such as joining small files; what fails is tried again next time."""
        ...


@dataclass(frozen=True)
class StoreContext:
    """Common inputs of all stores."""

    files: DatasetFiles
    embodiment: Embodiment
    video: VideoSettings
    version: schema.Version
    has_source: bool = False  # whether rows say who commanded

    @property
    def features(self) -> list[str]:
        """Features of the cameras."""
        return [schema.image_feature(key) for key in self.embodiment.video]

    def stage_identity(self) -> dict[str, Path]:
        """Write the embodiment and modality files; return the staged files."""
        return self.files.stage_text(
            schema.EMBODIMENT_FILE, schema.json_text(to_mapping(self.embodiment))
        ) | self.files.stage_text(schema.MODALITY_FILE, schema.json_text(modality_layout(self.embodiment)))

    def stage_info(self, totals: Totals) -> dict[str, Path]:
        """Write `info.json`; return the staged file."""
        counts = (totals.num_episodes, totals.num_frames, len(totals.tasks))
        codec = self.video.codec.value
        info = make_recorded_info(self.embodiment, codec, self.version, *counts, has_source=self.has_source)
        return self.files.stage_text(schema.INFO_FILE, schema.json_text(info))

    def stage_statistics(self, totals: Totals) -> dict[str, Path]:
        """Write `stats.json`; return the staged file."""
        return self.files.stage_text(schema.STATS_FILE, schema.json_text(totals.statistics()))

    def side_names(self, index: int) -> list[str]:
        """Return the names of the sidecar files of an episode."""
        depth = [schema.depth_path(index, key) for key in self.embodiment.depth]
        return [*depth, schema.quality_path(index)]

    def move_aside(self, names: Iterable[str], folder: Path) -> None:
        """Move those of the files that exist into `folder`.

        Raises:
            OSError: one of them cannot be moved.
        """
        for name in names:
            path = self.files.path(name)
            if path.exists():
                os.rename(path, folder / (name.replace("/", "_") + schema.STAGED_SUFFIX))

    def set_aside_unknown(self, known: set[str], *patterns: str) -> None:
        """Move unknown files that match a pattern into the hidden folder, and unfinished episodes too.

        Sidecar files are always checked.

        Raises:
            OSError: one of them cannot be moved.
        """
        for name in self.files.find(*patterns, schema.QUALITY_PATTERN, schema.DEPTH_PATTERN):
            if name not in known:
                self.files.set_aside(name)
        self.set_aside_unfinished()

    def set_aside_unfinished(self) -> None:
        """Move unfinished episodes into the hidden folder.

        Raises:
            OSError: one of them cannot be moved.
        """
        for path in sorted((self.files.root / schema.STAGING).glob("episode_*")):
            path.rename(self.files.ignored_path(path.name))


def read_float_rows(path: Path, first: int = 0, count: int | None = None) -> pa.Table:
    """Read the float columns of `count` rows of a file, starting at row `first`; None: all rows.

    Raises:
        DatasetError: it cannot be read, or has fewer rows.
    """
    table = read_table(path, FLOAT_COLUMNS)
    missing = [name for name in FLOAT_COLUMNS if name not in table.column_names]
    if missing:
        raise DatasetError(f"{path}: no column '{missing[0]}'; restore it from a copy")
    return table if count is None else table.slice(first, count)
