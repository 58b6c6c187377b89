# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Order of training samples against the release's sharded loader, and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.shards import make_shards, part_of_worker, shard_schedule
from gr00t_training.errors import DatasetError

SETS = ("set_a", "set_b")


@pytest.fixture(scope="module")
def expected(fixtures_dir: Path) -> dict[str, Any]:
    return json.loads((fixtures_dir / "n1_7_dataset/expected/loader.json").read_text())


@pytest.mark.parametrize("name", SETS)
def test_shards_equal_those_of_the_release(fixtures_dir: Path, expected: dict[str, Any], name: str):
    dataset = LeRobotDataset(fixtures_dir / "n1_7_dataset" / name)
    lengths = [episode.length for episode in dataset.episodes]
    shards = make_shards(
        lengths, horizon=expected["action_horizon"], shard_size=16, episode_sampling_rate=0.34, seed=42
    )
    found = [[[dataset.episodes[position].index, steps.tolist()] for position, steps in shard] for shard in shards]
    assert found == expected[name]["shards"]
    assert [sum(len(steps) for _, steps in shard) for shard in shards] == expected[name]["shard_lengths"]


@pytest.mark.parametrize("name", SETS)
def test_a_step_is_read_as_by_the_release(fixtures_dir: Path, expected: dict[str, Any], name: str):
    dataset, step = LeRobotDataset(fixtures_dir / "n1_7_dataset" / name), expected[name]["step_ep1_i3"]
    assert dataset.task(1, 3) == step["text"]
    rows = range(3, 3 + expected["action_horizon"])
    for key, values in step["state"].items():
        np.testing.assert_array_equal(dataset.window("state", 1, key, [3]), values)
    for key, values in step["action"].items():
        np.testing.assert_array_equal(dataset.window("action", 1, key, rows), values)


def test_the_mixture_is_that_of_the_release(expected: dict[str, Any]):
    mixture, sizes = expected["mixture"], [expected[name]["shard_lengths"] for name in SETS]
    epochs = [
        shard_schedule(sizes, mixture["weights"], num_draws=mixture["num_shards_per_epoch"], seed=42, epoch=epoch)
        for epoch in (0, 1)
    ]
    assert [list(draw) for draw in epochs[0]] == mixture["schedule_epoch0"]
    assert [list(draw) for draw in epochs[1]] == mixture["schedule_epoch1"]
    part = part_of_worker(epochs[0], rank=1, num_ranks=2, worker=0, num_workers=1)
    assert [list(draw) for draw in part] == mixture["rank1_of_2_no_workers"]


def test_every_step_with_a_whole_chunk_is_dealt_once():
    lengths = [30, 4, 12, 5]
    shards = make_shards(lengths, horizon=5, shard_size=7, episode_sampling_rate=0.1, seed=0)
    dealt = [(episode, int(step)) for shard in shards for episode, steps in shard for step in steps]
    assert sorted(dealt) == [(episode, step) for episode, n in enumerate(lengths) for step in range(max(0, n - 4))]
    assert len(shards) == 5  # 26 + 8 + 1 steps of 7
    assert all(4 <= sum(len(steps) for _, steps in shard) <= 10 for shard in shards)


def test_workers_share_the_schedule_without_overlap():
    schedule = [(0, i) for i in range(11)]
    parts = [
        part_of_worker(schedule, rank=rank, num_ranks=2, worker=worker, num_workers=3)
        for rank in range(2)
        for worker in range(3)
    ]
    assert sorted(draw for part in parts for draw in part) == schedule
    assert parts[1 * 3 + 2] == [(0, 5)]


def test_episodes_that_are_all_too_short_are_refused():
    with pytest.raises(DatasetError, match="no episode has the 8 rows of an action chunk, the longest has 7"):
        make_shards([3, 7], horizon=8, shard_size=16, episode_sampling_rate=0.1, seed=42)
