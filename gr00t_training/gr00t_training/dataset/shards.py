# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which samples N1.6 and N1.7 train on, in which order: steps are dealt into shards, shards drawn from datasets.

A shard is what is loaded at once; steps of one episode are spread over several, so that a shard holds many episodes.
All draws are of numpy's default generator in the release's order, so that equal seeds give equal orders on every host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gr00t_training.errors import DatasetError

Shard = list[tuple[int, np.ndarray]]  # position of an episode, its steps (n,) in the order they were dealt


def make_shards(
    lengths: Sequence[int], *, horizon: int, shard_size: int, episode_sampling_rate: float, seed: int
) -> list[Shard]:
    """Deal the steps at which a whole action chunk starts into shards of about equal size.

    Args:
        lengths: rows of each episode.
        horizon: steps of an action chunk; shorter episodes contribute nothing.
        shard_size: samples that a shard should hold at most, on average.
        episode_sampling_rate: share of an episode's steps that goes into one shard, in (0, 1].
        seed: of the order.

    Raises:
        DatasetError: no episode is as long as a chunk.
    """
    num_steps = [max(0, length - horizon + 1) for length in lengths]
    if not sum(num_steps):
        longest = max(lengths, default=0)
        raise DatasetError(f"no episode has the {horizon} rows of an action chunk, the longest has {longest}")
    rng = np.random.default_rng(seed)
    num_slices = int(1 / episode_sampling_rate)
    slices: Shard = []
    for episode in rng.permutation(len(lengths)).tolist():
        steps = rng.permutation(num_steps[episode])
        slices += [(episode, steps[start::num_slices]) for start in range(num_slices)]
    shards: list[Shard] = [[] for _ in range(min(math.ceil(sum(num_steps) / shard_size), len(slices)))]
    sizes = np.zeros(len(shards), np.int64)
    for episode, steps in slices:
        smallest = int(np.argmin(sizes))  # the first of equal ones
        sizes[smallest] += len(steps)
        if len(steps):
            shards[smallest].append((episode, steps))
    return shards


def shard_schedule(
    shard_sizes: Sequence[Sequence[int]], weights: Sequence[float], *, num_draws: int, seed: int, epoch: int
) -> list[tuple[int, int]]:
    """Draw the shards of one epoch from a mixture of datasets.

    A dataset's shards follow each other in random order until all had their turn, then again in another order.

    Args:
        shard_sizes: samples of each shard, per dataset.
        weights: share of each dataset among the samples; they add up to anything.
        num_draws: shards of the epoch.
        seed: of the run.
        epoch: number of the epoch, from 0.

    Returns:
        Position of the dataset and of the shard in it, per draw.
    """
    rng = np.random.default_rng(seed + epoch)
    odds = np.asarray(weights, np.float64) / [np.mean(sizes) for sizes in shard_sizes]  # of shards, not of samples
    datasets = rng.choice(len(shard_sizes), num_draws, p=odds / odds.sum()).tolist()
    waiting = [rng.permutation(len(sizes)).tolist() for sizes in shard_sizes]
    schedule = []
    for dataset in datasets:
        if not waiting[dataset]:
            waiting[dataset] = rng.permutation(len(shard_sizes[dataset])).tolist()
        schedule.append((dataset, waiting[dataset].pop(0)))
    return schedule


def part_of_worker(
    schedule: Sequence[tuple[int, int]], *, rank: int, num_ranks: int, worker: int, num_workers: int
) -> Sequence[tuple[int, int]]:
    """Return the draws that one worker of one rank loads."""
    return schedule[rank * num_workers + worker :: num_ranks * num_workers]
