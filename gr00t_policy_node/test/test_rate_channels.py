# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Velocities as actions: a base that drives together with an arm."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.state import ControlState, HoldCause, StopCause, StopRules
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.topics.units import is_rate
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.types import ActionChunk

PERIOD_NS = 20_000_000
PERIOD_S = 0.02
ARM = JointLimit(min=-2.0, max=2.0, max_velocity=1.0)
# 0.05 m/s per tick
BASE = JointLimit(min=-1.0, max=1.0, max_velocity=2.5)
STALE = "stream 'front' is stale"


def make_robot() -> Embodiment:
    """Return an arm of two joints on a base of two velocities, which no state measures."""
    arm = VectorKey(names=("j0", "j1"))
    linear, angular = VectorKey(names=("vx",), unit="m/s"), VectorKey(names=("wz",), unit="rad/s")
    action = {"linear": linear, "arm": arm, "angular": angular}
    return dataclasses.replace(make_embodiment(), state={"arm": arm}, action=action)


def make_controller(base: JointLimit = BASE, arm: JointLimit = ARM, **rules: Any) -> Controller:
    limits = {"j0": arm, "j1": arm, "vx": base, "wz": base}
    return Controller(make_robot(), limits, PERIOD_S, stops=StopRules(**rules))


def measure() -> np.ndarray:
    return np.array([0.5, -0.5])


def chunk(start_ns: int, rate: float, position: float = 0.5) -> ActionChunk:
    rows = {"linear": [[rate]] * 20, "arm": [[position, -position]] * 20, "angular": [[-rate]] * 20}
    return ActionChunk({key: np.array(values) for key, values in rows.items()}, start_ns, 100_000_000)


def drive(controller: Controller, rate: float = 0.5, ticks: int = 20) -> int:
    """Start a task and drive; return the time of the next tick."""
    controller.start("go")
    controller.tick(0, "", measure)
    assert controller.offer(chunk(0, rate), "go")
    for i in range(ticks):
        controller.tick(i * PERIOD_NS, "", measure)
    return ticks * PERIOD_NS


def until_quiet(controller: Controller, now_ns: int, fault: str = "", output_fault: str = "") -> np.ndarray:
    """Return the commands (K, 4) of the ticks until there are none, or 100 of them."""
    commands = []
    for i in range(100):
        command = controller.tick(now_ns + i * PERIOD_NS, fault, measure, output_fault)
        if command is None:
            break
        commands.append(command)
    return np.array(commands)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("m/s", True), ("rad/s", True), ("deg/s", True), ("rpm", True), ("tick/s", True), ("m", False), ("m/s^2", False)],
)
def test_units_of_velocity_are_rates(unit: str, expected: bool) -> None:
    assert is_rate(unit) is expected


def test_rate_starts_at_zero_without_being_measured_and_changes_within_its_limit() -> None:
    controller = make_controller()
    assert controller.names == ("vx", "j0", "j1", "wz")
    assert controller.measured_names == ("j0", "j1")
    controller.start("go")
    controller.tick(0, "", measure)
    assert controller.offer(chunk(0, 0.5), "go")
    commands = np.array([controller.tick(i * PERIOD_NS, "", measure) for i in range(1, 15)])
    ramp = np.minimum(0.05 * np.arange(1, 15), 0.5)
    np.testing.assert_allclose(commands[:, 0], ramp, atol=1e-12)
    np.testing.assert_allclose(commands[:, 3], -ramp, atol=1e-12)
    np.testing.assert_allclose(commands[:, 1:3], [[0.5, -0.5]] * 14)


def test_stale_input_brings_a_driving_base_to_zero_and_keeps_it_there() -> None:
    controller = make_controller()
    now_ns = drive(controller)
    assert controller.last_command is not None
    np.testing.assert_allclose(controller.last_command, [0.5, 0.5, -0.5, -0.5])
    commands = until_quiet(controller, now_ns, STALE)
    assert controller.report().state is ControlState.HOLDING
    assert len(commands) == 100
    expected = np.maximum(0.5 - 0.05 * np.arange(1, 101), 0.0)
    np.testing.assert_allclose(commands[:, 0], expected, atol=1e-12)
    np.testing.assert_array_equal(commands[10:, [0, 3]], 0.0)
    np.testing.assert_array_equal(commands[:, 1:3], [[0.5, -0.5]] * 100)


@pytest.mark.parametrize("end", ["finish", "reset"])
def test_zeros_are_sent_last_when_a_task_ends(end: str) -> None:
    controller = make_controller()
    now_ns = drive(controller)
    if end == "finish":
        controller.finish("time limit")
    else:
        controller.reset()
    commands = until_quiet(controller, now_ns)
    assert len(commands) == 10
    np.testing.assert_array_equal(commands[-1], [0.0, 0.5, -0.5, 0.0])
    assert controller.last_command is None


def test_zeros_are_sent_last_without_any_limit_of_change() -> None:
    controller = make_controller(JointLimit(min=-1.0, max=1.0, max_velocity=math.inf))
    now_ns = drive(controller, ticks=2)
    controller.finish("done")
    np.testing.assert_array_equal(until_quiet(controller, now_ns), [[0.0, 0.5, -0.5, 0.0]])


def test_braking_for_the_end_of_the_node_ends_with_zeros() -> None:
    controller = make_controller()
    drive(controller)
    controller.finish("deactivated")
    way = np.array(list(controller.braking()))
    assert way.shape == (10, 4)
    np.testing.assert_array_equal(way[-1], [0.0, 0.5, -0.5, 0.0])


def test_stop_leads_rates_to_zero_and_then_joints_to_the_safe_pose() -> None:
    controller = make_controller(safe_pose={"j0": 0.0})
    now_ns = drive(controller)
    controller.stop("emergency stop")
    commands = until_quiet(controller, now_ns)
    assert len(commands) == 100
    np.testing.assert_array_equal(commands[-1], [0.0, 0.0, -0.5, 0.0])
    assert np.abs(np.diff(commands[:, 0])).max() <= 0.05 + 1e-12


@pytest.mark.parametrize("spoil", ["failed", "refused", "underrun"])
def test_every_hold_leads_rates_to_zero(spoil: str) -> None:
    controller = make_controller()
    now_ns = drive(controller)
    if spoil == "failed":
        controller.fail("server lost")
    elif spoil == "refused":
        assert not controller.offer(chunk(now_ns, math.nan), "go")
    else:
        now_ns = 99 * PERIOD_NS  # the chunk ends at 1.9 s
        controller.tick(now_ns - PERIOD_NS, "", measure)
    commands = until_quiet(controller, now_ns)
    np.testing.assert_array_equal(commands[15:, [0, 3]], 0.0)
    assert controller.report().state is ControlState.HOLDING


def test_commands_that_nobody_takes_end_at_rest_and_the_next_motion_is_measured_again() -> None:
    controller = make_controller(max_input_gap_s=3.0)
    now_ns = drive(controller)
    commands = until_quiet(controller, now_ns, output_fault="action server 'arm' is not there")
    assert len(commands) == 10
    np.testing.assert_array_equal(commands[-1], [0.0, 0.5, -0.5, 0.0])
    report = controller.report()
    assert (report.reason, report.holds[HoldCause.OUTPUT]) == ("action server 'arm' is not there", 1)
    # meanwhile somebody has moved the arm
    now_ns += 20 * PERIOD_NS
    controller.tick(now_ns, "", measure)
    assert controller.report().reason == "outputs are usable again; waiting for a chunk"
    assert controller.offer(chunk(now_ns, 0.5), "go")
    command = controller.tick(now_ns + PERIOD_NS, "", lambda: np.array([1.0, 1.0]))
    np.testing.assert_allclose(command, [0.05, 0.98, 0.98, -0.05])


def test_outputs_not_usable_for_longer_than_the_budget_latch_a_stop() -> None:
    controller = make_controller(max_input_gap_s=0.3)
    now_ns = drive(controller)
    until_quiet(controller, now_ns, output_fault="action server 'arm' is not there")
    assert controller.report().state is ControlState.HOLDING
    for i in range(11, 17):
        assert controller.tick(now_ns + i * PERIOD_NS, "", measure, "action server 'arm' is not there") is None
    report = controller.report()
    assert (report.state, report.stops) == (ControlState.STOPPED, {StopCause.OUTPUT: 1})
    assert report.reason == "outputs not usable for more than 0.3 s: action server 'arm' is not there"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (dataclasses.replace(BASE, min=0.1), "rate 'vx' is limited to 0.1 to 1.0"),
        (dataclasses.replace(BASE, max_acceleration=1.0, max_jerk=1.0), "rate 'vx' has max_jerk"),
    ],
)
def test_limits_that_do_not_fit_a_rate_are_refused(limit: JointLimit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_controller(limit)


def test_safe_pose_of_a_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="'vx' is a rate, which ends at zero; expected some of j0, j1"):
        make_controller(safe_pose={"vx": 0.1})


def test_a_position_still_needs_a_state_to_start_from() -> None:
    robot = make_robot()
    robot = dataclasses.replace(robot, action={**robot.action, "lift": VectorKey(names=("lift",), unit="m")})
    with pytest.raises(ConfigError, match="action channel 'lift' has no state channel"):
        Controller(robot, dict.fromkeys(("j0", "j1", "vx", "wz", "lift"), ARM), PERIOD_S)
