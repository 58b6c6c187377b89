# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One episode as it is shown: curves, videos and where every row came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.dataset.edit.features import channel_names
from gr00t_training.dataset.places import Span
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.trace import Marks, Trace


@dataclass(frozen=True, eq=False)
class Curves:
    """A key of the state or the action over an episode."""

    key: str  # state.arm
    names: list[str]  # of the channels
    values: np.ndarray  # (N, D) float32, units of the dataset


@dataclass(frozen=True, eq=False)
class EpisodeView:
    """What there is to show of an episode."""

    index: int
    length: int  # rows
    fps: float
    tasks: list[tuple[int, str]]  # first row and text of each stretch of rows of one task
    curves: list[Curves]
    videos: Mapping[str, Span]  # by camera
    trace: Trace | None

    @property
    def marks(self) -> Marks:
        """What the operator said."""
        return self.trace.marks if self.trace else Marks()

    @property
    def streams(self) -> Mapping[str, Mapping[str, Any]]:
        """What the recorder counted, by stream; empty where nothing was kept."""
        return self.trace.report.get("streams", {}) if self.trace else {}


def read_episode(dataset: LeRobotDataset, index: int) -> EpisodeView:
    """Read an episode; images are left where they are.

    Raises:
        DatasetError: no such episode, or its files cannot be read.
    """
    episode = dataset.episode(index)
    curves = [
        Curves(f"{kind}.{key}", _names(dataset, kind, key), dataset.vectors(kind, index, key).astype(np.float32))
        for kind, keys in (("state", dataset.modality.state), ("action", dataset.modality.action))
        for key in keys
    ]
    videos = {key: dataset.video_span(index, key) for key in dataset.modality.video}
    return EpisodeView(
        index=index,
        length=episode.length,
        fps=dataset.fps,
        tasks=_stretches([dataset.task(index, row) for row in range(episode.length)]),
        curves=curves,
        videos={key: span for key, span in videos.items() if span.path.exists()},
        trace=dataset.trace(index),
    )


def _names(dataset: LeRobotDataset, kind: str, key: str) -> list[str]:
    part = dataset.slice_of(kind, key)
    names = channel_names(dataset.features.get(part.column, {}).get("names"))[part.start : part.end]
    return names if len(names) == part.dim else [f"{key}[{channel}]" for channel in range(part.dim)]


def _stretches(texts: list[str]) -> list[tuple[int, str]]:
    return [(row, text) for row, text in enumerate(texts) if row == 0 or text != texts[row - 1]]
