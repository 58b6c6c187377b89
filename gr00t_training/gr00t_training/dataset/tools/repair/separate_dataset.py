# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A dataset of version 2.0 or 2.1 as a repair finds it: names of files, cameras, and episodes that may be damaged."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.repair.tables import read_object
from gr00t_training.dataset.tools.validate.videos import VideoFacts


@dataclass
class FoundEpisode:
    """One episode as its files are."""

    index: int
    entry: dict[str, Any] | None  # its line of episodes.jsonl
    stats: dict[str, Any] | None  # its line of episodes_stats.jsonl, by feature
    table: pa.Table | None = None  # rows in order; None if they cannot be read or are refused
    videos: dict[str, VideoFacts] = field(default_factory=dict)  # by feature; those that can be read
    is_refused: bool = False

    def is_whole(self, cameras: list[str]) -> bool:
        """Whether rows and all videos can be read and nothing contradicts them."""
        return bool(self.table and self.table.num_rows and not self.is_refused and set(cameras) <= set(self.videos))

    @property
    def length(self) -> int:
        """Number of rows, or what the list says where they are not known."""
        if self.table is not None and not self.is_refused:
            return self.table.num_rows
        length = (self.entry or {}).get("length", 0)
        return length if isinstance(length, int) else 0


@dataclass(frozen=True)
class SeparateDataset:
    """What the parts of a plan share."""

    plan: Plan
    info: dict[str, Any]  # `info.json`, which is completed

    @functools.cached_property
    def cameras(self) -> list[str]:
        """Cameras that the dataset should have files of."""
        modality = read_object(self.plan.root / schema.MODALITY_FILE)
        declared = [name for name, feature in self.info["features"].items() if feature["dtype"] == "video"]
        if self.plan.embodiment is not None or modality is None:
            return declared
        named = {entry.get("original_key") or key for key, entry in modality.get("video", {}).items()}
        return [name for name in declared if name in named]

    def data_file(self, index: int) -> str:
        """Return the name of an episode's rows."""
        return schema.data_path(index, self.info["data_path"], self.info["chunks_size"])

    def video_file(self, index: int, camera: str) -> str:
        """Return the name of an episode's video of a camera."""
        template = self.info.get("video_path") or schema.VIDEO_PATH
        return schema.video_path(index, camera, template, self.info["chunks_size"])

    def known_tasks(self, episode: FoundEpisode) -> list[str]:
        """Return the texts that are known of an episode from its line and its report."""
        quality = read_object(self.plan.root / schema.quality_path(episode.index)) or {}
        for source in (episode.entry or {}, quality):
            texts = source.get("tasks")
            if isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts):
                return list(texts)
        return []
