# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gr00t_bringup.sim.trajectory import Trajectory, TrajectoryFollower


def _trajectory(joints, due_s, rows):
    return Trajectory(tuple(joints), np.array(due_s, float), np.array(rows, float))


def test_it_moves_linearly_from_where_it_was_through_the_points_and_holds_the_last():
    follower = TrajectoryFollower({"a": 0.0, "b": 5.0})
    follower.follow(_trajectory(["a"], [11.0, 13.0], [[1.0], [3.0]]), 10.0)
    assert [follower.sample(t)["a"] for t in (10.0, 10.5, 11.0, 12.0, 13.0, 99.0)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert follower.sample(12.0)["b"] == 5.0


def test_a_point_due_now_is_commanded_at_once():
    follower = TrajectoryFollower({"a": 0.0})
    follower.follow(_trajectory(["a"], [10.0], [[1.0]]), 10.0)
    assert follower.sample(10.0) == {"a": 1.0}


def test_a_new_trajectory_replaces_the_old_one_from_the_position_of_that_moment():
    follower = TrajectoryFollower({"a": 0.0, "b": 0.0})
    follower.follow(_trajectory(["a", "b"], [2.0], [[2.0, 4.0]]), 0.0)
    follower.follow(_trajectory(["a"], [2.0], [[0.0]]), 1.0)
    assert follower.sample(1.5) == {"a": 0.5, "b": 2.0}


def test_a_start_in_the_future_is_approached_not_jumped_to():
    follower = TrajectoryFollower({"a": 0.0})
    follower.follow(_trajectory(["a"], [4.0], [[4.0]]), 0.0)
    assert follower.sample(1.0) == {"a": 1.0}


def test_jump_drops_the_trajectory():
    follower = TrajectoryFollower({"a": 0.0, "b": 0.0})
    follower.follow(_trajectory(["a"], [9.0], [[9.0]]), 0.0)
    follower.jump([1.0, 2.0])
    assert follower.sample(5.0) == {"a": 1.0, "b": 2.0}


def test_an_unknown_joint_leaves_the_current_trajectory_alone():
    follower = TrajectoryFollower({"a": 0.0})
    follower.follow(_trajectory(["a"], [2.0], [[2.0]]), 0.0)
    with pytest.raises(ValueError, match="unknown joint 'x', expected some of a"):
        follower.follow(_trajectory(["x"], [1.0], [[7.0]]), 0.5)
    assert follower.sample(1.0) == {"a": 1.0}


@pytest.mark.parametrize(
    ("joints", "due_s", "rows", "message"),
    [
        (["a", "a"], [1.0], [[1.0, 1.0]], "repeat"),
        (["a"], [1.0, 1.0], [[1.0], [2.0]], "does not increase"),
        (["a"], [1.0], [[np.nan]], "not finite"),
        (["a"], [1.0], [[1.0, 2.0]], r"shape \(1, 2\), expected 1 points of 1 joints"),
        (["a"], [], np.zeros((0, 1)), "no points"),
    ],
)
def test_a_malformed_trajectory_is_refused(joints, due_s, rows, message):
    with pytest.raises(ValueError, match=message):
        _trajectory(joints, due_s, rows)


@pytest.mark.parametrize(("positions", "message"), [([1.0], "got 1 positions"), ([1.0, float("inf")], "not finite")])
def test_a_malformed_jump_is_refused(positions, message):
    follower = TrajectoryFollower({"a": 0.0, "b": 0.5})
    with pytest.raises(ValueError, match=message):
        follower.jump(positions)
    assert follower.sample(0.0) == {"a": 0.0, "b": 0.5}
