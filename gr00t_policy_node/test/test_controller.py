# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from gr00t_policy_node.controller import Controller, ControlState
from gr00t_policy_node.limits import JointLimit
from gr00t_training.embodiment import VectorKey
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.testing import make_embodiment
from gr00t_training.types import ActionChunk

LIMITS = {name: JointLimit(min=-2.0, max=2.0, max_velocity=1.0) for name in ("j0", "j1", "j2", "grip")}
PERIOD_NS = 20_000_000
MEASURED = np.array([0.5, 0.0, 0.0, 0.0])


def make_controller() -> Controller:
    return Controller(make_embodiment(), LIMITS, PERIOD_NS / 1e9)


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
