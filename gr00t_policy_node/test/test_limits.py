# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr00t_policy_node.limits import JointLimit, LimitsFile, MotionGuard
from gr00t_training.errors import ConfigError
from gr00t_training.settings import parse_settings

PERIOD_S = 0.02
LIMITS = {"a": JointLimit(min=-1.0, max=1.0, max_velocity=2.0), "b": JointLimit(min=0.0, max=0.5, max_velocity=0.5)}


def make_guard(start: tuple[float, float] = (0.0, 0.25)) -> MotionGuard:
    guard = MotionGuard(["a", "b"], LIMITS, PERIOD_S)
    guard.start_at(np.array(start))
    return guard


def test_first_command_starts_at_the_measured_pose_whatever_the_chunk_says() -> None:
    command = make_guard().apply(np.array([1.0, 0.0]), PERIOD_S)
    np.testing.assert_allclose(command.positions, [0.04, 0.24])  # 2.0 and 0.5 per second for 20 ms
    assert command.limited == ("a", "b")


def test_target_within_limits_is_not_touched() -> None:
    command = make_guard().apply(np.array([0.03, 0.255]), PERIOD_S)
    np.testing.assert_array_equal(command.positions, [0.03, 0.255])
    assert command.limited == ()


def test_late_tick_is_not_repaid_with_a_large_step() -> None:
    command = make_guard().apply(np.array([1.0, 0.25]), 10.0)
    np.testing.assert_allclose(command.positions[0], 2 * PERIOD_S * 2.0)


def test_pose_outside_the_limits_is_left_without_a_jump() -> None:
    guard = make_guard(start=(1.5, 0.25))
    np.testing.assert_allclose(guard.apply(np.array([2.0, 0.25]), PERIOD_S).positions[0], 1.46)


def test_nan_target_is_refused_and_changes_nothing() -> None:
    guard = make_guard()
    with pytest.raises(ValueError, match="finite"):
        guard.apply(np.array([np.nan, 0.0]), PERIOD_S)
    np.testing.assert_array_equal(guard.last, [0.0, 0.25])


def test_joint_without_a_limit_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="joint 'c' has no entry"):
        MotionGuard(["a", "c"], LIMITS, PERIOD_S)


def test_limits_file_names_file_and_line() -> None:
    text = "joints:\n  a: {min: 1.0, max: -1.0, max_velocity: 1.0}\n"
    with pytest.raises(ConfigError, match=r"limits\.yaml:2: joints\.a: min 1\.0 is not below max -1\.0"):
        parse_settings(LimitsFile, text, "limits.yaml")


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(-1.0, 5.0)), min_size=1, max_size=30),
    st.tuples(st.floats(-1.0, 1.0), st.floats(0.0, 0.5)),
)
def test_no_command_leaves_the_limits(steps: list[tuple[float, float, float]], start: tuple[float, float]) -> None:
    guard = make_guard(start)
    for a, b, elapsed_s in steps:
        before = guard.last
        after = guard.apply(np.array([a, b]), elapsed_s).positions
        assert before is not None
        assert (after >= [-1.0, 0.0]).all()
        assert (after <= [1.0, 0.5]).all()
        assert (abs(after - before) <= np.array([2.0, 0.5]) * 2 * PERIOD_S + 1e-12).all()
