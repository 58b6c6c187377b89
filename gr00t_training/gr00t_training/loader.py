# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Training batches from a dataset: every (episode, row) once an epoch, in an order that only seed and epoch decide.

N1.6 and N1.7 learn from rows that begin a whole chunk only, as in their release; N1 and N1.5 from all rows.

Batches follow each other across the ends of epochs, so that all are full and the n-th batch of a run is the same
whenever and with however many workers it is made. Image augmentation is drawn from (seed, epoch, sample).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.relative_stats import relative_action_statistics
from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment, Interpolation, ModelKeys, VectorKey, differences
from gr00t_training.errors import DatasetError
from gr00t_training.observation import action_targets, observation_from_rows
from gr00t_training.transforms.pipeline import Pipeline, Statistics

Position = tuple[int, int]  # epoch, sample


class StepDataset(Dataset[dict[str, Tensor]]):
    """Encoded samples of a dataset; a position says which, and in which epoch."""

    def __init__(self, dataset: LeRobotDataset, pipeline: Pipeline, seed: int) -> None:
        """Take the samples of `dataset`; augmentation is drawn from `seed`."""
        self._path = dataset.path
        self.pipeline = pipeline
        self._seed = seed
        self.shortest_episode = pipeline.embodiment.action_horizon if pipeline.inputs.options else 1  # rows
        self._steps = [
            (episode.index, row)
            for episode in dataset.episodes
            for row in range(episode.length - self.shortest_episode + 1)
        ]
        self._dataset: LeRobotDataset | None = dataset

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        epoch, sample = position
        if self._dataset is None:
            self._dataset = LeRobotDataset(self._path)
        episode, row = self._steps[sample]
        embodiment = self.pipeline.embodiment
        return self.pipeline.encode(
            observation_from_rows(self._dataset, episode, row, embodiment),
            action_targets(self._dataset, episode, row, embodiment),
            np.random.default_rng([self._seed, epoch, sample]),
            training=True,
        )

    def __getstate__(self) -> dict[str, Any]:
        # video decoders stay in the process that opened them; a worker opens its own
        return {**self.__dict__, "_dataset": None}


class BatchOrder(Sampler[list[Position]]):
    """The positions of batches `start` to `stop` of an endless run."""

    def __init__(self, num_samples: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        super().__init__()
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._seed = seed
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, order = -1, np.empty(0, np.int64)
        for batch in range(self._start, self._stop):
            positions = []
            for count in range(batch * self._batch_size, (batch + 1) * self._batch_size):
                if count // self._num_samples != epoch:
                    epoch = count // self._num_samples
                    order = shuffled(self._num_samples, self._seed + epoch)
                positions.append((epoch, int(order[count % self._num_samples])))
            yield positions


def shuffled(num_samples: int, seed: int) -> np.ndarray:
    """Return the numbers below `num_samples` in a random order."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed)).numpy()


def make_loader(
    samples: StepDataset, *, batch_size: int, seed: int, start: int, stop: int, num_workers: int
) -> DataLoader[dict[str, Tensor]]:
    """Return an iterable of the batches `start` to `stop` of a run.

    Raises:
        DatasetError: the dataset has no rows, or all episodes are shorter than a chunk.
    """
    if not len(samples):
        raise DatasetError(
            f"the dataset has no rows to learn from; record episodes of {samples.shortest_episode} rows or more first"
        )
    return DataLoader(
        samples,
        batch_sampler=BatchOrder(len(samples), batch_size, seed, start, stop),
        num_workers=num_workers,
        collate_fn=samples.pipeline.collate,
        # else every start of the loader would draw from the generator that noise and dropout use
        generator=torch.Generator(),
        # a forked worker would share file positions with its parent's decoders
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
    )


def dataset_statistics(dataset: LeRobotDataset, embodiment: Embodiment) -> Statistics:
    """Return the statistics of every key of the embodiment that the dataset has, with those of relative actions.

    Raises:
        DatasetError: see `relative_action_statistics`.
    """
    statistics: dict[str, dict[str, KeyStatistics]] = {
        kind: {key: dataset.statistics(kind, key) for key in getattr(embodiment, kind) if key in declared}
        for kind, declared in (("state", dataset.modality.state), ("action", dataset.modality.action))
    }
    if any(key.relative_to is not None for key in embodiment.action.values()):
        statistics["relative_action"] = relative_action_statistics(dataset, embodiment)
    return statistics


def mismatches(dataset: LeRobotDataset, embodiment: Embodiment) -> list[str]:
    """List what keeps an embodiment from training on a dataset, one item with both values per entry.

    Normalisation, horizon, history, relative actions and choice of keys are the trainer's to decide and may differ from
    the recorder's.
    """
    if dataset.embodiment is not None:
        return differences(_as_recorded(dataset.embodiment), _as_recorded(embodiment))
    items = [] if dataset.fps == embodiment.fps else [f"fps: found {dataset.fps}, expected {embodiment.fps}"]
    for kind, keys in (("state", embodiment.state_keys), ("action", embodiment.action_keys)):
        for key in keys:
            items += _vector_mismatches(dataset, kind, key, getattr(embodiment, kind)[key])
    for key in embodiment.video_keys:
        expected = (embodiment.video[key].height, embodiment.video[key].width)
        if key not in dataset.modality.video:
            items.append(f"video.{key}: not in the dataset ({', '.join(dataset.modality.video)})")
        elif not embodiment.video[key].is_any_size and dataset.video_size(key) != expected:
            items.append(f"video.{key}: found height and width {dataset.video_size(key)}, expected {expected}")
    if not dataset.has_language(embodiment.language):
        items.append(f"language: found {', '.join(dataset.modality.annotation)}, expected {embodiment.language}")
    return items


def check_match(dataset: LeRobotDataset, embodiment: Embodiment) -> None:
    """Refuse a dataset that the embodiment cannot be trained on.

    Raises:
        DatasetError: names each item.
    """
    items = mismatches(dataset, embodiment)
    if items:
        raise DatasetError(
            f"{dataset.path}: does not fit embodiment '{embodiment.name}' (found: the dataset's, expected: the "
            f"embodiment's): {'; '.join(items)}"
        )


def _vector_mismatches(dataset: LeRobotDataset, kind: str, key: str, vector: VectorKey) -> list[str]:
    declared = getattr(dataset.modality, kind)
    if key not in declared:
        return [f"{kind}.{key}: not in the dataset ({', '.join(declared)})"]
    part = dataset.slice_of(kind, key)
    names = dataset.features.get(part.column, {}).get("names")
    items = []
    if part.dim != vector.dim:
        items.append(f"{kind}.{key}: found {part.dim} channels, expected {vector.dim}")
    elif isinstance(names, list) and all(isinstance(name, str) for name in names):
        found = names[part.start : part.end]
        if found != list(vector.names):
            items.append(f"{kind}.{key}.names: found [{', '.join(found)}], expected [{', '.join(vector.names)}]")
    if part.is_absolute != vector.is_absolute:
        items.append(f"{kind}.{key}.is_absolute: found {part.is_absolute}, expected {vector.is_absolute}")
    if part.rotation and part.rotation != (vector.rotation.value if vector.rotation else None):
        items.append(f"{kind}.{key}.rotation: found {part.rotation}, expected {vector.rotation}")
    return items


def _as_recorded(embodiment: Embodiment) -> Embodiment:
    """Return the embodiment without what only matters to the model."""

    def bare(keys: Any) -> dict[str, VectorKey]:
        return {
            name: dataclasses.replace(
                key,
                normalization=None,
                target_rotation=None,
                interpolation=Interpolation.LINEAR,
                relative_to=None,
                pose=None,
            )
            for name, key in keys.items()
        }

    return dataclasses.replace(
        embodiment,
        name="",
        tag="",
        robot_type="",
        action_horizon=1,
        video_history=(0,),
        state_history=(0,),
        model=ModelKeys(),
        state=bare(embodiment.state),
        action=bare(embodiment.action),
    )
