# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of relative actions against the reference release, and by hand."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, KeyStatistics
from gr00t_training.dataset.statistics.relative import relative_action_statistics, relative_statistics
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, Pose, VectorKey
from gr00t_training.errors import DatasetError
from gr00t_training.types import KeyKind, KeyRef

SETS = ("set_a", "set_b")
# sums are in float64 here and in float32 there: a few units in the last place of values up to 1
ROUNDING = {"rtol": 0, "atol": 3e-7}


@pytest.fixture(params=SETS)
def case(
    request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles, tmp_path: Path
) -> tuple[EpisodeDataset, str, Path]:
    folder = fixtures_dir / "n1_7_dataset"
    shutil.copytree(folder / request.param, tmp_path / request.param)
    return EpisodeDataset(tmp_path / request.param), request.param, folder / "expected"


def arm_and_hand(horizon: int) -> Embodiment:
    """Return the embodiment of the reference datasets: absolute gripper, relative joints and hand pose."""
    hand, gripper, joints = [tuple(f"{name}{i}" for i in range(dim)) for name, dim in (("h", 9), ("g", 1), ("j", 7))]
    return replace(
        make_embodiment(),
        state={
            "eef_9d": VectorKey(names=hand),
            "gripper_position": VectorKey(names=gripper),
            "joint_position": VectorKey(names=joints),
        },
        action={
            "eef_9d": VectorKey(names=hand, relative_to="eef_9d", pose=Pose.XYZ_ROTATION_6D),
            "gripper_position": VectorKey(names=gripper),
            "joint_position": VectorKey(names=joints, relative_to="joint_position"),
        },
        action_horizon=horizon,
    )


def read_statistics(path: Path) -> dict[str, KeyStatistics]:
    return {key: KeyStatistics.from_mapping(lists, key) for key, lists in json.loads(path.read_text()).items()}


def compare(found: KeyStatistics, expected: KeyStatistics) -> None:
    for name in STATISTIC_NAMES:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), **ROUNDING, err_msg=name)


def test_relative_statistics_equal_the_release(case: tuple[EpisodeDataset, str, Path]):
    dataset, name, folder = case
    horizon = json.loads((folder / "loader.json").read_text())["action_horizon"]
    found = relative_action_statistics(dataset, arm_and_hand(horizon))
    expected = read_statistics(folder / f"{name}_relative_stats.json")
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].min.shape == (horizon, dataset.slice_of(KeyRef(KeyKind.ACTION, key)).dim)
        compare(found[key], expected[key])
    for bound in ("min", "max"):  # no sums, and no rotation made orthonormal
        joints = [getattr(statistics["joint_position"], bound) for statistics in (found, expected)]
        np.testing.assert_array_equal(*joints)


def test_plain_statistics_equal_the_release(case: tuple[EpisodeDataset, str, Path]):
    dataset, name, folder = case
    expected = read_statistics(folder / f"{name}_stats.json")
    assert not (dataset.path / "meta/stats.json").exists()
    for kind, column in (("state", "observation.state"), ("action", "action")):
        for key, part in getattr(dataset.modality, kind).items():
            found, stored = dataset.statistics(KeyRef(KeyKind(kind), key)), expected[column].part(part.start, part.end)
            compare(found, stored)
            np.testing.assert_array_equal(found.min, stored.min)
            np.testing.assert_array_equal(found.max, stored.max)


@pytest.mark.parametrize("name", SETS)
def test_a_step_is_read_as_by_the_release(fixtures_dir: ReferenceFiles, name: str):
    folder = fixtures_dir / "n1_7_dataset"
    expected = json.loads((folder / "expected/loader.json").read_text())
    dataset, step = EpisodeDataset(folder / name), expected[name]["step_ep1_i3"]
    assert dataset.task(1, 3) == step["text"]
    rows = range(3, 3 + expected["action_horizon"])
    for key, values in step["state"].items():
        np.testing.assert_array_equal(dataset.window(KeyRef(KeyKind.STATE, key), 1, [3]), values)
    for key, values in step["action"].items():
        np.testing.assert_array_equal(dataset.window(KeyRef(KeyKind.ACTION, key), 1, rows), values)


def test_chunks_lie_inside_an_episode_and_count_from_its_state():
    """Two chunks of two steps in the first episode, none in the second: 10 - 8, 20 - 8 and 20 - 9, 40 - 9."""
    states = [np.array([[8.0], [9], [100]]), np.array([[0.0]])]
    actions = [np.array([[10.0], [20], [40]]), np.array([[-500.0]])]
    found = relative_statistics(states, actions, 2, None)
    assert found.min.tolist() == [[2], [12]]
    assert found.max.tolist() == [[11], [31]]
    assert found.mean.tolist() == [[6.5], [21.5]]
    assert found.std.tolist() == [[4.5], [9.5]]


def test_episodes_shorter_than_a_chunk_cannot_give_statistics():
    rows = [np.zeros((3, 1)), np.zeros((4, 1))]
    with pytest.raises(DatasetError, match="no episode has the 5 rows of an action chunk, the longest has 4"):
        relative_statistics(rows, rows, 5, None)
    with pytest.raises(DatasetError, match=r"state of shape \(7, 1\), action of \(7, 2\)"):
        relative_statistics(rows, [np.zeros((3, 2)), np.zeros((4, 2))], 2, None)


def test_rows_that_are_not_finite_cannot_give_statistics():
    rows = np.zeros((3, 1))
    with pytest.raises(DatasetError, match="rows hold NaN or infinity"):
        relative_statistics([rows], [np.where(np.arange(3)[:, None] == 1, np.nan, rows)], 2, None)


@pytest.fixture
def recorded(tmp_path: Path) -> EpisodeDataset:
    embodiment = make_embodiment()
    with DatasetWriter(tmp_path / "set", embodiment) as writer:
        episode = writer.start_episode("lift")
        for frame in make_frames(embodiment, 8):
            episode.add_frame(frame)
        episode.save()
    return EpisodeDataset(tmp_path / "set")


def relative_arm(horizon: int) -> Embodiment:
    embodiment = make_embodiment()
    arm = replace(embodiment.action["arm"], relative_to="arm")
    return replace(embodiment, action={**embodiment.action, "arm": arm}, action_horizon=horizon)


def test_what_is_stored_is_believed_until_the_horizon_changes(
    recorded: EpisodeDataset, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    path = recorded.path / "meta/relative_stats.json"
    first = relative_action_statistics(recorded, relative_arm(4))
    assert list(first) == ["arm"]
    content = json.loads(path.read_text())
    content["other"] = "of another embodiment"
    content["arm"]["max"][0] = [7.0, 8.0, 9.0]
    path.write_text(json.dumps(content))
    assert relative_action_statistics(recorded, relative_arm(4))["arm"].max[0].tolist() == [7, 8, 9]
    assert not caplog.records

    longer = relative_action_statistics(recorded, relative_arm(6))["arm"]
    assert longer.min.shape == (6, 3)
    assert longer.max[0].tolist() != [7, 8, 9]
    (record,) = caplog.records
    assert "arm has steps and channels (4, 3), embodiment 'test_arm' has (6, 3)" in record.getMessage()
    content = json.loads(path.read_text())
    assert content["other"] == "of another embodiment"
    assert np.shape(content["arm"]["q99"]) == (6, 3)
    assert sorted(file.name for file in path.parent.glob("relative*")) == ["relative_stats.json"]


def test_a_dataset_that_cannot_be_written_is_read_all_the_same(
    recorded: EpisodeDataset, caplog: pytest.LogCaptureFixture
):
    path = recorded.path / "meta/relative_stats.json"
    expected = relative_action_statistics(recorded, relative_arm(4))["arm"]
    path.unlink()
    shutil.move(recorded.path / "meta", recorded.path / "removed")  # as root writes despite missing rights
    assert relative_action_statistics(recorded, relative_arm(4))["arm"].to_mapping() == expected.to_mapping()
    assert "relative_stats.json: cannot be written" in caplog.text


def test_damage_is_named(recorded: EpisodeDataset):
    path = recorded.path / "meta/relative_stats.json"
    path.write_text('{"arm": {"min": [[0, 0], [0]]}}')
    with pytest.raises(DatasetError, match=r"relative_stats\.json: arm: 'min' is not a list of numbers"):
        relative_action_statistics(recorded, relative_arm(4))
    path.unlink()
    with pytest.raises(DatasetError, match=r"set: action\.arm relative to state\.arm: no episode has the 9 rows"):
        relative_action_statistics(recorded, relative_arm(9))
