# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""How finished episodes are kept, whatever the version; `store_v2` and `store_v3` do it.

A store owns everything of a dataset that readers see. It reads back what is there, sets aside what no metadata knows,
and adds or takes away the last episode by one rename that decides: what comes before it does no harm if it never comes,
what comes after it is made up for when the dataset is next opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.files import DatasetFiles
from gr00t_training.dataset.staging import StagedEpisode
from gr00t_training.dataset.totals import FLOAT_COLUMNS, Totals
from gr00t_training.dataset.video import VideoSettings
from gr00t_training.embodiment import Embodiment, modality_layout, to_mapping
from gr00t_training.errors import DatasetError


class Store(Protocol):
    """The finished episodes of a dataset that is open for writing."""

    totals: Totals

    def load(self) -> None:
        """Read what is there and make all files agree.

        Raises:
            DatasetError: damaged.
            OSError: something cannot be written.
        """
        ...

    def publish(self, staged: StagedEpisode, report: Mapping[str, Any]) -> None:
        """Make a staged episode part of the dataset.

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

    def close(self) -> None:
        """Leave the dataset as readers like it best; what cannot be done is left for the next time."""
        ...


@dataclass(frozen=True)
class StoreContext:
    """What every store works with."""

    files: DatasetFiles
    embodiment: Embodiment
    video: VideoSettings
    version: schema.Version

    @property
    def features(self) -> list[str]:
        """Cameras, as features."""
        return [schema.image_feature(key) for key in self.embodiment.video]

    def stage_identity(self) -> dict[str, Path]:
        """Build the files that say what the dataset is of; return what there is to move."""
        return self.files.stage_text(
            schema.EMBODIMENT_FILE, schema.json_text(to_mapping(self.embodiment))
        ) | self.files.stage_text(schema.MODALITY_FILE, schema.json_text(modality_layout(self.embodiment)))

    def stage_info(self, totals: Totals) -> dict[str, Path]:
        """Build `info.json`; return what there is to move."""
        info = schema.make_info(
            self.embodiment,
            self.video.codec.value,
            totals.num_episodes,
            totals.num_frames,
            len(totals.tasks),
            self.version,
        )
        return self.files.stage_text(schema.INFO_FILE, schema.json_text(info))

    def stage_statistics(self, totals: Totals) -> dict[str, Path]:
        """Build `stats.json`; return what there is to move."""
        return self.files.stage_text(schema.STATS_FILE, schema.json_text(totals.statistics()))

    def side_names(self, index: int) -> list[str]:
        """Return the names of what is kept of an episode beside the dataset."""
        depth = [schema.depth_path(index, key) for key in self.embodiment.depth]
        return [*depth, schema.quality_path(index)]

    def move_aside(self, names: Iterable[str], folder: Path) -> None:
        """Move those of the files that exist into `folder`.

        Raises:
            OSError: one of them cannot be moved.
        """
        for name in names:
            if (self.files.root / name).exists():
                os.rename(self.files.root / name, folder / (name.replace("/", "_") + schema.STAGED_SUFFIX))

    def set_aside_unknown(self, known: set[str], *patterns: str) -> None:
        """Move files that fit a pattern and that no metadata knows out of sight, and what was being recorded too.

        Files beside the dataset are looked at in any case.

        Raises:
            OSError: one of them cannot be moved.
        """
        for name in self.files.find(*patterns, schema.QUALITY_PATTERN, schema.DEPTH_PATTERN):
            if name not in known:
                self.files.set_aside(name)
        for path in sorted((self.files.root / schema.STAGING).glob("episode_*")):
            path.rename(self.files.ignored_path(path.name))


def read_float_rows(path: Path, first: int = 0, count: int | None = None) -> pa.Table:
    """Read the float columns of `count` rows of a file from row `first` on; None: of all.

    Raises:
        DatasetError: it cannot be read, or has fewer rows.
    """
    try:
        table = pq.ParquetFile(path).read(columns=list(FLOAT_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error
    return table if count is None else table.slice(first, count)
