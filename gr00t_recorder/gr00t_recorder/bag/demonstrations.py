# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a bag in memory, to compare with: the rows that the conversion writes, without their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gr00t_recorder.bag.convert import BagConversion, ConversionSettings
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame


@dataclass
class RecordedEpisode:
    """Rows of one episode."""

    task: str
    frames: list[Frame] = field(default_factory=list)  # without images


def read_demonstrations(bag: Bag, topic_map: TopicMap, embodiment: Embodiment, task: str = "") -> list[RecordedEpisode]:
    """Return the episodes of a bag; of a damaged one what can be read.

    Args:
        bag: open.
        topic_map: of the bag, with actions.
        embodiment: of the topic map.
        task: of episodes for which the bag has none.

    Raises:
        ConfigError: the topic map does not fit the bag's message types.
        DatasetError: a topic is missing, an episode has no task, or the bag cannot be read.
    """
    kept = _Episodes()
    settings = ConversionSettings(tasks=(task,) if task else (), allow_partial=True)
    conversion = BagConversion(bag, topic_map, embodiment, kept, settings)
    if not all(text.strip() for text in conversion.task_texts()):
        raise DatasetError(f"{bag.path}: an episode has no task text; pass --instruction")
    conversion.run()
    return kept.episodes


class _Episodes:
    """Keeps finished episodes, with the interface of a dataset."""

    def __init__(self) -> None:
        self.episodes: list[RecordedEpisode] = []

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    def start_episode(self, task: str) -> _Sink:
        return _Sink(self, task)


class _Sink:
    """One episode."""

    def __init__(self, kept: _Episodes, task: str) -> None:
        self.index = kept.num_episodes
        self.is_open = True
        self._kept = kept
        self._episode = RecordedEpisode(task)

    @property
    def num_frames(self) -> int:
        return len(self._episode.frames)

    def add_frame(self, frame: Frame) -> None:
        self._episode.frames.append(dataclasses.replace(frame, images={}, depth={}))

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        self.is_open = False
        self._kept.episodes.append(self._episode)
        return self.index

    def discard(self) -> None:
        self.is_open = False
