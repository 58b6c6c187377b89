# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The steps of the controller are functions of state and event: no lock, no clock, nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from gr00t_policy_node.control import step
from gr00t_policy_node.control.setup import ControlSetup
from gr00t_policy_node.control.state import ControlState, HoldCause, StepState, StopCause
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_test_support.builders import make_embodiment
from gr00t_training.types import ActionChunk

NAMES = ("j0", "j1", "j2", "grip")
PERIOD_NS = 20_000_000
SETUP = ControlSetup(
    make_embodiment(), dict.fromkeys(NAMES, JointLimit(min=-2.0, max=2.0, max_velocity=1.0)), PERIOD_NS / 1e9
)


def tick(now_ns: int, fault: str = "") -> step.Tick:
    return step.Tick(now_ns, lambda: np.zeros(4), fault)


def moving() -> StepState:
    chunk = ActionChunk({"arm": np.ones((5, 3)), "gripper": np.ones((5, 1))}, 0, 100_000_000)
    state, is_executed = step.offered(SETUP, step.started(StepState(), "lift"), chunk, "lift", 0)
    assert is_executed
    state, _ = step.ticked(SETUP, state, tick(0))
    return state


def test_the_same_tick_of_the_same_state_gives_the_same_command_and_leaves_the_state_alone() -> None:
    state = moving()
    before = state.report()
    (first, command), (second, again) = (step.ticked(SETUP, state, tick(PERIOD_NS)) for _ in range(2))
    assert command is not None
    assert again is not None
    np.testing.assert_allclose(command, np.full(4, 0.02))  # 1 per second for 20 ms
    np.testing.assert_array_equal(command, again)
    assert first.report() == second.report()
    assert state.report() == before


def test_a_fault_and_a_stop_are_two_branches_of_one_state() -> None:
    state = moving()
    held, _ = step.ticked(SETUP, state, tick(PERIOD_NS, "stream 'front' is stale"))
    stopped = state.stopped(StopCause.REQUEST, "stop service called")
    assert (held.state, held.hold_cause, held.plan) == (ControlState.HOLDING, HoldCause.INPUT, ())
    assert stopped.report().stops == {StopCause.REQUEST: 1}
    assert stopped.stopped(StopCause.LIMITS, "later") is stopped
    assert (state.state, len(state.plan)) == (ControlState.RUNNING, 1)


def test_a_latched_stop_refuses_a_task_until_the_reset() -> None:
    stopped = StepState().stopped(StopCause.REQUEST, "stop service called")
    with pytest.raises(ValueError, match="stop service called"):
        step.started(stopped, "lift")
    assert step.finished(SETUP, stopped, "deactivated").state is ControlState.STOPPED
    assert step.started(step.reset(SETUP, stopped), "lift").hold_cause is HoldCause.WAITING
