# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of relative actions (N1.6, N1.7): relative to the state at the start of the chunk, one set per step.

They are stored in the dataset, in `meta/relative_stats.json`, where NVIDIA's trainers read and write them too. Stored
values of the right shape are used as they are: delete the file after changing the recorded actions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.metadata.modality import Modality
from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, KeyStatistics, compute_statistics
from gr00t_training.embodiment import Embodiment, Pose, VectorKey
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import replacing
from gr00t_training.rotations import to_relative

logger = logging.getLogger(__name__)


class VectorSource(Protocol):
    """The part of a dataset that is read here; `reader.EpisodeDataset` implements it."""

    path: Path
    modality: Modality

    @property
    def episodes(self) -> Sequence[Episode]: ...

    def state(self, episode: int, key: str) -> np.ndarray: ...

    def action(self, episode: int, key: str) -> np.ndarray: ...


def relative_statistics(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], horizon: int, pose: Pose | None
) -> KeyStatistics:
    """Compute the statistics of a key over all chunks inside an episode.

    Args:
        states: `(N, D)` of each episode; row i is the reference of the chunk that starts at i.
        actions: `(N, D)` of each episode.
        horizon: steps of a chunk, H.
        pose: form of the key; None: not a pose.

    Returns:
        Six `(H, D)` arrays.

    Raises:
        DatasetError: no episode is as long as a chunk, widths differ, or values are not finite.
        ValueError: a rotation is degenerate.
    """
    lengths = np.array([len(rows) for rows in actions])
    if not (lengths >= horizon).any():
        longest = lengths.max(initial=0)
        raise DatasetError(f"no episode has the {horizon} rows of an action chunk, the longest has {longest}")
    state_rows, action_rows = np.concatenate(states), np.concatenate(actions)
    if state_rows.shape != action_rows.shape:
        raise DatasetError(f"state of shape {state_rows.shape}, action of {action_rows.shape}; expected the same")
    if not (np.isfinite(state_rows).all() and np.isfinite(action_rows).all()):
        raise DatasetError("rows hold NaN or infinity; validate the dataset and correct them")
    ends = np.cumsum(lengths)
    starts = np.concatenate([np.arange(end - n, end - horizon + 1) for end, n in zip(ends, lengths, strict=True)])
    # one step of all chunks at a time: all steps together would take H times the memory of the dataset
    references = state_rows[starts]
    steps = [compute_statistics(to_relative(action_rows[starts + step], references, pose)) for step in range(horizon)]
    return KeyStatistics(**{name: np.stack([getattr(step, name) for step in steps]) for name in STATISTIC_NAMES})


def relative_action_statistics(
    dataset: VectorSource, embodiment: Embodiment, folder: Path | None = None
) -> dict[str, KeyStatistics]:
    """Return the statistics of every relative action of the embodiment that the dataset has, `(H, D)` each.

    They come from `meta/relative_stats.json`; missing values, and values for another horizon or width, are computed
    from all rows and written to it.

    Args:
        dataset: has states and actions.
        embodiment: says which actions are relative, and to what.
        folder: below which the file is; None: that of the dataset.

    Raises:
        DatasetError: the file or the rows cannot be read, or no episode is as long as a chunk.
    """
    path = schema.meta_file(folder or dataset.path, schema.RELATIVE_STATS_FILE)
    stored = schema.read_object(path) if path.exists() else {}
    found: dict[str, KeyStatistics] = {}
    computed: dict[str, KeyStatistics] = {}
    for name, key in embodiment.action.items():
        if key.relative_to is None or name not in dataset.modality.action:
            continue
        expected = (embodiment.action_horizon, key.dim)
        if name in stored:
            found[name] = KeyStatistics.from_mapping(stored[name], f"{path}: {name}")
            if found[name].min.shape == expected:
                continue
            logger.info(
                "%s: %s has steps and channels %s, embodiment '%s' has %s; computing it again",
                path,
                name,
                found[name].min.shape,
                embodiment.name,
                expected,
            )
        found[name] = computed[name] = relative_statistics_of(
            dataset, [episode.index for episode in dataset.episodes], name, key, embodiment.action_horizon
        )
    if computed:
        _write(path, {**stored, **{name: values.to_mapping() for name, values in computed.items()}})
    return found


def relative_statistics_of(
    dataset: VectorSource, episodes: Sequence[int], name: str, key: VectorKey, horizon: int
) -> KeyStatistics:
    """Compute the statistics of a relative action over some episodes.

    Raises:
        DatasetError: rows cannot be read, or no episode is as long as a chunk.
    """
    states = [dataset.state(episode, key.relative_to or "") for episode in episodes]
    actions = [dataset.action(episode, name) for episode in episodes]
    try:
        return relative_statistics(states, actions, horizon, key.pose)
    except (DatasetError, ValueError) as error:
        raise DatasetError(f"{dataset.path}: action.{name} relative to state.{key.relative_to}: {error}") from error


def _write(path: Path, content: dict) -> None:
    text = schema.json_text(content)
    try:
        with replacing(path, f".{os.getpid()}{schema.STAGED_SUFFIX}") as file:  # several trainers may start at once
            file.write(text.encode())
    except OSError as error:
        logger.warning("%s: cannot be written (%s); computing it again next time", path, error.strerror)
