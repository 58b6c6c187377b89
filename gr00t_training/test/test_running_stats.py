# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics that grow by episodes against those of all rows at once."""

import json

import numpy as np
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics import running as running_stats
from gr00t_training.dataset.statistics.compute import compute_statistics, describe_rows, join_described
from gr00t_training.dataset.statistics.running import RunningStatistics, wanted_tail
from gr00t_training.dataset.writer import DatasetWriter


def in_parts(rows, num_parts, tail):
    parts = [RunningStatistics.of_rows(part, tail) for part in np.array_split(rows, num_parts)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    return joined


@pytest.mark.parametrize("num_rows", [1, 2, 50, 101, 199, 300, 1000])
@pytest.mark.parametrize("tail", [5, 20, 4096])
def test_parts_give_what_all_rows_give(num_rows, tail):
    rng = np.random.default_rng(num_rows)
    rows = rng.normal(size=(num_rows, 4)).astype(np.float32)
    rows[:, 2] = 0.1  # never moves
    rows[:, 3] = rng.integers(0, 2, num_rows)  # a gripper: many equal values
    found, expected = in_parts(rows, min(num_rows, 7), tail), compute_statistics(rows)
    assert found.is_exact == (num_rows <= 100 * (tail - 2) + 100)
    if not found.is_exact:
        return
    for name in ("min", "max", "q01", "q99"):
        assert np.array_equal(getattr(found.result(), name), getattr(expected, name)), name
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(found.result(), name), getattr(expected, name), rtol=1e-12, atol=1e-15)
    assert found.result().std[2] == 0


def test_rising_and_falling_values_do_not_outrun_the_tails():
    """The worst orders: every episode is beyond all before it, at one end."""
    rows = np.arange(900, dtype=np.float32)[:, None]
    for ordered in (rows, rows[::-1]):
        found, expected = in_parts(ordered, 30, 12).result(), compute_statistics(rows)
        assert (found.q01, found.q99) == (expected.q01, expected.q99)


def test_joining_leaves_both_as_they_were():
    one, two = RunningStatistics.of_rows(np.arange(3.0)), RunningStatistics.of_rows(np.arange(4.0))
    before = one.result().to_mapping()
    one.joined(two)
    assert one.result().to_mapping() == before


def test_tails_are_long_enough_for_twice_the_rows():
    for num_rows in (0, 10_000, 1_000_000):
        tail = wanted_tail(num_rows)
        assert tail >= running_stats.TAIL
        assert tail >= 0.01 * 2 * num_rows + 2


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_dataset_that_outgrows_the_tails_keeps_exact_statistics(tmp_path, monkeypatch, version):
    monkeypatch.setattr(running_stats, "TAIL", 3)  # exact up to 200 rows: all rows are read again, twice
    embodiment = make_embodiment(size=(16, 16))
    scans = []
    of_rows = RunningStatistics.of_rows.__func__

    def counted(cls, rows, tail=3):
        scans.append(tail)
        return of_rows(cls, rows, tail)

    monkeypatch.setattr(RunningStatistics, "of_rows", classmethod(counted))
    with DatasetWriter(tmp_path, embodiment, version=version) as writer:
        for seed in range(5):
            episode = writer.start_episode("lift")
            for frame in make_frames(embodiment, 90, seed=seed):
                episode.add_frame(frame)
            episode.save()
            dataset = EpisodeDataset(tmp_path)
            stored = json.loads((tmp_path / "meta/stats.json").read_text())
            for column in ("action", "timestamp"):
                rows = [dataset.column(number, column).reshape(90, -1) for number in range(seed + 1)]
                for name, expected in compute_statistics(np.concatenate(rows)).to_mapping().items():
                    np.testing.assert_allclose(stored[column][name], expected, rtol=1e-12, atol=1e-15, err_msg=name)
    assert max(scans) > 3  # longer tails were made


def test_joined_descriptions_weigh_by_count():
    rows = np.arange(10.0)
    joined = join_described([describe_rows(rows[:4], quantiles=True), describe_rows(rows[4:], quantiles=True)])
    assert (joined["min"], joined["max"], joined["count"]) == ([0], [9], [10])
    np.testing.assert_allclose([joined["mean"][0], joined["std"][0]], [4.5, rows.std()])
    np.testing.assert_allclose(joined["q50"], [0.4 * 1.5 + 0.6 * 6.5])  # lerobot's approximation
    whole = join_described([describe_rows(np.arange(3)), describe_rows(np.arange(5))])
    assert whole["max"] == [4]
    assert isinstance(whole["max"][0], int)
