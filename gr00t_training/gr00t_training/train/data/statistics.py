# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics that states and actions of a run are scaled by: those of its data, merged where datasets share a robot.

Where all episodes of a dataset are trained on, they are those that it stores; of some episodes they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gr00t_training.checkpoint.fit import RELATIVE_ACTION, statistics_of
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.compute import KeyStatistics, compute_statistics, merge_statistics
from gr00t_training.dataset.statistics.relative import relative_statistics_of
from gr00t_training.embodiment import Embodiment, Normalization
from gr00t_training.errors import DatasetError
from gr00t_training.train.data.fit import dataset_statistics
from gr00t_training.train.data.selection import Selection
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.types import VECTOR_KINDS, KeyRef


def selected_statistics(selections: Sequence[Selection]) -> Statistics:
    """Return the statistics of the chosen episodes of datasets of one embodiment, merged by count.

    Raises:
        DatasetError: rows cannot be read or are not finite, or no episode is as long as a chunk of relative actions.
    """
    parts, counts, chunks = [], [], []
    for selection in selections:
        dataset, embodiment, episodes = selection.dataset, selection.embodiment, selection.episodes
        is_whole = len(episodes) == len(dataset.episodes)
        parts.append(
            dataset_statistics(dataset, embodiment)
            if is_whole
            else statistics_of_episodes(dataset, embodiment, episodes)
        )
        lengths = [dataset.episode(episode).length for episode in episodes]
        counts.append(sum(lengths))
        chunks.append(sum(max(0, length - embodiment.action_horizon + 1) for length in lengths))
    return merged_statistics(parts, counts, chunks)


def statistics_of_episodes(dataset: EpisodeDataset, embodiment: Embodiment, episodes: Sequence[int]) -> Statistics:
    """Return the statistics as `dataset_statistics` does, over some episodes; computed from their rows.

    Raises:
        DatasetError: rows cannot be read or are not finite, or no episode is as long as a chunk of relative actions.
    """
    statistics: dict[str, dict[str, KeyStatistics]] = {
        kind.value: {
            key: _of_rows(dataset, KeyRef(kind, key), episodes)
            for key in embodiment.vectors(kind)
            if key in dataset.modality.vectors(kind)
        }
        for kind in VECTOR_KINDS
    }
    relative = {name: key for name, key in embodiment.action.items() if key.relative_to is not None}
    if relative:
        statistics[RELATIVE_ACTION] = {
            name: relative_statistics_of(dataset, episodes, name, key, embodiment.action_horizon)
            for name, key in relative.items()
            if name in dataset.modality.action
        }
    return statistics


def merged_statistics(parts: Sequence[Statistics], counts: Sequence[int], chunks: Sequence[int]) -> Statistics:
    """Merge the statistics of several datasets of one embodiment (`merge_statistics`).

    Args:
        parts: of each dataset, with the same keys.
        counts: rows of each.
        chunks: whole action chunks of each, which count for relative actions.
    """
    return {
        kind: {
            key: merge_statistics([part[kind][key] for part in parts], chunks if kind == RELATIVE_ACTION else counts)
            for key in parts[0][kind]
            if all(key in part[kind] for part in parts)
        }
        for kind in parts[0]
    }


def moved_channels(embodiment: Embodiment, found: Statistics, base: Statistics, factor: float) -> list[str]:
    """List channels whose range differs from that of a base checkpoint, one item with both ranges per entry.

    A model keeps what it knows about a channel in units of its range. An item is a channel that goes beyond `factor`
    times the base's range, or covers less than a `factor`th of it.
    """
    items = []
    for ref, vector in embodiment.used_vectors():
        part = statistics_of(ref, vector)
        now, before = (_range(kinds.get(part, {}).get(ref.key), vector.normalization) for kinds in (found, base))
        if now is None or before is None or now[0].shape != before[0].shape:
            continue
        (low, high), (base_low, base_high) = now, before
        middle, half = (base_low + base_high) / 2, (base_high - base_low) / 2
        reach = np.maximum(np.abs(low - middle), np.abs(high - middle))
        is_moved = (reach > factor * half) | ((high - low) / 2 * factor < half)
        items += [
            f"{ref}.{vector.names[i]} ({base_low[i]:.3g} to {base_high[i]:.3g} -> {low[i]:.3g} to {high[i]:.3g})"
            for i in np.flatnonzero(is_moved)
        ]
    return items


def _range(statistics: KeyStatistics | None, mode: Normalization | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the ends of the range that a key is scaled by, `(D,)` each; None if it is not scaled by a range."""
    if statistics is None or mode in (None, Normalization.SIN_COS, Normalization.BINARY):
        return None
    steps = {name: np.atleast_2d(getattr(statistics, name)) for name in ("min", "max", "q01", "q99", "mean", "std")}
    if mode is Normalization.MEAN_STD:
        low, high = steps["mean"] - steps["std"], steps["mean"] + steps["std"]
    elif mode is Normalization.Q99:
        low, high = steps["q01"], steps["q99"]
    else:
        low, high = steps["min"], steps["max"]
    return low.min(axis=0), high.max(axis=0)


def _of_rows(dataset: EpisodeDataset, ref: KeyRef, episodes: Sequence[int]) -> KeyStatistics:
    rows = np.concatenate([dataset.vectors(ref, episode) for episode in episodes])
    if not len(rows) or not np.isfinite(rows).all():
        what = "NaN or infinity" if len(rows) else "no rows"
        raise DatasetError(f"{dataset.path}: {ref}: the chosen episodes hold {what}; validate the dataset")
    return compute_statistics(rows)
