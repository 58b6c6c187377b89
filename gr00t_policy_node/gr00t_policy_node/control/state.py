# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""States of the controller, causes of holds and stops, and the rules that turn one into the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from gr00t_policy_node.chunking.player import Plan
from gr00t_policy_node.control.course import Course, CourseCause, CourseEnd
from gr00t_policy_node.control.person import Person
from gr00t_policy_node.safety.guard import GuardState
from gr00t_policy_node.safety.limits import LimitKind
from gr00t_training.settings import setting


class ControlState(str, Enum):
    """Why the robot moves or does not."""

    IDLE = "idle"  # no task
    RUNNING = "running"
    HOLDING = "holding"  # a task, but an input is not usable or no action is due
    STOPPED = "stopped"  # latched


class CommandSource(str, Enum):
    """Who commands the robot at a control tick."""

    NONE = "none"  # nothing is commanded
    POLICY = "policy"
    PERSON = "person"
    MOTION = "motion"  # a course: a move to a pose, or a replay
    HOLD = "hold"  # braked to rest, or held there
    STOP = "stop"  # latched


class HoldCause(str, Enum):
    """Why the robot is held."""

    WAITING = "waiting"  # for the first chunk after a start or a hold
    INPUT = "input"  # stale, missing or not usable
    PUBLISHERS = "publishers"  # two of them send the same channels of an input
    STATE_RANGE = "state range"  # the measured state is far outside what training saw
    UNDERRUN = "underrun"  # the newest chunk has ended
    CHUNK = "chunk"  # one was refused
    POLICY = "policy"  # it failed to answer
    POSE = "pose"  # not measured, so the first motion cannot begin
    CLOCK = "clock"  # was set back, or does not advance
    OUTPUT = "output"  # nothing receives the commands
    LINK = "link"  # the device of the person in control is silent
    ALIGN = "align"  # the device of the person in control is not near the robot yet
    ASKED = "asked"  # for by somebody, until they say go on


class StopCause(str, Enum):
    """Why the robot was stopped for good."""

    REQUEST = "request"  # service, topic or code
    INPUT = "input"  # not usable for longer than its budget
    PUBLISHERS = "publishers"  # two of them sent the same channels for longer than the inputs' budget
    STATE_RANGE = "state range"  # unlike training for longer than the inputs' budget
    CLOCK = "clock"  # did not advance for longer than the inputs' budget
    OUTPUT = "output"  # not usable for longer than the inputs' budget
    SILENCE = "silence"  # no chunk for longer than its budget
    LIMITS = "limits"  # the policy requested forbidden motion too often


@dataclass(frozen=True)
class StopRules:
    """When a hold becomes a stop that only a reset clears, and what the robot does then."""

    max_input_gap_s: float = setting(
        10.0,
        "Inputs or outputs not usable for longer than this stop the robot [s]; 0: they only hold it.",
        ge=0.0,
    )
    max_silence_s: float = setting(
        10.0, "A policy without a chunk for longer than this, with fresh inputs, stops the robot [s]; 0: never.", ge=0.0
    )
    max_violations: int = setting(
        0, "So many ticks with a target beyond position or velocity limits stop the robot; 0: never.", ge=0
    )
    violation_window_s: float = setting(1.0, "Time in which these violations are counted [s].", ge=1e-3, le=3600.0)
    safe_pose: Mapping[str, float] = setting(
        default_factory=dict,
        description="Positions by channel that a stop leads to, within limits; others and with none all: hold.",
    )


class Count(NamedTuple):
    """What is counted."""

    name: str  # field of `ControlReport`
    kind: HoldCause | StopCause | LimitKind | None = None  # where the field has several


@dataclass(frozen=True)
class StepState:
    """Everything that a controller remembers from one event to the next."""

    state: ControlState = ControlState.IDLE
    reason: str = "no instruction"
    instruction: str = ""
    hold_cause: HoldCause | None = None
    stop_cause: StopCause | None = None  # of the newest stop
    is_input_hold: bool = False  # whether the hold is because of a fault of the inputs that a tick reported
    is_braked: bool = False  # since the stop
    plan: Plan = ()
    motion: GuardState | None = None  # None: the pose has to be measured before the first command
    last_tick_ns: int | None = None
    source: CommandSource = CommandSource.NONE  # at the last tick
    people: Mapping[str, Person] = field(default_factory=dict)  # engaged, by device, the first one first
    person: str = ""  # device of the person in control; empty: none
    is_following: bool = False  # whether the robot has reached that person's target once
    is_hold_asked: bool = False  # policy and course are held until somebody says go on; a person commands anyway
    steer_fault: str = ""  # why the newest message of a device was refused
    handover_ns: int | None = None  # of the last hand-over from a person: older observations are not acted on
    course: Course | None = None
    course_end: CourseEnd | None = None  # of the newest course that has ended
    # Sums of tick periods, so that a pause of the whole process or a jump of the clock does not count as silence.
    input_gap_s: float = 0.0
    silence_s: float = 0.0
    running_s: float = 0.0
    violations_s: tuple[float, ...] = ()  # newest last, on the time of `running_s`
    counts: Mapping[Count, int] = field(default_factory=dict)

    @property
    def has_task(self) -> bool:
        """Whether there is a task to infer for."""
        return bool(self.instruction) and self.state in (ControlState.RUNNING, ControlState.HOLDING)

    @property
    def is_commanded(self) -> bool:
        """Whether policy, person or course want to move the robot."""
        return self.has_task or bool(self.person) or self.course is not None

    def with_changes(self, **changes: Any) -> StepState:
        """Return the state with other values of some fields."""
        # dataclasses.replace takes several times as long, and a control tick changes the state up to eight times
        state = object.__new__(StepState)
        state.__dict__.update(self.__dict__, **changes)
        return state

    def counted(self, *counts: Count) -> StepState:
        """Return the state with one more of each of these."""
        total = dict(self.counts)
        for count in counts:
            total[count] = total.get(count, 0) + 1
        return self.with_changes(counts=total)

    def held(self, cause: HoldCause, reason: str, *, keeps_plan: bool = False) -> StepState:
        """Return the state of a hold; it counts where the one before had another cause."""
        state = self.with_changes(
            state=ControlState.HOLDING,
            reason=reason,
            hold_cause=cause,
            is_input_hold=False,
            plan=self.plan if keeps_plan else (),
        )
        return state if self.hold_cause is cause else state.counted(Count("holds", cause))

    def stopped(self, cause: StopCause, reason: str) -> StepState:
        """Return the state of a latched stop; an already latched stop is unchanged."""
        if self.state is ControlState.STOPPED:
            return self
        return (
            self.with_changes(
                state=ControlState.STOPPED,
                reason=reason,
                hold_cause=None,
                stop_cause=cause,
                is_braked=False,
                plan=(),
                person="",
                is_hold_asked=False,
                handover_ns=self.last_tick_ns if self.person else self.handover_ns,
                people={name: replace(person, must_release=True) for name, person in self.people.items()},
            )
            .counted(Count("stops", cause))
            .course_ended(CourseCause.STOPPED, reason)
        )

    def course_ended(self, cause: CourseCause, reason: str = "") -> StepState:
        """Return the state without a course."""
        if self.course is None:
            return self
        end = CourseEnd(self.course.number, cause, reason)
        return self.with_changes(course=None, course_end=end, is_hold_asked=self.is_hold_asked and self.has_task)

    def report(self) -> ControlReport:
        """Return what others may know."""
        numbers = {count.name: number for count, number in self.counts.items() if count.kind is None}
        return ControlReport(
            state=self.state,
            reason=self.reason,
            cause=self.stop_cause if self.state is ControlState.STOPPED else self.hold_cause,
            instruction=self.instruction,
            source=self.source,
            device=self.person,
            teleop_fault=self.steer_fault,
            holds=self._kinds("holds"),
            stops=self._kinds("stops"),
            clamps=self._kinds("clamps"),
            **numbers,
        )

    def _kinds(self, name: str) -> dict[Any, int]:
        return {count.kind: number for count, number in self.counts.items() if count.name == name}


@dataclass(frozen=True)
class ControlReport:
    """State and counts since the controller was made."""

    state: ControlState = ControlState.IDLE
    reason: str = "no instruction"
    cause: HoldCause | StopCause | None = None  # of a hold or a stop
    instruction: str = ""
    source: CommandSource = CommandSource.NONE  # at the last tick
    device: str = ""  # of the person in control
    teleop_fault: str = ""  # why a person's targets are not followed
    takeovers: int = 0
    chunks: int = 0
    stale_chunks: int = 0  # of an observation that is not newer than the last one's
    refused_observations: int = 0
    refused_chunks: int = 0
    limited_commands: int = 0
    underruns: int = 0  # ticks
    violations: int = 0  # ticks
    holds: Mapping[HoldCause, int] = field(default_factory=dict)  # how often one began
    stops: Mapping[StopCause, int] = field(default_factory=dict)
    clamps: Mapping[LimitKind, int] = field(default_factory=dict)  # commands changed, by limit

    @property
    def num_holds(self) -> int:
        """How often a hold began, without the wait for a first chunk, which each task begins with."""
        return sum(count for cause, count in self.holds.items() if cause is not HoldCause.WAITING)
