# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decide which person has control, and what their request means as a target; pure functions.

A person always wins over the policy and over a course. Of several engaged devices the first has control until it
disengages, or until it is silent while another one is not. Silence alone gives control back to nobody.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gr00t_policy_node.control.course import CourseCause
from gr00t_policy_node.control.person import Person, Request, TeleopMode
from gr00t_policy_node.control.setup import ControlSetup
from gr00t_policy_node.control.state import ControlState, Count, HoldCause, StepState

MAX_DEVICES = 8  # engaged at once
MAX_NAME = 100  # characters


def steered(
    setup: ControlSetup, state: StepState, device: str, request: Request | None, at_ns: int, now_ns: int
) -> StepState:
    """Return the state after a message of a person's device.

    Args:
        setup: of the robot.
        state: so far.
        device: name of the device.
        request: what the person asks for; None: the device is not engaged.
        at_ns: when it was read, node clock.
        now_ns: node clock.

    Raises:
        ValueError: the request cannot be used; it counts as silence.
    """
    if not device or len(device) > MAX_NAME or not device.isprintable():
        raise ValueError(f"the source's name has {len(device)} characters, expected 1 to {MAX_NAME} printable ones")
    known = state.people.get(device)
    if request is None:
        return state.with_changes(people={name: each for name, each in state.people.items() if name != device})
    if known is None and len(state.people) >= MAX_DEVICES:
        raise ValueError(
            f"'{device}': {MAX_DEVICES} other devices are engaged; disengage them, or clean up and configure the node"
        )
    if now_ns - at_ns > round(setup.takeover.link_timeout_s * 1e9):
        late_s = (now_ns - at_ns) / 1e9
        raise ValueError(f"'{device}': the message is {late_s:.3f} s old; check its stamp and the clocks")
    if at_ns - now_ns > round(setup.takeover.link_timeout_s * 1e9):  # its age, and so a dead link, cannot be seen
        ahead_s = (at_ns - now_ns) / 1e9
        raise ValueError(f"'{device}': the message is {ahead_s:.3f} s in the future; check its stamp and the clocks")
    target, rates = setup.requested(request)
    at_ns = min(at_ns, now_ns)
    if known is not None and known.at_ns is not None and known.at_ns > at_ns:
        return state  # overtaken by a newer one
    person = Person(target, rates, at_ns, known is not None and known.must_release)
    if device == state.person and known is not None and (np.isnan(known.target) & ~np.isnan(target)).any():
        state = state.with_changes(is_following=False)  # a channel it did not name may be far
    return state.with_changes(people={**state.people, device: person})


def arbitrated(setup: ControlSetup, state: StepState, now_ns: int) -> StepState:
    """Return the state with the person who has control at this control tick."""
    if not state.people and not state.person:
        return state
    chosen = _chosen(setup, state, now_ns)
    if chosen == state.person:
        return state
    if not chosen:
        return _released(setup, state, now_ns)
    motion = None if state.motion is None else setup.guard.retargeted(state.motion)
    if not state.person:
        state = state.counted(Count("takeovers"))
    state = state.course_ended(CourseCause.INTERRUPTED, f"'{chosen}' took over")
    return state.with_changes(person=chosen, is_following=False, plan=(), motion=motion)


def disengaged(state: StepState) -> StepState:
    """Return the state where every engaged device must disengage before it may command."""
    people = {name: replace(person, must_release=True) for name, person in state.people.items()}
    handover_ns = state.last_tick_ns if state.person else state.handover_ns
    return state.with_changes(people=people, person="", is_following=False, handover_ns=handover_ns)


def has_request(setup: ControlSetup, state: StepState) -> bool:
    """Return whether a person has control, or gets it at the next control tick."""
    return bool(state.people) and bool(_candidates(setup, state))


def link_fault(setup: ControlSetup, state: StepState, now_ns: int) -> str:
    """Return that the device in control is silent, empty if it is not."""
    timeout_s = setup.takeover.link_timeout_s
    if state.people[state.person].is_live(now_ns, timeout_s):
        return ""
    return f"device '{state.person}' is silent for more than {timeout_s:g} s; waiting for it, or for it to disengage"


def target_of(setup: ControlSetup, state: StepState, last: np.ndarray, elapsed_s: float) -> np.ndarray:
    """Return what the person in control asks for (N,), as near to the last command (N,) as angles allow."""
    person = state.people[state.person]
    rest = np.where(setup.is_measured, last, 0.0)
    target = np.where(np.isnan(person.target), rest + person.rates * min(elapsed_s, setup.period_s), person.target)
    return setup.nearest(target, last)


def approaching(setup: ControlSetup, target: np.ndarray, last: np.ndarray, elapsed_s: float) -> np.ndarray:
    """Return the target (N,) of a slow straight way from the last command to `target`; rates wait at zero."""
    way = np.where(setup.is_measured, target - last, 0.0)
    needed_s = float((np.abs(way) / setup.speed).max(initial=0.0))  # at full speed
    given_s = setup.takeover.approach_speed * min(elapsed_s, setup.period_s)
    share = given_s / needed_s if needed_s > given_s else 1.0
    return np.where(setup.is_measured, last, 0.0) + way * share


def teleop_fault(setup: ControlSetup, state: StepState) -> str:
    """Return why a person's targets are not followed, empty if they are or there are none."""
    if state.steer_fault:
        return state.steer_fault
    for name, person in state.people.items():
        if person.must_release:
            return f"'{name}' must disengage first: there was a stop, a reset or a deactivation"
        if name != state.person and state.person:
            return f"'{name}' is engaged, but '{state.person}' has control"
        if setup.takeover.mode is TeleopMode.NEVER:
            return f"'{name}' is engaged, but parameter 'teleop' is never"
        if not state.has_task and setup.takeover.mode is TeleopMode.TASK:
            return f"'{name}' is engaged, but no task runs; start one, or set 'teleop' to always"
    return ""


def _candidates(setup: ControlSetup, state: StepState) -> list[str]:
    mode = setup.takeover.mode
    is_allowed = mode is TeleopMode.ALWAYS or (mode is TeleopMode.TASK and state.has_task)
    if not is_allowed or state.state is ControlState.STOPPED:
        return []
    return [name for name, person in state.people.items() if not person.must_release]


def _chosen(setup: ControlSetup, state: StepState, now_ns: int) -> str:
    """Return the device that has control, empty if none has."""
    engaged = _candidates(setup, state)
    if state.person in engaged:
        engaged.remove(state.person)
        engaged.insert(0, state.person)
    live = [name for name in engaged if state.people[name].is_live(now_ns, setup.takeover.link_timeout_s)]
    return next(iter(live or engaged), "")


def _released(setup: ControlSetup, state: StepState, now_ns: int) -> StepState:
    device = state.person
    state = state.with_changes(person="", is_following=False, handover_ns=now_ns, silence_s=0.0)
    if state.state is ControlState.STOPPED:
        return state
    if state.has_task:
        return state.held(HoldCause.WAITING, f"'{device}' has disengaged; waiting for a chunk of a newer observation")
    return state.with_changes(state=ControlState.IDLE, reason="no instruction", hold_cause=None, plan=())
