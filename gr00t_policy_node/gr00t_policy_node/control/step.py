# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The controller as pure functions: state and event in, state (and at a tick the command) out.

The one rule: the robot moves only while the inputs are fresh and an action is due; in every other case it is braked to
rest and held there. Nothing is sent before the first task, and the first motion begins at the measured pose. A stop is
latched: only `reset` clears it.

An action key with a velocity unit (m/s, rad/s) is a rate: it starts at zero, and rest is zero instead of the
last command. So wherever a robot is held, the commands of a rate lead to zero, and only then may they end.

Policy, person and course each only give the target of a tick; gates, guard and rates are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gr00t_policy_node.chunking.player import ChunkError, newest_chunk
from gr00t_policy_node.control import takeover
from gr00t_policy_node.control.course import Course, CourseCause, CourseError
from gr00t_policy_node.control.person import Engage
from gr00t_policy_node.control.planning import check_near, planned
from gr00t_policy_node.control.setup import ControlSetup
from gr00t_policy_node.control.state import CommandSource, ControlState, Count, HoldCause, StepState, StopCause
from gr00t_policy_node.safety.guard import GuardState, MotionGuard
from gr00t_training.errors import ObservationError
from gr00t_training.types import ActionChunk

Step = tuple[StepState, np.ndarray | None]  # and the command (N,), None if nothing must be sent

_REACHED_S = 1e-3  # a course has reached what full speed reaches in this time
_PATIENCE_S = 5.0  # for the limits to let it reach its end

# What a hold because of the inputs becomes when it lasts.
_STOP_CAUSES = {
    HoldCause.INPUT: StopCause.INPUT,
    HoldCause.PUBLISHERS: StopCause.PUBLISHERS,
    HoldCause.STATE_RANGE: StopCause.STATE_RANGE,
    HoldCause.CLOCK: StopCause.CLOCK,
}


@dataclass(frozen=True)
class Tick:
    """One control tick."""

    now_ns: int  # node clock
    measure: Callable[[], np.ndarray]  # see `Controller.tick`
    fault: str = ""
    cause: HoldCause = HoldCause.INPUT  # of `fault`
    output_fault: str = ""
    elapsed_s: float | None = None


def started(state: StepState, instruction: str) -> StepState:
    """Return the state after the start of a task.

    Raises:
        ValueError: the instruction is empty, or the stop is latched.
    """
    if not instruction.strip():
        raise ValueError("the instruction is empty; say what the robot must do")
    if state.state is ControlState.STOPPED:
        raise ValueError(f"stopped ({state.reason}); call the reset service first")
    asked = state.is_hold_asked  # a hold lasts until somebody says go on
    state = state.course_ended(CourseCause.INTERRUPTED, "a task has begun").with_changes(is_hold_asked=asked)
    state = state.with_changes(instruction=instruction, input_gap_s=0.0, silence_s=0.0, violations_s=())
    return state.held(HoldCause.WAITING, "waiting for the first chunk")


def finished(setup: ControlSetup, state: StepState, reason: str) -> StepState:
    """Return the state after the end of a task; a latched stop stays."""
    state = state.with_changes(instruction="", is_hold_asked=False)
    return state if state.state is ControlState.STOPPED else _idle(setup, state, reason)


def reset(setup: ControlSetup, state: StepState) -> StepState:
    """Return the state without task, stop or person in control."""
    state = takeover.disengaged(state.with_changes(instruction="", steer_fault="", is_hold_asked=False))
    return _idle(setup, state.course_ended(CourseCause.CANCELLED, "reset"), "no instruction")


def hold_asked(state: StepState) -> StepState:
    """Return the state where task or course is held from the next control tick on, until `resumed`.

    Raises:
        ValueError: neither runs.
    """
    if not state.has_task and state.course is None:
        raise ValueError("nothing to hold: neither a task nor a move or replay runs")
    return state.with_changes(is_hold_asked=True, plan=())


def resumed(state: StepState) -> StepState:
    """Return the state after the end of a hold that was asked for.

    Raises:
        ValueError: there is none.
    """
    if not state.is_hold_asked:
        raise ValueError("nothing is held on request")
    state = state.with_changes(is_hold_asked=False, handover_ns=state.last_tick_ns, silence_s=0.0)
    if state.has_task and not state.person:
        return state.held(HoldCause.WAITING, "resumed; waiting for a chunk of a newer observation")
    return state


def routed(state: StepState, course: Course) -> StepState:
    """Return the state after the start of a course.

    Raises:
        CourseError: something else commands, or the stop is latched.
    """
    if state.state is ControlState.STOPPED:
        raise CourseError(CourseCause.STOPPED, f"stopped ({state.reason}); call the reset service first")
    if state.is_commanded:
        who = f"'{state.person}' has control" if state.person else "a task runs" if state.has_task else "another runs"
        raise CourseError(CourseCause.BUSY, f"{who}; end that first")
    state = state.with_changes(course=course, course_end=None, input_gap_s=0.0, violations_s=())
    return state.held(HoldCause.WAITING, "waiting for the first control tick")


def offered(
    setup: ControlSetup, state: StepState, chunk: ActionChunk, instruction: str, now_ns: int | None
) -> tuple[StepState, bool]:
    """Return the state after a chunk, and whether it is executed; see `Controller.offer`."""
    if not state.has_task or state.person or state.is_hold_asked or instruction != state.instruction:
        return state, False
    if state.handover_ns is not None and chunk.start_ns <= state.handover_ns:
        return state.counted(Count("stale_chunks")), False
    try:
        plan = setup.player.accept(state.plan, chunk, now_ns)
    except ChunkError as error:
        return state.counted(Count("refused_chunks")).held(HoldCause.CHUNK, str(error)), False
    if plan is None:
        return state.counted(Count("stale_chunks")), False
    return state.with_changes(plan=plan, silence_s=0.0).counted(Count("chunks")), True


def ticked(setup: ControlSetup, state: StepState, tick: Tick) -> Step:
    """Return the state after a control tick, and its command."""
    if tick.elapsed_s is None:
        state, elapsed_s = _elapsed(setup, state, tick.now_ns)
        watched_s = min(elapsed_s, MotionGuard.MAX_LATE_TICKS * setup.period_s)
    else:  # the clock does not advance, but it may have been set back before
        state, _ = _elapsed(setup, state, tick.now_ns)
        elapsed_s = watched_s = tick.elapsed_s
    state = takeover.arbitrated(setup, state, tick.now_ns)
    tick = _gated(state, tick)
    if state.is_commanded:
        state = _watched(setup, state, watched_s, tick)
    state, command = _commanded(setup, state, elapsed_s, tick)
    source = _source(state, command)
    return (state if source is state.source else state.with_changes(source=source)), command


def _gated(state: StepState, tick: Tick) -> Tick:
    """Return the tick without faults that do not concern who commands.

    What training saw limits the policy alone: a person or a course may bring the robot back there.
    """
    if tick.cause is HoldCause.STATE_RANGE and (state.person or state.course is not None):
        return replace(tick, fault="", cause=HoldCause.INPUT)
    return tick


def _commanded(setup: ControlSetup, state: StepState, elapsed_s: float, tick: Tick) -> Step:
    if state.state is ControlState.STOPPED:
        return _safe_action(setup, state, elapsed_s)
    if not state.is_commanded:
        return _settle(setup, state, elapsed_s)
    if tick.fault:
        # what was planned on older inputs must not run on when they return
        state = _paused(state.held(tick.cause, tick.fault)).with_changes(is_input_hold=True)
        return _brake(setup, state, elapsed_s)
    if tick.output_fault:
        return _settle(setup, _paused(state.held(HoldCause.OUTPUT, tick.output_fault)), elapsed_s)
    if state.person:
        return _follow(setup, state, elapsed_s, tick)
    if state.is_hold_asked:
        return _brake(setup, _paused(state.held(HoldCause.ASKED, "held on request; waiting for ~/resume")), elapsed_s)
    if state.course is not None:
        return _advance(setup, state, state.course, elapsed_s, tick)
    return _move(setup, state, elapsed_s, tick)


def _source(state: StepState, command: np.ndarray | None) -> CommandSource:
    if state.state is ControlState.STOPPED:
        return CommandSource.STOP
    if state.state is ControlState.RUNNING:
        if state.person:
            return CommandSource.PERSON
        return CommandSource.MOTION if state.course is not None else CommandSource.POLICY
    return CommandSource.NONE if command is None and not state.is_commanded else CommandSource.HOLD


def _elapsed(setup: ControlSetup, state: StepState, now_ns: int) -> tuple[StepState, float]:
    """Return the time since the last tick [s]."""
    last_ns = state.last_tick_ns
    state = state.with_changes(last_tick_ns=now_ns)
    if last_ns is None:
        return state, 0.0
    if now_ns >= last_ns:
        return state, (now_ns - last_ns) / 1e9
    # the clock was set back (simulator restart): chunks of the new time would all count as older
    people = {name: replace(person, at_ns=None) for name, person in state.people.items()}
    state = state.with_changes(people=people, handover_ns=None)
    if state.has_task:
        state = state.held(HoldCause.CLOCK, f"the clock was set back by {(last_ns - now_ns) / 1e9:.3f} s")
    return state, setup.period_s


def _watched(setup: ControlSetup, state: StepState, elapsed_s: float, tick: Tick) -> StepState:
    """Return the state, stopped where a time limit is exceeded."""
    rules = setup.rules
    state = state.with_changes(running_s=state.running_s + elapsed_s)
    if tick.fault or tick.output_fault:
        state = state.with_changes(input_gap_s=state.input_gap_s + elapsed_s, silence_s=0.0)  # it cannot answer
        if 0.0 < rules.max_input_gap_s < state.input_gap_s:
            cause, subject = (_STOP_CAUSES[tick.cause], "inputs") if tick.fault else (StopCause.OUTPUT, "outputs")
            reason = f"{subject} not usable for more than {rules.max_input_gap_s:g} s"
            return state.stopped(cause, f"{reason}: {tick.fault or tick.output_fault}")
        return state
    is_policy_due = not state.person and state.course is None and not state.is_hold_asked
    state = state.with_changes(input_gap_s=0.0, silence_s=state.silence_s + elapsed_s if is_policy_due else 0.0)
    if 0.0 < rules.max_silence_s < state.silence_s:
        why = f": {state.reason}" if state.reason else ""
        return state.stopped(
            StopCause.SILENCE, f"the policy gave no chunk for more than {rules.max_silence_s:g} s{why}"
        )
    return state


def _move(setup: ControlSetup, state: StepState, elapsed_s: float, tick: Tick) -> Step:
    plan, due = setup.player.sample(state.plan, tick.now_ns)
    state = state.with_changes(plan=plan)
    if due is None:
        return _brake(setup, _without_action(state, tick.now_ns), elapsed_s)
    try:
        motion = _motion(setup, state, tick)
    except ObservationError as error:
        return state.held(HoldCause.POSE, str(error), keeps_plan=True), None
    target = setup.nearest(np.concatenate([due[key] for key in setup.keys]), motion.last)
    return _apply(setup, state, motion, target, elapsed_s)


def _follow(setup: ControlSetup, state: StepState, elapsed_s: float, tick: Tick) -> Step:
    """Follow the person in control: at once where the target is near, else slowly or when it is."""
    silence = takeover.link_fault(setup, state, tick.now_ns)
    if silence:
        return _brake(setup, state.held(HoldCause.LINK, silence).with_changes(is_following=False), elapsed_s)
    try:
        motion = _motion(setup, state, tick)
    except ObservationError as error:
        return state.held(HoldCause.POSE, str(error)), None
    target = takeover.target_of(setup, state, motion.last, elapsed_s)
    # where a device is beyond the limits, the robot is near once it is at them
    reachable = target if state.is_following else np.where(setup.is_measured, setup.clipped(target), target)
    far = [] if state.is_following else setup.far(reachable, motion.last)
    if not far:
        return _apply(setup, state.with_changes(is_following=True), motion, target, elapsed_s)
    if setup.takeover.engage is Engage.APPROACH:
        slow = takeover.approaching(setup, reachable, motion.last, elapsed_s)
        return _apply(setup, state, motion, slow, elapsed_s)
    place = far[0]
    reason = (
        f"'{state.person}' is not aligned: '{setup.guard.names[place]}' is asked to be at {reachable[place]:.4g}, the "
        f"robot is at {motion.last[place]:.4g}"
    )
    return _brake(setup, state.held(HoldCause.ALIGN, reason).with_changes(motion=motion), elapsed_s)


def _advance(setup: ControlSetup, state: StepState, course: Course, elapsed_s: float, tick: Tick) -> Step:
    """Follow a course."""
    try:
        motion = _motion(setup, state, tick)
        course = course if course.plan else planned(setup, course, motion.last)
        if state.motion is None and course.passed_ns:  # something else may have moved the robot meanwhile
            _, due = setup.player.sample(course.plan, course.passed_ns)
            assert due is not None
            check_near(setup, np.concatenate([due[key] for key in setup.keys]), motion.last, "the next row")
    except ObservationError as error:
        return state.held(HoldCause.POSE, str(error)), None
    except CourseError as error:
        return _settle(setup, _idle(setup, state.course_ended(error.cause, str(error)), str(error)), elapsed_s)
    passed_s = min(elapsed_s, MotionGuard.MAX_LATE_TICKS * setup.period_s)  # a late tick skips no rows
    passed_ns = round(passed_s * 1e9 * (course.speed if course.rows is not None else 1.0))
    course = replace(course, passed_ns=min(course.passed_ns + passed_ns, course.end_ns))
    _, due = setup.player.sample(course.plan, course.passed_ns)
    assert due is not None
    target = setup.nearest(np.concatenate([due[key] for key in setup.keys]), motion.last)
    if course.passed_ns == course.end_ns:
        ending = _ending(setup, course, target, motion.last)
        if ending is not None:
            return _settle(setup, _idle(setup, state.course_ended(*ending), "no instruction"), elapsed_s)
        course = replace(course, late_s=course.late_s + passed_s)
    return _apply(setup, state.with_changes(course=course), motion, target, elapsed_s)


def _ending(
    setup: ControlSetup, course: Course, target: np.ndarray, last: np.ndarray
) -> tuple[CourseCause, str] | None:
    """Return how a course ends whose last row is due; None: its positions are not reached yet."""
    way = np.abs(setup.clipped(target) - last)
    away = (way > setup.speed * _REACHED_S) & setup.is_measured
    if not away.any():
        return CourseCause.REACHED, ""
    if course.late_s < _PATIENCE_S:
        return None
    place = int(away.argmax())
    name = setup.guard.names[place]
    return CourseCause.NOT_REACHED, f"'{name}' is still {way[place]:.4g} from the end after {_PATIENCE_S:g} s"


def _motion(setup: ControlSetup, state: StepState, tick: Tick) -> GuardState:
    """Return the motion so far, or one that begins at the measured pose; ObservationError if that is not known."""
    if state.motion is not None:
        return state.motion
    pose = np.zeros(len(setup.is_measured))
    pose[setup.is_measured] = tick.measure()
    return setup.guard.start_at(pose)


def _apply(setup: ControlSetup, state: StepState, motion: GuardState, target: np.ndarray, elapsed_s: float) -> Step:
    """Command what is allowed of a target, whoever gives it."""
    motion, command = setup.guard.apply(motion, target, elapsed_s)
    state = state.with_changes(motion=motion, state=ControlState.RUNNING, reason="", hold_cause=None)
    if command.limited:
        state = state.counted(Count("limited_commands"), *(Count("clamps", kind) for kind in command.kinds))
    if command.violations and not state.person and state.course is None:  # the policy's: a person may pull too fast
        state = _violated(setup, state, command.violations[0])
    return state, command.positions


def _paused(state: StepState) -> StepState:
    """Return the state of a hold, in which a person has to be reached again and a move is planned again."""
    course = state.course
    return state.with_changes(is_following=False, course=None if course is None else course.paused())


def _without_action(state: StepState, now_ns: int) -> StepState:
    """Return the state where no action is due."""
    newest = newest_chunk(state.plan)
    if newest is not None and newest.end_ns < now_ns:
        late_ms = (now_ns - newest.end_ns) / 1e6
        reason = f"no action is due: the newest chunk ended {late_ms:.0f} ms ago"
        return state.counted(Count("underruns")).held(HoldCause.UNDERRUN, reason, keeps_plan=True)
    if newest is None and (state.is_input_hold or state.hold_cause is HoldCause.OUTPUT):
        subject = "inputs" if state.is_input_hold else "outputs"
        return state.held(HoldCause.WAITING, f"{subject} are usable again; waiting for a chunk")
    return state


def _violated(setup: ControlSetup, state: StepState, joint: str) -> StepState:
    rules = setup.rules
    times_s = (*state.violations_s, state.running_s)[-max(rules.max_violations, 1) :]
    state = state.with_changes(violations_s=times_s).counted(Count("violations"))
    if not 0 < rules.max_violations <= len(times_s) or state.running_s - times_s[0] > rules.violation_window_s:
        return state
    return state.stopped(
        StopCause.LIMITS,
        f"{rules.max_violations} actions beyond the limits within {rules.violation_window_s:g} s, last of "
        f"joint '{joint}'",
    )


def _safe_action(setup: ControlSetup, state: StepState, elapsed_s: float) -> Step:
    """Brake, then go to the safe pose, if there is one."""
    motion = state.motion
    state = state.with_changes(is_braked=state.is_braked or motion is None or not setup.guard.must_brake(motion))
    if motion is None or not setup.safe_pose or not state.is_braked:
        return _brake(setup, state, elapsed_s)
    target = motion.last.copy()
    target[list(setup.safe_pose)] = list(setup.safe_pose.values())
    motion, command = setup.guard.apply(motion, setup.nearest(target, motion.last), elapsed_s)
    return state.with_changes(motion=motion), command.positions


def _settle(setup: ControlSetup, state: StepState, elapsed_s: float) -> Step:
    """Bring the robot to rest after a task, then forget where it was."""
    if state.motion is not None and setup.guard.must_brake(state.motion):
        return _brake(setup, state, elapsed_s)
    return state.with_changes(motion=None), None


def _brake(setup: ControlSetup, state: StepState, elapsed_s: float) -> Step:
    if state.motion is None:
        return state, None
    motion = setup.guard.brake(state.motion, elapsed_s)
    return state.with_changes(motion=motion), motion.last


def _idle(setup: ControlSetup, state: StepState, reason: str) -> StepState:
    motion = state.motion
    # where a person goes on, so does the motion
    if motion is not None and not state.person and not setup.guard.must_brake(motion):
        motion = None
    return state.with_changes(state=ControlState.IDLE, reason=reason, hold_cause=None, plan=(), motion=motion)
