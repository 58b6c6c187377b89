# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The order of samples in a run: every one once per epoch of its source, in an order given by seed and epoch.

Batches continue across the ends of epochs, so all are full. The n-th batch of a run is always the same, also after a
resume and with another number of workers.

A true permutation is best for training, but each sample of a video with distant key frames then costs the decoding
from the last key frame. `StreamOrder` mixes segments of episodes instead: batch n is of lane n % lanes, which is one
worker's where the number of workers divides that of lanes, and a batch consists of the same number of samples from each
sub-stream of its lane. A sub-stream goes through random segments and shuffles the samples of every few of them, so a
worker decodes a segment once and keeps it until its samples are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

from gr00t_training.train.data.mixture import Mixture

Position = tuple[int, ...]  # epoch of the sample's source, sample; in streams also first and end of its segment
EpochOrder = Callable[[int], np.ndarray]  # epoch -> `(N,)` samples, or `(N, 3)` samples with first and end of segment

LANES = 48  # at most; divisible by most numbers of workers
LEAST_BATCHES = 8  # of a lane in an epoch: in fewer, the samples of a segment would be in one batch
SUB_STREAMS = 8  # of a lane, if they divide the batch; processes of a run that is shared take some of them each
LONGEST_SEGMENT, SHORTEST_SEGMENT = 32, 8  # samples: on average half the distance of key frames is decoded in addition
SEGMENTS = 64  # that the samples of a batch come from, at most: two samples of a batch rarely share a segment


@dataclass(frozen=True)
class StreamShape:
    """How streams are cut and mixed."""

    lanes: int
    segment: int  # samples
    segments: int  # of a lane that are shuffled at a time

    @staticmethod
    def within(num_rows: int, num_samples: int, batch_size: int) -> StreamShape:
        """Return the shape for a source of `num_samples` whose lanes keep about `num_rows` decoded rows in all."""
        batches = num_samples // batch_size
        lanes = next((lanes for lanes in (LANES, 24, 12, 6, 3) if batches >= LEAST_BATCHES * lanes), 1)
        per_lane = num_rows // lanes
        # a sub-stream needs a few segments in an epoch, else its samples in a batch are neighbors
        segment = min(LONGEST_SEGMENT, per_lane // 32, num_samples // (lanes * SUB_STREAMS * 4))
        segment = max(SHORTEST_SEGMENT, segment)
        mixed = 2 * per_lane // segment  # half of a segment is used, on average
        return StreamShape(lanes, segment, min(SEGMENTS, max(1, mixed)))


class BatchOrder(Sampler[list[Position]]):
    """The positions of batches `start` to `stop` of an endless run."""

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        orders: Sequence[EpochOrder | None] = (),
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Prepare.

        Args:
            mixture: of the sources.
            batch_size: samples of a batch, of all processes together.
            seed: of the run.
            start: number of the first batch.
            stop: number behind the last batch.
            orders: those of the sources in an epoch; None or nothing: true permutations.
            rank: number of this process; it gets its contiguous part of each batch.
            num_processes: of the run.
        """
        super().__init__()
        self._part = slice(rank * batch_size // num_processes, (rank + 1) * batch_size // num_processes)
        self._mixture = mixture
        self._batch_size = batch_size
        self._start = start
        self._stop = stop
        given = [*orders, *[None] * (len(mixture.sizes) - len(orders))]
        self._orders = [
            order or FullOrder(size, seed, source)
            for source, (order, size) in enumerate(zip(given, mixture.sizes, strict=True))
        ]

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[Position]]:
        epochs = [-1] * len(self._orders)
        orders = [np.empty(0, np.int64)] * len(epochs)
        for batch in range(self._start, self._stop):
            positions = []
            for count in range(batch * self._batch_size, (batch + 1) * self._batch_size):
                source, draw = self._mixture.draw(count)
                epoch, place = divmod(draw, self._mixture.sizes[source])
                if epoch != epochs[source]:
                    epochs[source] = epoch
                    orders[source] = self._mixture.starts[source] + self._orders[source](epoch)
                positions.append((epoch, *np.atleast_1d(orders[source][place]).tolist()))
            yield positions[self._part]


class FullOrder:
    """A random permutation of a source's samples in each epoch."""

    def __init__(self, num_samples: int, seed: int, source: int) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._source = source

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch, `(N,)`."""
        return shuffled(self._num_samples, order_seed(self._seed, self._source, epoch))


class StreamOrder:
    """An order of a source's samples in which those of a segment come from one lane soon after each other."""

    def __init__(
        self, mixture: Mixture, source: int, lengths: Sequence[int], batch_size: int, seed: int, shape: StreamShape
    ) -> None:
        """Prepare.

        Args:
            mixture: which draws are the source's.
            source: number of the source.
            lengths: samples of each contiguous part of the source, in the order of their numbers.
            batch_size: samples of a batch.
            seed: of the run.
            shape: of the streams.
        """
        self._mixture = mixture
        self._source = source
        self._lengths = np.asarray(lengths, np.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._lanes = shape.lanes
        self._segment = shape.segment
        self._sub_streams = next(n for n in (SUB_STREAMS, 4, 2, 1) if batch_size % n == 0)
        self._block = max(1, shape.segments // self._sub_streams) * shape.segment

    @property
    def size(self) -> tuple[int, int]:
        """Number of sub-streams, and samples of a segment."""
        return self._lanes * self._sub_streams, self._segment

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch, `(N, 3)`: sample, first sample of its segment, sample behind its segment."""
        rng = np.random.default_rng([self._seed, self._source, epoch])
        samples, segment = self._segments(rng)
        count = len(samples)
        stream = self._stream_of_draws(epoch)
        draws = np.argsort(stream, kind="stable")  # sub-stream after sub-stream
        owner = stream[draws]
        # a sub-stream takes the next samples; a segment may end in another one
        starts = np.flatnonzero((np.diff(segment, prepend=-1) != 0) | (np.diff(owner, prepend=-1) != 0))
        sizes = np.diff(starts, append=count)
        first = np.repeat(samples[starts], sizes)
        mixed = np.lexsort((rng.random(count), self._blocks(np.bincount(owner), rng), owner))
        order = np.empty((count, 3), np.int64)
        order[draws] = np.stack([samples, first, first + np.repeat(sizes, sizes)], 1)[mixed]
        return order

    def _segments(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return all samples, segment after segment in random order, and the number of each sample's segment."""
        length = self._segment
        phase = int(rng.integers(length))  # other cuts in every epoch
        counts = -(-(self._lengths + phase) // length)
        counts[self._lengths == 0] = 0
        part = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = np.cumsum(self._lengths) - self._lengths
        first = start[part] + np.maximum(number * length - phase, 0)
        size = start[part] + np.minimum((number + 1) * length - phase, self._lengths[part]) - first
        order = rng.permutation(len(first))
        first, size = first[order], size[order]
        offset = np.repeat(np.cumsum(size) - size, size)
        samples = np.repeat(first, size) + np.arange(len(offset)) - offset
        return samples, np.repeat(np.arange(len(first)), size)

    def _blocks(self, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the block of each sample of sub-streams with so many samples; those of a block are shuffled.

        Sub-streams start their blocks at different times: what is decoded for a block is used up at its end.
        """
        blocks = np.maximum(1, np.rint(counts / self._block))
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        shift = rng.random(len(counts)) - 0.5
        number = np.floor(place / np.repeat(counts / blocks, counts) + np.repeat(shift, counts))
        return np.clip(number, 0, np.repeat(blocks, counts) - 1)

    def _stream_of_draws(self, epoch: int) -> np.ndarray:
        """Return the sub-stream of each draw of an epoch."""
        slots = self._mixture.slots(self._source, epoch)
        batch, place = np.divmod(slots, self._batch_size)
        # of another lane than the next number's: a segment that ends in the next sub-stream is not twice in a batch
        return place // (self._batch_size // self._sub_streams) * self._lanes + batch % self._lanes


def order_seed(seed: int, source: int, epoch: int) -> int:
    """Return the seed of the order of a source in an epoch; sources of one size must not go in step."""
    if source == 0:
        return seed + epoch
    return int(np.random.SeedSequence([seed, source, epoch]).generate_state(1)[0])  # torch uses 32 bits


def shuffled(num_samples: int, seed: int) -> np.ndarray:
    """Return the numbers below `num_samples` in a random order."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed)).numpy()
