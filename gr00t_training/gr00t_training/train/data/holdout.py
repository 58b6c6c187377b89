# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which episodes are held out of a run to validate it. The choice depends on seed and sources only.

A share is taken of each task's episodes, and one of them is left to train on. Statistics are those of the whole
dataset.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np

from gr00t_training.dataset.episode_ranges import parse_episodes
from gr00t_training.errors import ConfigError
from gr00t_training.train.data.samples import Source


def hold_out(
    sources: Sequence[Source], *, share: float, episodes: Collection[str], seed: int
) -> tuple[list[Source], list[Source]]:
    """Split sources in those to train on and those to validate on; without share and episodes the second is empty.

    Args:
        sources: of the run.
        share: of each task's episodes of each source; not used with `episodes`.
        episodes: numbers and ranges; of a run with one source.
        seed: of the choice.

    Raises:
        ConfigError: nothing is left to train on, or nothing to validate on.
        DatasetError: no such episodes.
    """
    if episodes and len(sources) > 1:
        raise ConfigError(
            f"validation_episodes name episodes of one dataset, the run has {len(sources)}; pass validation_share"
        )
    if not share and not episodes:
        return list(sources), []
    trained, held_out = [], []
    for number, source in enumerate(sources):
        present = source.episodes()
        chosen = parse_episodes(episodes, present) if episodes else _share(source, share, [seed, number])
        rest = sorted(set(present) - set(chosen))
        _check(source, chosen, rest)
        trained.append(source.part(rest))
        held_out.append(source.part(chosen))
    return trained, held_out


def _check(source: Source, chosen: Sequence[int], rest: Sequence[int]) -> None:
    found = f"{source.path}: {len(chosen) + len(rest)} episodes to train on, {len(chosen)} of them held out"
    if not rest:
        raise ConfigError(f"{found} for validation, none is left; hold out fewer or record more")
    if not len(source.part(chosen)):
        raise ConfigError(
            f"{found} for validation have no rows to validate on (minimum {source.shortest_episode} rows per episode); "
            "hold out longer ones"
        )


def _share(source: Source, share: float, seed: Sequence[int]) -> list[int]:
    """Choose a share of the episodes of each task, random ones."""
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, ...], list[int]] = {}
    with_rows = {stretch.episode for stretch in source.stretches if stretch.count}
    for episode in source.episodes():
        if episode in with_rows:
            groups.setdefault(source.dataset.episode(episode).tasks, []).append(episode)
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in groups.values()]
    total = max(1, round(share * sum(map(len, shuffled))))
    exact = [share * len(group) for group in shuffled]
    # whole parts first, then the largest remainders; one episode of each task is for training
    counts = [min(int(part), len(group) - 1) for part, group in zip(exact, shuffled, strict=True)]
    order = sorted(range(len(shuffled)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in itertools.chain(order, order):
        if sum(counts) < total and counts[i] < len(shuffled[i]) - 1:
            counts[i] += 1
    found = [episode for group, count in zip(shuffled, counts, strict=True) for episode in group[:count]]
    if not found:  # every task has one episode: some are validated only
        found = [shuffled[i][0] for i in rng.permutation(len(shuffled))[:total]]
    return sorted(found)
