# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gr00t_policy_node.chunking.player import Execution, ExecutionMode
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.state import ControlState, HoldCause, StopCause, StopRules
from gr00t_policy_node.safety.limits import JointLimit, LimitKind
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Rotation, VectorKey
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.types import ActionChunk

NAMES = ("j0", "j1", "j2", "grip")
LIMITS = {name: JointLimit(min=-2.0, max=2.0, max_velocity=1.0) for name in NAMES}
SOFT = {name: JointLimit(min=-2.0, max=2.0, max_velocity=1.0, max_acceleration=5.0) for name in NAMES}
PERIOD_NS = 20_000_000
MEASURED = np.array([0.5, 0.0, 0.0, 0.0])


def make_controller(limits: Mapping[str, JointLimit] = LIMITS, **rules: Any) -> Controller:
    return Controller(make_embodiment(), limits, PERIOD_NS / 1e9, stops=StopRules(**rules))


def run(controller: Controller, start_ns: int, count: int, fault: str = "") -> np.ndarray:
    """Return the commands (count, N) of ticks from `start_ns` on."""
    commands = [controller.tick(start_ns + i * PERIOD_NS, fault, measure) for i in range(count)]
    assert all(command is not None for command in commands)
    return np.array(commands)


def moving(controller: Controller, count: int = 20) -> np.ndarray:
    """Start a task and let the robot move from 0 on for `count` ticks."""
    controller.start("lift")
    controller.tick(0, "", measure)
    assert controller.offer(make_chunk(0, value=2.0), "lift")
    return run(controller, PERIOD_NS, count)


def make_chunk(start_ns: int, value: float = 0.0, step_ns: int = 100_000_000) -> ActionChunk:
    return ActionChunk({"arm": np.full((5, 3), value), "gripper": np.full((5, 1), value)}, start_ns, step_ns)


def measure() -> np.ndarray:
    return MEASURED


def test_nothing_is_sent_before_the_first_task() -> None:
    controller = make_controller()
    assert not controller.offer(make_chunk(0), "lift")
    assert controller.tick(0, "", measure) is None
    assert controller.report().state is ControlState.IDLE


def test_motion_starts_at_the_measured_pose_and_keeps_the_velocity_limit() -> None:
    controller = make_controller()
    controller.start("lift")
    assert controller.tick(0, "", measure) is None
    assert controller.offer(make_chunk(0, value=2.0), "lift")
    first = controller.tick(PERIOD_NS, "", measure)
    second = controller.tick(2 * PERIOD_NS, "", measure)
    np.testing.assert_allclose(first, MEASURED + 0.02)
    np.testing.assert_allclose(second, MEASURED + 0.04)
    assert controller.report().state is ControlState.RUNNING
    assert controller.report().limited_commands == 2


def test_stale_input_holds_at_once_and_drops_the_plan() -> None:
    controller = make_controller()
    controller.start("lift")
    controller.offer(make_chunk(0, value=2.0), "lift")
    moving = controller.tick(PERIOD_NS, "", measure)
    held = controller.tick(2 * PERIOD_NS, "stream 'front' is stale", measure)
    np.testing.assert_array_equal(held, moving)
    assert (controller.report().state, controller.report().reason) == (ControlState.HOLDING, "stream 'front' is stale")
    # the input is back, the old chunk is not
    np.testing.assert_array_equal(controller.tick(3 * PERIOD_NS, "", measure), moving)
    controller.offer(make_chunk(3 * PERIOD_NS, value=2.0), "lift")
    assert (controller.tick(4 * PERIOD_NS, "", measure) > moving).all()


def test_underrun_holds_and_says_since_when() -> None:
    controller = make_controller()
    controller.start("lift")
    controller.offer(make_chunk(0, value=0.51), "lift")
    controller.tick(PERIOD_NS, "", measure)
    held = controller.tick(500_000_000, "", measure)
    assert held is not None
    assert controller.report().underruns == 1
    assert controller.report().reason == "no action is due: the newest chunk ended 100 ms ago"


def test_clock_set_back_holds_and_goes_on_with_chunks_of_the_new_time() -> None:
    controller = make_controller()
    controller.start("lift")
    controller.offer(make_chunk(10**10, value=2.0), "lift")
    moving = controller.tick(10**10 + PERIOD_NS, "", measure)
    np.testing.assert_array_equal(controller.tick(10**9, "", measure), moving)
    assert controller.offer(make_chunk(10**9, value=2.0), "lift")
    assert (controller.tick(10**9 + PERIOD_NS, "", measure) > moving).all()


def test_latched_stop_is_cleared_by_reset_only() -> None:
    controller = make_controller()
    controller.start("lift")
    controller.offer(make_chunk(0, value=2.0), "lift")
    moving = controller.tick(PERIOD_NS, "", measure)
    controller.stop("operator")
    assert not controller.offer(make_chunk(PERIOD_NS, value=2.0), "lift")
    np.testing.assert_array_equal(controller.tick(2 * PERIOD_NS, "", measure), moving)
    with pytest.raises(ValueError, match="stopped \\(operator\\)"):
        controller.start("lift")
    controller.finish("time limit")
    assert controller.report().state is ControlState.STOPPED
    controller.reset()
    assert controller.tick(3 * PERIOD_NS, "", measure) is None
    controller.start("lift")
    assert controller.report().state is ControlState.HOLDING


def test_nan_chunk_is_refused_with_its_reason() -> None:
    controller = make_controller()
    controller.start("lift")
    assert not controller.offer(make_chunk(0, value=np.nan), "lift")
    assert controller.report().refused_chunks == 1
    assert "NaN" in controller.report().reason
    assert controller.tick(PERIOD_NS, "", measure) is None


def test_chunk_of_the_previous_instruction_is_not_executed() -> None:
    controller = make_controller()
    controller.start("lift")
    controller.start("drop")
    assert not controller.offer(make_chunk(0), "lift")
    assert controller.offer(make_chunk(0), "drop")


def test_unknown_pose_means_no_command() -> None:
    def fail() -> np.ndarray:
        raise ObservationError("state.arm: nothing received")

    controller = make_controller()
    controller.start("lift")
    controller.offer(make_chunk(0), "lift")
    assert controller.tick(PERIOD_NS, "", fail) is None
    assert controller.report().reason == "state.arm: nothing received"


def test_action_channel_without_state_is_refused_at_configure() -> None:
    embodiment = make_embodiment()
    embodiment = dataclasses.replace(embodiment, action={**embodiment.action, "gripper": VectorKey(names=("force",))})
    with pytest.raises(ConfigError, match="'force' has no state channel"):
        Controller(embodiment, LIMITS, 0.02)


def test_hold_brakes_within_the_acceleration_limit() -> None:
    controller = make_controller(SOFT)
    before = moving(controller)[-2:]
    held = run(controller, 21 * PERIOD_NS, 30, "stream 'front' is stale")
    speed = np.diff(np.vstack([before, held]), axis=0)[:, 0] / (PERIOD_NS / 1e9)
    assert speed[0] == pytest.approx(1.0)
    assert np.abs(np.diff(speed)).max() <= 5.0 * PERIOD_NS / 1e9 + 1e-9
    assert speed[-1] == 0.0


@pytest.mark.parametrize("end", [Controller.reset, lambda controller: controller.finish("time limit")])
def test_robot_that_moves_is_braked_when_the_task_ends(end) -> None:
    controller = make_controller(SOFT)
    moving(controller)
    end(controller)
    assert controller.report().state is ControlState.IDLE
    run(controller, 21 * PERIOD_NS, 10)
    assert controller.tick(31 * PERIOD_NS, "", measure) is None
    assert controller.last_command is None  # the next task begins at the measured pose


def test_braking_brings_the_robot_to_rest_without_ticks() -> None:
    controller = make_controller(SOFT)
    last = moving(controller)[-1]
    controller.finish("deactivated")
    way = np.array(list(controller.braking()))
    assert way.shape == (10, 4)
    assert 0.0 < (way[-1] - last)[1] <= 1.0**2 / (2 * 5.0)
    np.testing.assert_array_equal(way[-1], way[-2])


def test_refused_chunk_ends_the_motion_at_once() -> None:
    controller = make_controller()
    last = moving(controller)[-1]
    assert not controller.offer(make_chunk(PERIOD_NS, value=np.inf), "lift")
    np.testing.assert_array_equal(run(controller, 21 * PERIOD_NS, 2), [last, last])
    report = controller.report()
    assert (report.state, report.holds[HoldCause.CHUNK]) == (ControlState.HOLDING, 1)
    assert "NaN or infinity" in report.reason


def test_policy_that_fails_ends_the_motion_until_it_answers_again() -> None:
    controller = make_controller()
    last = moving(controller)[-1]
    controller.fail("policy server: no answer")
    np.testing.assert_array_equal(run(controller, 21 * PERIOD_NS, 1)[0], last)
    assert (controller.report().state, controller.report().reason) == (
        ControlState.HOLDING,
        "policy server: no answer",
    )
    assert controller.offer(make_chunk(22 * PERIOD_NS, value=2.0), "lift")
    assert (run(controller, 22 * PERIOD_NS, 1)[0] > last).all()
    assert controller.report().holds == {HoldCause.WAITING: 1, HoldCause.POLICY: 1}


def test_inputs_unusable_for_longer_than_their_budget_latch_a_stop() -> None:
    controller = make_controller(max_input_gap_s=0.5)
    moving(controller)
    run(controller, 21 * PERIOD_NS, 20, "camera is stale")
    run(controller, 41 * PERIOD_NS, 1)  # in between they are back
    run(controller, 42 * PERIOD_NS, 24, "camera is stale")
    assert controller.report().state is ControlState.HOLDING
    run(controller, 66 * PERIOD_NS, 2, "camera is stale")
    report = controller.report()
    assert (report.state, report.stops) == (ControlState.STOPPED, {StopCause.INPUT: 1})
    assert report.reason == "inputs not usable for more than 0.5 s: camera is stale"
    run(controller, 68 * PERIOD_NS, 10)
    with pytest.raises(ValueError, match="camera is stale"):
        controller.start("lift")
    controller.reset()
    controller.start("lift")


def test_policy_silent_for_longer_than_its_budget_latches_a_stop() -> None:
    controller = make_controller(max_silence_s=0.49)
    controller.start("lift")
    for i in range(60):
        controller.tick(i * PERIOD_NS, "", measure)
        if i in (10, 30):
            assert controller.offer(make_chunk(i * PERIOD_NS, value=2.0, step_ns=10**9), "lift")
        expected = ControlState.STOPPED if i > 54 else ControlState.HOLDING if i <= 10 else ControlState.RUNNING
        assert controller.report().state is expected, i
    assert controller.report().reason == "the policy gave no chunk for more than 0.49 s"


def test_budgets_count_time_in_which_the_controller_ran() -> None:
    controller = make_controller(max_silence_s=0.5, max_input_gap_s=0.5)
    moving(controller, 10)
    run(controller, 10**10, 10, "joint states are stale")  # the process was paused for ten seconds
    run(controller, 2 * 10**10, 10)
    assert controller.report().state is ControlState.HOLDING


def test_limit_violated_so_often_latches_a_stop() -> None:
    controller = make_controller(max_violations=5, violation_window_s=0.1)
    controller.start("lift")
    controller.tick(0, "", measure)

    def ask(i: int, value: float) -> None:
        controller.offer(make_chunk(i * PERIOD_NS, value=value), "lift")
        controller.tick(i * PERIOD_NS, "", measure)

    for i in range(1, 21):  # at every second tick: at most three within 0.1 s
        ask(i, 2.1 if i % 2 else 2.0)
    assert controller.report().violations == 10
    assert controller.report().state is ControlState.RUNNING
    for i in range(21, 26):
        ask(i, 2.1)
    report = controller.report()
    assert (report.state, report.stops) == (ControlState.STOPPED, {StopCause.LIMITS: 1})
    assert report.reason == "5 actions beyond the limits within 0.1 s, last of joint 'j0'"


def test_violations_of_another_time_do_not_count() -> None:
    controller = make_controller(max_violations=5, violation_window_s=0.1)
    controller.start("lift")
    for i in range(60):
        controller.tick(i * PERIOD_NS, "", measure)
        if i % 10 == 0:  # one jump, seen once, every 0.2 s
            controller.offer(make_chunk(i * PERIOD_NS, value=0.5 + 0.1 * (i % 20)), "lift")
    assert controller.report().violations >= 4
    assert controller.report().state is ControlState.RUNNING


def test_stop_leads_to_the_safe_pose_within_limits() -> None:
    controller = make_controller(SOFT, safe_pose={"j0": -0.2})
    before = moving(controller)
    controller.stop("emergency stop")
    way = np.vstack([before[-2:], run(controller, 21 * PERIOD_NS, 200)])
    speed = np.diff(way, axis=0) / (PERIOD_NS / 1e9)
    assert np.abs(speed).max() <= 1.0 + 1e-9
    assert np.abs(np.diff(speed, axis=0)).max() <= 5.0 * PERIOD_NS / 1e9 + 1e-9
    assert way[-1, 0] == -0.2
    assert 0.0 < way[-1, 1] - way[1, 1] < 0.11  # the others only stop
    assert controller.report().state is ControlState.STOPPED


@pytest.mark.parametrize(
    ("pose", "message"),
    [({"j9": 0.0}, "'j9' is not commanded; expected some of j0"), ({"j0": 3.0}, "'j0' is 3.0 .limits -2.0 to 2.0")],
)
def test_safe_pose_that_cannot_be_reached_is_refused(pose: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_controller(safe_pose=pose)


def test_chunk_that_answers_the_future_is_refused() -> None:
    controller = make_controller()
    controller.start("lift")
    assert not controller.offer(make_chunk(10**9), "lift", now_ns=0)
    assert "1000 ms in the future" in controller.report().reason


def test_counts_tell_what_happened() -> None:
    controller = make_controller()
    moving(controller)
    assert not controller.offer(make_chunk(0, value=1.0), "lift")
    controller.count_refused_observation()
    controller.stop("operator")
    controller.stop("again")
    report = controller.report()
    assert (report.chunks, report.stale_chunks, report.refused_observations) == (1, 1, 1)
    assert (report.limited_commands, report.clamps) == (20, {LimitKind.VELOCITY: 20})
    assert (report.stops, report.reason) == ({StopCause.REQUEST: 1}, "operator")


def test_endless_joint_and_quaternion_are_commanded_the_short_way() -> None:
    hand = VectorKey(names=tuple("wxyz"), rotation=Rotation.QUATERNION)
    keys = {"wheel": VectorKey(names=("wheel",)), "hand": hand}
    embodiment = dataclasses.replace(make_embodiment(), state=keys, action=keys)
    limits = {name: JointLimit(min=-1.0, max=1.0, max_velocity=100.0) for name in "wxyz"}
    endless = JointLimit(min=-math.inf, max=math.inf, max_velocity=100.0, endless=True)
    controller = Controller(embodiment, {**limits, "wheel": endless}, PERIOD_NS / 1e9)
    controller.start("turn")
    controller.tick(0, "", lambda: np.zeros(5))
    quaternion = np.array([math.cos(0.5), math.sin(0.5), 0.0, 0.0])
    actions = {"wheel": np.full((5, 1), -3.1), "hand": np.tile(-quaternion, (5, 1))}
    assert controller.offer(ActionChunk(actions, 0, 10**8), "turn")
    command = controller.tick(PERIOD_NS, "", lambda: np.array([9.4, 1.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(command, [4 * math.pi - 3.1, *quaternion])
    with pytest.raises(ConfigError, match="endless, but 'wrap' is for angles, the key's unit is 'm'"):
        Controller(make_embodiment(), {**LIMITS, "grip": endless}, 0.02)


def test_continuation_is_what_is_being_carried_out() -> None:
    execution = Execution(mode=ExecutionMode.REAL_TIME_CHUNKING)
    controller = Controller(make_embodiment(), LIMITS, PERIOD_NS / 1e9, execution=execution)
    controller.start("lift")
    assert controller.continuation(0, 0.15) is None
    chunk = make_chunk(0)
    controller.offer(chunk, "lift")
    found = controller.continuation(10**8, 0.15)
    assert found is not None
    assert (found.chunk is chunk, found.frozen_steps) == (True, 3)
    controller.start("drop")
    assert controller.continuation(10**8, 0.15) is None  # another task does not continue it


@pytest.mark.parametrize("instruction", ["", "  \n", "fold"])
def test_a_refused_task_changes_nothing_of_the_running_one(instruction: str) -> None:
    controller, accepted = make_controller(), []
    controller.start("lift", lambda: accepted.append("lift"))
    if instruction == "fold":
        controller.stop("stop service called")
    before = controller.report()
    with pytest.raises(ValueError, match=r"empty|stopped"):
        controller.start(instruction, lambda: accepted.append(instruction))
    assert accepted == ["lift"] and controller.report() == before


def test_a_task_is_announced_before_anybody_can_see_its_instruction() -> None:
    controller, seen = make_controller(), []
    controller.start("lift")
    controller.start("fold", lambda: seen.append(controller.report().instruction))
    assert seen == ["lift"] and controller.report().instruction == "fold"


@pytest.mark.parametrize(
    ("cause", "stop"),
    [
        (HoldCause.INPUT, StopCause.INPUT),
        (HoldCause.PUBLISHERS, StopCause.PUBLISHERS),
        (HoldCause.STATE_RANGE, StopCause.STATE_RANGE),
        (HoldCause.CLOCK, StopCause.CLOCK),
    ],
)
def test_cause_of_a_hold_becomes_that_of_its_stop(cause: HoldCause, stop: StopCause) -> None:
    controller = make_controller(max_input_gap_s=1.0)
    controller.start("lift")
    for _ in range(10):  # the node's clock stands
        controller.tick(0, "fault", measure, cause=cause, elapsed_s=0.1)
    report = controller.report()
    assert (report.state, report.cause) == (ControlState.HOLDING, cause)
    controller.tick(0, "fault", measure, cause=cause, elapsed_s=0.1)
    report = controller.report()
    assert (report.state, report.cause) == (ControlState.STOPPED, stop)
    controller.reset()
    assert controller.report().cause is None


def test_a_clock_that_was_set_back_is_told_until_the_next_chunk() -> None:
    controller = make_controller()
    moving(controller)
    for now_ns in (5 * PERIOD_NS, 6 * PERIOD_NS):
        controller.tick(now_ns, "", measure)
        report = controller.report()
        assert report.cause is HoldCause.CLOCK and "the clock was set back" in report.reason
    controller.tick(7 * PERIOD_NS, "stream 'front' is stale", measure)
    controller.tick(8 * PERIOD_NS, "", measure)
    assert controller.report().reason == "inputs are usable again; waiting for a chunk"
