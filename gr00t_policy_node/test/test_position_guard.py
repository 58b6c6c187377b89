# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from driving import DrivenGuard
from hypothesis import given, settings
from hypothesis import strategies as st

from gr00t_policy_node.safety.limits import JointLimit, LimitKind
from gr00t_training.errors import ConfigError

PERIOD_S = 0.02
LIMITS = {"a": JointLimit(min=-1.0, max=1.0, max_velocity=2.0), "b": JointLimit(min=0.0, max=0.5, max_velocity=0.5)}
SOFT = JointLimit(min=-1.0, max=1.0, max_velocity=2.0, max_acceleration=10.0)
SMOOTH = JointLimit(min=-1.0, max=1.0, max_velocity=2.0, max_acceleration=10.0, max_jerk=200.0)


def make_guard(start: tuple[float, float] = (0.0, 0.25)) -> DrivenGuard:
    guard = DrivenGuard(["a", "b"], LIMITS, PERIOD_S)
    guard.start_at(np.array(start))
    return guard


def one_joint(limit: JointLimit, start: float = 0.0) -> DrivenGuard:
    guard = DrivenGuard(["j"], {"j": limit}, PERIOD_S)
    guard.start_at(np.array([start]))
    return guard


def drive(guard: DrivenGuard, targets: list[float] | np.ndarray) -> np.ndarray:
    return np.array([guard.apply(np.array([target]), PERIOD_S).positions[0] for target in targets])


def test_first_command_starts_at_the_measured_pose_whatever_the_chunk_says() -> None:
    command = make_guard().apply(np.array([1.0, 0.0]), PERIOD_S)
    np.testing.assert_allclose(command.positions, [0.04, 0.24])  # 2.0 and 0.5 per second for 20 ms
    assert command.limited == ("a", "b")
    assert command.kinds == {LimitKind.VELOCITY}
    assert command.violations == ()  # the way to the first target is the guard's, not the policy's


def test_target_within_limits_is_not_touched() -> None:
    command = make_guard().apply(np.array([0.03, 0.255]), PERIOD_S)
    np.testing.assert_array_equal(command.positions, [0.03, 0.255])
    assert command.limited == ()


def test_smooth_target_within_limits_is_not_touched() -> None:
    times = np.arange(200) * PERIOD_S
    targets = 0.5 * (1 - np.cos(3 * times))  # speeds up to 1.5, accelerations to 4.5
    np.testing.assert_array_equal(drive(one_joint(SOFT), targets), targets)


def test_late_tick_is_not_repaid_with_a_large_step() -> None:
    for elapsed_s in (0.03, 10.0):
        command = make_guard().apply(np.array([1.0, 0.25]), elapsed_s)
        np.testing.assert_allclose(command.positions[0], PERIOD_S * 2.0)


def test_early_tick_has_a_small_step() -> None:
    np.testing.assert_allclose(make_guard().apply(np.array([1.0, 0.25]), 0.005).positions[0], 0.005 * 2.0)


@pytest.mark.parametrize("elapsed_s", [0.0, -1.0, math.nan])
def test_no_time_has_passed_and_the_command_is_repeated(elapsed_s: float) -> None:
    np.testing.assert_array_equal(make_guard().apply(np.array([1.0, 0.0]), elapsed_s).positions, [0.0, 0.25])


def test_pose_outside_the_limits_is_left_inwards_without_a_jump() -> None:
    guard = make_guard(start=(1.5, 0.25))
    np.testing.assert_allclose(guard.apply(np.array([2.0, 0.25]), PERIOD_S).positions[0], 1.46)
    guard = one_joint(SOFT, 1.5)
    np.testing.assert_array_equal(guard.brake(PERIOD_S), [1.5])  # a hold does not move
    way = drive(guard, np.full(100, 2.0))
    assert (np.diff(way) <= 0.0).all()
    assert way[-1] == 1.0


def test_nan_target_is_refused_and_changes_nothing() -> None:
    guard = make_guard()
    for target in ([np.nan, 0.0], [np.inf, 0.0], [0.0]):
        with pytest.raises(ValueError, match="finite"):
            guard.apply(np.array(target), PERIOD_S)
    np.testing.assert_array_equal(guard.last, [0.0, 0.25])


def test_first_motion_ramps_within_the_acceleration_limit() -> None:
    way = drive(one_joint(SOFT), np.full(10, 1.0))
    # from rest: half of 10 / s^2 over the first period, then all of it
    np.testing.assert_allclose(np.diff(way, prepend=0.0) / PERIOD_S, 0.1 + 0.2 * np.arange(10))


def test_brakes_in_time_before_a_position_limit_and_reaches_it() -> None:
    way = drive(one_joint(SOFT), np.arange(200) * 0.04)  # a target that runs away at full speed
    speed = np.diff(way, prepend=0.0) / PERIOD_S
    assert speed.max() == pytest.approx(2.0)
    assert np.abs(np.diff(speed)).max() <= 10.0 * PERIOD_S + 1e-9
    assert way[-1] == 1.0


def test_step_target_is_reached_without_passing_it() -> None:
    way = drive(one_joint(SOFT), np.full(100, 0.7))
    assert way.max() == way[-1] == 0.7


@pytest.mark.parametrize("limit", [SOFT, SMOOTH])
def test_stop_brakes_to_rest_and_holds(limit: JointLimit) -> None:
    guard = one_joint(limit, -1.0)
    moving = drive(guard, np.linspace(-1.0, 1.0, 60)[:30])
    assert guard.must_brake
    way = np.array([guard.brake(PERIOD_S)[0] for _ in range(60)])
    speed = np.diff(np.concatenate([moving[-2:], way])) / PERIOD_S
    assert (np.diff(speed)[3:] <= 1e-9).all()
    assert np.abs(np.diff(speed)).max() <= 10.0 * PERIOD_S + 1e-9
    assert not guard.must_brake
    assert (way[40:] == way[40]).all()
    # the speed of 1.7 is zero after the braking distance at 10 / s^2, or a little more if the jerk is limited
    assert 0.9 * 1.7**2 / 20 < way[-1] - moving[-1] < 0.3


def test_braking_yields_the_commands_to_rest() -> None:
    guard = one_joint(SOFT)
    drive(guard, np.linspace(0.0, 1.0, 60)[:30])
    way = np.array(list(guard.braking()))
    assert len(way) == 5  # from 0.85 / s, 0.2 / s less per period
    assert list(guard.braking()) == []
    assert list(make_guard().braking()) == []  # without an acceleration limit it stops at once


def test_jerk_is_limited_and_a_moving_target_is_followed() -> None:
    times = np.arange(300) * PERIOD_S
    targets = np.where(times < 3.0, 0.5 * np.sin(2 * times), -0.5)
    way = drive(one_joint(SMOOTH), targets)
    derivatives = np.concatenate([np.zeros(3), way])
    for bound in (2.0, 10.0, 200.0):
        derivatives = np.diff(derivatives) / PERIOD_S
        assert np.abs(derivatives).max() <= bound * (1 + 1e-6)
    assert np.abs(way - targets)[50:150].max() < 0.01
    assert way[-1] == pytest.approx(-0.5, abs=1e-4)


def test_after_a_pause_the_robot_stands_and_starts_again() -> None:
    guard = one_joint(SOFT)
    drive(guard, np.full(20, 1.0))
    before = guard.last
    assert before is not None
    after = guard.apply(np.array([1.0]), 1.0).positions
    np.testing.assert_allclose(after - before, 0.5 * 10.0 * PERIOD_S**2)


def test_kinds_and_violations_tell_what_was_wrong() -> None:
    guard = one_joint(SOFT)
    assert guard.apply(np.array([0.0]), PERIOD_S).kinds == frozenset()
    command = guard.apply(np.array([0.03]), PERIOD_S)
    assert (command.kinds, command.violations) == ({LimitKind.ACCELERATION}, ())
    guard = one_joint(SOFT, 1.0)
    command = guard.apply(np.array([1.1]), PERIOD_S)
    assert (command.kinds, command.violations) == ({LimitKind.POSITION}, ("j",))
    assert guard.apply(np.array([0.9]), PERIOD_S).violations == ("j",)  # 5 / s between two targets


def test_step_of_a_gripper_goes_through_where_its_speed_is_not_limited() -> None:
    guard = one_joint(JointLimit(min=0.0, max=1.0, max_velocity=math.inf))
    assert set(drive(guard, [0.0, 1.0, 1.0, 0.0])) == {0.0, 1.0}


def test_joint_without_a_limit_is_refused_by_name_and_one_without_acceleration_is_told() -> None:
    with pytest.raises(ConfigError, match="joint 'c' has no entry"):
        DrivenGuard(["a", "c"], LIMITS, PERIOD_S)
    assert DrivenGuard(["a"], LIMITS, PERIOD_S).warnings == ("no max_acceleration, start and stop at any rate: 'a'",)
    assert one_joint(SOFT).warnings == ()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1.5, 1.5), st.floats(-1.0, 5.0)), min_size=1, max_size=30),
    st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    st.sampled_from([(LIMITS["a"], SOFT), (SOFT, SMOOTH)]),
)
def test_no_command_leaves_the_limits(
    steps: list[tuple[float, float, float]], start: tuple[float, float], joints: tuple[JointLimit, JointLimit]
) -> None:
    guard = DrivenGuard(["a", "b"], dict(zip("ab", joints, strict=True)), PERIOD_S)
    guard.start_at(np.array(start))
    for a, b, elapsed_s in steps:
        before = guard.last
        after = guard.apply(np.array([a, b]), elapsed_s * PERIOD_S).positions
        assert np.isfinite(after).all()
        assert (after >= np.minimum(before, -1.0)).all()
        assert (after <= np.maximum(before, 1.0)).all()
        assert (abs(after - before) <= 2.0 * PERIOD_S * min(max(elapsed_s, 0.0), 1.0) + 1e-12).all()
