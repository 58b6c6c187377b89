# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One episode as the viewers show it: curves, videos and recording quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.metadata.features import channel_names
from gr00t_training.dataset.quality import EpisodeQuality, Marks
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.types import VECTOR_KINDS, KeyRef


@dataclass(frozen=True, eq=False)
class Curves:
    """A key of the state or the action over an episode."""

    key: str  # state.arm
    names: list[str]  # of the channels
    values: np.ndarray  # (N, D) float32, units of the dataset


@dataclass(frozen=True, eq=False)
class EpisodeView:
    """Everything a viewer shows of an episode."""

    index: int
    length: int  # rows
    fps: float
    tasks: list[tuple[int, str]]  # first row and text of each stretch of rows of one task
    curves: list[Curves]
    videos: Mapping[str, Span]  # by camera
    quality: EpisodeQuality | None

    @property
    def marks(self) -> Marks:
        """The operator's marks."""
        return self.quality.marks if self.quality else Marks()

    @property
    def streams(self) -> Mapping[str, Mapping[str, Any]]:
        """Counts of the recorder by stream; empty if there is no quality file."""
        return (self.quality.report.get("streams") or {}) if self.quality else {}


def read_episode(dataset: EpisodeDataset, index: int) -> EpisodeView:
    """Read an episode, except its images.

    Raises:
        DatasetError: no such episode, or its files cannot be read.
    """
    episode = dataset.episode(index)
    curves = [
        Curves(str(ref), _names(dataset, ref), dataset.vectors(ref, index).astype(np.float32))
        for kind in VECTOR_KINDS
        for ref in (KeyRef(kind, key) for key in dataset.modality.vectors(kind))
    ]
    videos = {key: dataset.video_span(index, key) for key in dataset.modality.video}
    return EpisodeView(
        index=index,
        length=episode.length,
        fps=dataset.fps,
        tasks=_stretches([dataset.task(index, row) for row in range(episode.length)]),
        curves=curves,
        videos={key: span for key, span in videos.items() if span.path.exists()},
        quality=dataset.quality(index),
    )


def _names(dataset: EpisodeDataset, ref: KeyRef) -> list[str]:
    part = dataset.slice_of(ref)
    names = channel_names(dataset.features.get(part.column, {}).get("names"))[part.start : part.end]
    return names if len(names) == part.dim else [f"{ref.key}[{channel}]" for channel in range(part.dim)]


def _stretches(texts: list[str]) -> list[tuple[int, str]]:
    return [(row, text) for row, text in enumerate(texts) if row == 0 or text != texts[row - 1]]
