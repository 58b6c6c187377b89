# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Encoded training samples of one or several sources: datasets, each with the transforms of its embodiment.

Samples are numbered through all sources; a number stands for a source, an episode and a row. N1.6 and N1.7 train on
rows that start a full chunk only, as in their release; N1 and N1.5 on all rows. The random numbers of image
augmentation come from (seed, epoch, sample).
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import ConfigError
from gr00t_training.io.cache_folder import CacheFolder, open_frame_cache
from gr00t_training.train.data.decoded_frames import DecodedFrames
from gr00t_training.train.data.frame_cache import FrameCache
from gr00t_training.train.data.language import Texts
from gr00t_training.train.data.mixture import Mixture
from gr00t_training.train.data.order import Position
from gr00t_training.transforms.images import ImageDraw, draw_images
from gr00t_training.transforms.observation import action_targets, observation_from_rows
from gr00t_training.transforms.pipeline import Pipeline
from gr00t_training.transforms.resampling import Size
from gr00t_training.types import Observation


@dataclass(frozen=True)
class Stretch:
    """Contiguous rows of an episode."""

    episode: int  # index in the dataset
    first: int  # row
    count: int  # rows


class Source:
    """The samples of one dataset, numbered from 0 in the order of its stretches."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        pipeline: Pipeline,
        *,
        stretches: Sequence[Stretch] | None = None,
        weight: float | None = None,
        texts: Texts | None = None,
        chosen_by: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Take samples of a dataset.

        Args:
            dataset: to train on.
            pipeline: transforms of its embodiment.
            stretches: rows to train on; None: all.
            weight: share in the run's samples relative to other sources; None: the number of samples.
            texts: instructions to draw from; None: those of the embodiment's annotation.
            chosen_by: settings of the choice, for the checkpoint.
        """
        self.texts = texts
        self.chosen_by = dict(chosen_by)
        self.path = dataset.path
        self.pipeline = pipeline
        self.weight = weight
        self.shortest_episode = (
            pipeline.embodiment.action_horizon if pipeline.inputs.rules.trains_on_whole_chunks else 1
        )
        if stretches is None:
            stretches = [Stretch(episode.index, 0, episode.length) for episode in dataset.episodes]
        # stretches instead of a list of rows: the metadata of a foreign dataset may declare any length
        self.stretches = [self._whole_chunks(stretch, dataset) for stretch in stretches]
        self._ends = list(itertools.accumulate(stretch.count for stretch in self.stretches))
        self._dataset: EpisodeDataset | None = dataset
        self.frames: FrameCache | None = None  # where images come from instead of the videos
        self.decoded: DecodedFrames | None = None  # frames of the videos in memory

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def dataset(self) -> EpisodeDataset:
        """The dataset, open in this process."""
        if self._dataset is None:
            self._dataset = EpisodeDataset(self.path)
        return self._dataset

    def episodes(self) -> list[int]:
        """Return the episodes whose rows are trained on, in order."""
        return sorted({stretch.episode for stretch in self.stretches})

    def part(self, episodes: Iterable[int]) -> Source:
        """Return the samples of some of the episodes; they share the open dataset."""
        wanted, found = set(episodes), copy.copy(self)
        found.stretches = [stretch for stretch in self.stretches if stretch.episode in wanted]
        found._ends = list(itertools.accumulate(stretch.count for stretch in found.stretches))
        found._dataset = self._dataset
        return found

    def step(self, sample: int) -> tuple[int, int]:
        """Return the episode and the row of a sample."""
        place = bisect.bisect_right(self._ends, sample)
        stretch = self.stretches[place]
        return stretch.episode, stretch.first + sample - (self._ends[place - 1] if place else 0)

    def images(self, episode: int, key: str, rows: Sequence[int], segment: Sequence[int] = ()) -> np.ndarray:
        """Return the images of a camera at `rows`, `(T, H, W, 3)` uint8 RGB (`EpisodeDataset.images`).

        `segment` are the rows of the samples that are made soon before and after.
        """
        if self.frames is not None:
            return self.frames.images(self.dataset, episode, key, rows)
        if self.decoded is not None and (segment or self.decoded.keeps_episodes):
            return self.decoded.images(self.dataset, episode, key, rows, segment)
        return self.dataset.images(episode, key, rows)

    def cache_frames(self, cache: CacheFolder) -> None:
        """Read images through a cache from now on.

        Raises:
            ConfigError: the cache has no room.
        """
        pipeline = self.pipeline
        self.frames = FrameCache(cache, self.dataset, self.episodes(), pipeline.embodiment, pipeline.inputs.images)
        pipeline.takes_stored_images = True

    def files(self, sample: int) -> list[Path]:
        """Return the files that a sample is read from."""
        episode, _ = self.step(sample)
        keys = self.pipeline.embodiment.video_keys
        read = [key for key in keys if self.frames is None or not self.frames.holds(episode, key)]
        return [self.dataset.data_file(episode), *(self.dataset.video_span(episode, key).path for key in read)]

    def encode(self, sample: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the tensors of a sample, augmented with `rng`."""
        return self.encode_drawn(sample, draw_images(rng), rng)

    def encode_drawn(
        self,
        sample: int,
        draw: ImageDraw | None,
        rng: np.random.Generator,
        segment: Sequence[int] = (),
        sizes: Sequence[Size] | None = None,
    ) -> dict[str, Tensor]:
        """Return the tensors of a sample.

        Args:
            sample: number in this source.
            draw: random choices for the images; None: they do not change.
            rng: source of the instruction, where there are several, and of the state's dropout.
            segment: samples of its segment, see `StreamOrder`.
            sizes: stored height and width of images that the device scales; None: they are scaled here.
        """
        observation, actions = self.recorded(sample, segment=segment)
        if self.texts:
            # from numbers of its own, so that images and states are the same with and without it
            text = self.texts.draw(self.dataset, *self.step(sample), rng.spawn(1)[0])
            observation = dataclasses.replace(observation, instruction=text)
        if sizes is None:
            images, prompt = self.pipeline.encode_images(observation, draw)
        else:
            images, prompt = self.pipeline.encode_raw_images(observation, draw, sizes)
        return images | self.pipeline.encode_vectors(observation, prompt, actions, rng)

    def stored_sizes(self) -> tuple[Size, ...]:
        """Return height and width of each image of a sample, after `ImageProcessor.stored`."""
        embodiment, processor = self.pipeline.embodiment, self.pipeline.inputs.images
        sizes = [processor.stored_size(*self.dataset.video_size(key)) for key in embodiment.video_keys]
        return (*sizes,) * len(embodiment.video_history)

    def instruction(self, sample: int) -> str:
        """Return the instruction of the row of a sample."""
        return self.dataset.task(*self.step(sample), self.pipeline.embodiment.language)

    def recorded(
        self, sample: int, *, with_images: bool = True, segment: Sequence[int] = ()
    ) -> tuple[Observation, dict[str, np.ndarray]]:
        """Return the observation of a sample and its actions, key -> `(action_horizon, D)` in the robot's units.

        Args:
            sample: number in this source.
            with_images: whether images are read; False: they are empty.
            segment: samples of its segment, see `StreamOrder`.
        """
        episode, row = self.step(sample)
        embodiment = self.pipeline.embodiment
        images = functools.partial(self.images, segment=[row + other - sample for other in segment])
        return (
            observation_from_rows(self.dataset, episode, row, embodiment, images if with_images else _no_images),
            action_targets(self.dataset, episode, row, embodiment),
        )

    def __getstate__(self) -> dict[str, Any]:
        # video decoders stay in the process that opened them; a worker opens its own
        return {**self.__dict__, "_dataset": None}

    def _whole_chunks(self, stretch: Stretch, dataset: EpisodeDataset) -> Stretch:
        """Return the rows of a stretch that start a chunk long enough."""
        end = min(stretch.first + stretch.count, dataset.episode(stretch.episode).length - self.shortest_episode + 1)
        return Stretch(stretch.episode, stretch.first, max(0, end - stretch.first))


@dataclass(frozen=True)
class ImageChanges:
    """Which random changes the images of a run get."""

    are_on: bool = True
    num_views: int = 0  # fixed changes of each image, one per epoch in turn; 0: new ones in every epoch

    @property
    def num_fixed(self) -> int:
        """Number of different images that a run sees of each recorded one; 0: as many as epochs."""
        return self.num_views if self.are_on else 1

    def draw(self, seed: int, position: Position, rng: np.random.Generator) -> ImageDraw | None:
        """Return the choices for the images at a position; None: they do not change.

        Args:
            seed: of the run.
            position: of the sample.
            rng: of the position; what is drawn from it does not depend on the changes.
        """
        drawn, (epoch, sample) = draw_images(rng), position[:2]
        if not self.are_on:
            return None
        if 0 < self.num_views <= epoch:
            return draw_images(np.random.default_rng([seed, epoch % self.num_views, sample]))
        return drawn


class StepDataset(Dataset[dict[str, Tensor]]):
    """Encoded samples of all sources; a position is an epoch of a sample's source and the number of the sample."""

    def __init__(self, sources: Sequence[Source], seed: int, changes: ImageChanges = ImageChanges()) -> None:
        """Take the samples of `sources`.

        Args:
            sources: of the samples.
            seed: of the augmentation.
            changes: of the images.
        """
        self.sources = tuple(sources)
        self.changes = changes
        self.mixture = Mixture([len(source) for source in sources], [source.weight for source in sources])
        self.seed = seed
        self.raw_sizes: Sequence[Size] | None = None  # height and width of images that the device scales

    @property
    def pipeline(self) -> Pipeline:
        """Transforms of the first source; those of all sources make batches of the same form."""
        return self.sources[0].pipeline

    def __len__(self) -> int:
        return sum(self.mixture.sizes)

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        epoch, sample, *segment = position
        source, own = self.place(sample)
        near = range(*(own + other - sample for other in segment)) if segment else ()
        rng = np.random.default_rng([self.seed, epoch, sample])
        return source.encode_drawn(own, self.changes.draw(self.seed, position, rng), rng, near, self.raw_sizes)

    def cache_frames(self, folder: str, limit_gib: float) -> None:
        """Read images through a cache from now on (settings `frame_cache` and `frame_cache_gib`).

        Raises:
            ConfigError: the cache has no room.
            DatasetError: a video is missing.
        """
        cache = open_frame_cache(folder, limit_gib)
        for source in self.sources:
            source.cache_frames(cache)

    def scale_on_device(self) -> Sequence[Size]:
        """Give samples the bytes of their images from now on; return height and width of each image of a sample.

        Raises:
            ConfigError: sources have images of different sizes.
        """
        found = {source.stored_sizes() for source in self.sources}
        if len(found) > 1:
            raise ConfigError(
                f"augment_on_gpu: images of several sizes ({', '.join(map(str, sorted(found)))}); all datasets need "
                "the same, or leave out --augment-on-gpu"
            )
        self.raw_sizes = found.pop()
        return self.raw_sizes

    def place(self, sample: int) -> tuple[Source, int]:
        """Return the source of a sample, and its number there."""
        number = self.mixture.source_of(sample)
        return self.sources[number], sample - self.mixture.starts[number]


def _no_images(episode: int, key: str, rows: Sequence[int]) -> np.ndarray:
    return np.empty((len(rows), 0, 0, 3), np.uint8)
