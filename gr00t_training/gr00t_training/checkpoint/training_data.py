# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets and episodes that a checkpoint was trained on, to continue its run, and to warn in an evaluation.

An episode is identified by a digest of its actions, which does not change when a dataset is moved, split, merged or
converted.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.files import TRAINING_DATA_FILE, place, read_json_if_there
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import CheckpointError

_DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class TrainedSource:
    """One dataset of the last training, at that time."""

    path: str
    tag: str  # of its embodiment
    episodes: str  # ranges, as `parse_episodes` reads them
    num_samples: int
    share: float  # of the samples of the run
    rows_digest: str  # of the numbers of its episodes and rows
    data_digest: str  # of the actions of its episodes
    settings: Mapping[str, Any]  # how it was chosen, plain JSON values

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainingData:
    """Data that a checkpoint was trained on, including earlier fine-tuning."""

    path: str  # first dataset of the last training, at that time
    episodes: Sequence[str]  # digests
    sources: Sequence[TrainedSource] = ()  # of the last training; none: an older checkpoint

    def to_mapping(self) -> dict[str, object]:
        """Return plain JSON values; `read_training_data` reads them back."""
        sources = [source.to_mapping() for source in self.sources]
        return {"path": self.path, "episodes": list(self.episodes), "sources": sources}

    def known_episodes(self, dataset: EpisodeDataset, episodes: Sequence[int], keys: Sequence[str]) -> list[int]:
        """Return those of `episodes` that were trained on; `keys`: of the action, in order."""
        known = set(self.episodes)
        return [episode for episode in episodes if episode_digest(dataset, episode, keys) in known]


def training_data(
    digests: Sequence[str], sources: Sequence[TrainedSource], before: TrainingData | None
) -> TrainingData:
    """Describe a training.

    Args:
        digests: of its episodes.
        sources: its datasets.
        before: of the checkpoint that training starts from.
    """
    earlier = [digest for digest in before.episodes if digest not in set(digests)] if before else []
    return TrainingData(sources[0].path, [*earlier, *digests], sources)


def joined_digest(parts: Iterable[str]) -> str:
    """Return a digest of texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGEST_CHARACTERS]


def episode_digest(dataset: EpisodeDataset, episode: int, keys: Sequence[str]) -> str:
    """Return a digest of the recorded actions of one episode, of the model's keys in its order."""
    digest = hashlib.sha256()
    for key in keys:
        digest.update(dataset.action(episode, key).astype("<f4").tobytes())
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def read_training_data(folder: Path) -> TrainingData | None:
    """Return the training data of a checkpoint; None if it is not stored (published checkpoints).

    Raises:
        CheckpointError: the file is damaged.
    """
    file = place(folder, TRAINING_DATA_FILE)
    content = read_json_if_there(file)
    if content is None:
        return None
    path, episodes = content.get("path"), content.get("episodes")
    if not isinstance(path, str) or not isinstance(episodes, list) or not all(isinstance(e, str) for e in episodes):
        raise CheckpointError(f"{file}: no path or episodes; the checkpoint is damaged")
    sources = content.get("sources", [])
    if not isinstance(sources, list):
        raise CheckpointError(f"{file}: sources is not a list; the checkpoint is damaged")
    return TrainingData(path, episodes, [_source(entry, f"{file}: sources[{i}]") for i, entry in enumerate(sources)])


def _source(entry: Any, subject: str) -> TrainedSource:
    hints = {"num_samples": int, "share": float, "settings": dict}
    for name in (field.name for field in dataclasses.fields(TrainedSource)):
        if not isinstance(entry, dict) or not isinstance(entry.get(name), hints.get(name, str)):
            raise CheckpointError(f"{subject} has no {name}; the checkpoint is damaged")
    return TrainedSource(**{field.name: entry[field.name] for field in dataclasses.fields(TrainedSource)})
