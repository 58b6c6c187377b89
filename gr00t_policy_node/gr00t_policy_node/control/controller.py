# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The controller of one robot: the pure steps of `gr00t_policy_node.control.step` behind a lock.

Chunks come from another thread than ticks, so every event takes the lock; none of them waits for inference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gr00t_policy_node.chunking.jitter import JitterMonitor
from gr00t_policy_node.chunking.player import Execution, newest_chunk
from gr00t_policy_node.control import planning, step, takeover
from gr00t_policy_node.control.course import Course, CourseCause, CourseEnd, CourseError
from gr00t_policy_node.control.person import Request, TakeoverRules
from gr00t_policy_node.control.setup import ControlSetup
from gr00t_policy_node.control.state import ControlReport, Count, HoldCause, StepState, StopCause, StopRules
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_training.embodiment import Embodiment
from gr00t_training.io.text import printable
from gr00t_training.types import ActionChunk, Continuation


class Controller:
    """State of one robot's execution. Every method may be called from any thread."""

    def __init__(
        self,
        embodiment: Embodiment,
        limits: Mapping[str, JointLimit],
        period_s: float,
        *,
        execution: Execution | None = None,
        stops: StopRules | None = None,
        takeover: TakeoverRules | None = None,
        poses: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Prepare for the action keys that the model of `embodiment` produces.

        Args:
            embodiment: of the policy.
            limits: by action channel.
            period_s: control period.
            execution: how chunks become a motion; None: defaults.
            stops: when a hold becomes a stop, and what happens then; None: defaults.
            takeover: when and how a person may command; None: defaults.
            poses: named ones to move to, channel -> position.

        Raises:
            ConfigError: an action is a difference without a reference; a channel has no limit, or is not a rate and has
                no state channel of its name to start from; an endless one is not an angle; a rate cannot reach zero;
                the safe pose or another one is not within limits.
        """
        self._setup = ControlSetup(embodiment, limits, period_s, execution, stops, takeover, poses)
        self._state = StepState()
        self._lock = threading.Lock()
        self._num_courses = 0
        self.keys = self._setup.keys
        self.names = self._setup.guard.names  # commanded channels, action keys concatenated in order
        self.measured_names = self._setup.measured_names  # the first command starts at their measured position
        self.warnings = self._setup.guard.warnings  # joints without an acceleration limit
        self.jitter = JitterMonitor(self._setup.player.motions)

    @property
    def has_task(self) -> bool:
        """Whether there is a task to infer for."""
        return self._state.has_task

    @property
    def is_policy_asked(self) -> bool:
        """Whether answers of the policy are of use: a task runs, not held on request, and no person has control."""
        state = self._state
        return state.has_task and not state.person and not state.is_hold_asked

    @property
    def is_commanded(self) -> bool:
        """Whether policy, person or course want to move the robot now or at the next control tick."""
        state = self._state
        return state.is_commanded or takeover.has_request(self._setup, state)

    @property
    def last_command(self) -> np.ndarray | None:
        """The last command (N,); None before the first motion."""
        motion = self._state.motion
        return None if motion is None else motion.last

    def report(self) -> ControlReport:
        """Return state and counts."""
        state = self._state
        report = state.report()
        fault = takeover.teleop_fault(self._setup, state)
        return replace(report, teleop_fault=fault) if fault else report

    def start(self, instruction: str, on_accepted: Callable[[], None] | None = None) -> None:
        """Begin a task, or replace the running one: the old plan is dropped, the robot holds until there is a new one.

        Args:
            instruction: what to do.
            on_accepted: called once the task cannot be refused any more, before its instruction is visible.

        Raises:
            ValueError: the instruction is empty, or the stop is latched; a running task is not changed.
        """
        with self._lock:
            state = step.started(self._state, instruction)
            if on_accepted is not None:
                on_accepted()
            self._state = state

    def finish(self, reason: str) -> None:
        """End the task; the robot comes to rest by the ticks that follow, or by `braking`. A latched stop stays."""
        with self._lock:
            self._state = step.finished(self._setup, self._state, reason)

    def stop(self, reason: str, cause: StopCause = StopCause.REQUEST) -> None:
        """Stop and stay stopped until `reset`: braked to rest, or led to the safe pose."""
        with self._lock:
            self._state = self._state.stopped(cause, reason)

    def hold(self) -> None:
        """Hold task or course until `resume`; a person who has control keeps it, and one who engages gets it.

        Raises:
            ValueError: nothing runs that could be held.
        """
        with self._lock:
            self._state = step.hold_asked(self._state)

    def resume(self) -> None:
        """Let task or course go on; the policy acts on newer observations only.

        Raises:
            ValueError: nothing is held on request.
        """
        with self._lock:
            self._state = step.resumed(self._state)

    def reset(self) -> None:
        """Clear a latched stop. The robot moves again only with a new task."""
        with self._lock:
            self._state = step.reset(self._setup, self._state)

    def fail(self, reason: str) -> None:
        """Drop the plan because the policy did not answer; the robot holds until it does."""
        with self._lock:
            if self.is_policy_asked:
                self._state = self._state.held(HoldCause.POLICY, reason)

    def steer(self, device: str, request: Request | None, at_ns: int, now_ns: int) -> str:
        """Take a message of a person's device; return why it cannot be used, empty if it can.

        Args:
            device: name of the device.
            request: what the person asks for; None: the device is not engaged.
            at_ns: when it was read, node clock.
            now_ns: node clock.
        """
        with self._lock:
            try:
                state, fault = takeover.steered(self._setup, self._state, device, request, at_ns, now_ns), ""
            except ValueError as error:
                state, fault = self._state, str(error)
            self._state = state if state.steer_fault == fault else state.with_changes(steer_fault=fault)
        return fault

    def disengage(self) -> None:
        """Take control from every person until they engage again, and end a course; for the end of an activation."""
        with self._lock:
            state = self._state.course_ended(CourseCause.CANCELLED, "the node was deactivated")
            self._state = takeover.disengaged(state)

    def move_to(self, pose: str | Mapping[str, float], speed: float) -> int:
        """Begin a slow move to a pose, a named one or channel -> position; return the number of the course.

        Raises:
            CourseError: it is refused.
        """
        if isinstance(pose, str):
            if pose not in self._setup.poses:
                known = ", ".join(self._setup.poses) or "none"
                raise CourseError(
                    CourseCause.INVALID, f"pose '{printable(pose)}' is not known; 'poses' of the limits: {known}"
                )
            pose = self._setup.poses[pose]
        return self._begin(planning.move(self._setup, self._num_courses + 1, pose, speed))

    def replay(self, names: Sequence[str], rows: np.ndarray, step_ns: int, speed: float) -> int:
        """Begin to replay rows (T, len(names)); return the number of the course.

        Raises:
            CourseError: it is refused.
        """
        return self._begin(planning.replay(self._setup, self._num_courses + 1, names, rows, step_ns, speed))

    def course(self, number: int) -> Course | CourseEnd:
        """Return a course that runs, or how it ended."""
        state = self._state
        if state.course is not None and state.course.number == number:
            return state.course
        if state.course_end is not None and state.course_end.number == number:
            return state.course_end
        return CourseEnd(number, CourseCause.INTERRUPTED, "another one has begun")

    def end_course(self, number: int) -> None:
        """End a course, if it still runs; the robot comes to rest by the ticks that follow."""
        with self._lock:
            course = self._state.course
            if course is not None and course.number == number:
                self._state = step.finished(
                    self._setup, self._state.course_ended(CourseCause.CANCELLED), "no instruction"
                )

    def _begin(self, course: Course) -> int:
        with self._lock:
            self._state = step.routed(self._state, course)
            self._num_courses = course.number
        return course.number

    def offer(self, chunk: ActionChunk, instruction: str, now_ns: int | None = None) -> bool:
        """Take a chunk that was inferred for `instruction`; False when it is refused or not needed any more.

        A refused chunk drops the plan: older chunks are not continued.

        Args:
            chunk: answer of the policy.
            instruction: of the query.
            now_ns: node clock, to refuse answers to observations in the future; None: they are not refused.
        """
        with self._lock:
            before = newest_chunk(self._state.plan)
            self._state, is_executed = step.offered(self._setup, self._state, chunk, instruction, now_ns)
        if is_executed:
            self.jitter.add(before, chunk, chunk.start_ns if now_ns is None else now_ns)
        return is_executed

    def continuation(self, stamp_ns: int, latency_s: float) -> Continuation | None:
        """Return what the answer to an observation must continue; None: it is independent.

        Args:
            stamp_ns: of the observation.
            latency_s: expected from the observation to its chunk, such as a high quantile of those measured.
        """
        return self._setup.player.continuation(self._state.plan, stamp_ns, round(latency_s * 1e9))

    def count_refused_observation(self) -> None:
        """Count a policy query that was not made."""
        with self._lock:
            self._state = self._state.counted(Count("refused_observations"))

    def tick(
        self,
        now_ns: int,
        fault: str,
        measure: Callable[[], np.ndarray],
        output_fault: str = "",
        *,
        cause: HoldCause = HoldCause.INPUT,
        elapsed_s: float | None = None,
    ) -> np.ndarray | None:
        """Return the command (N,) for this control tick, None if nothing must be sent.

        Args:
            now_ns: node clock.
            fault: why the inputs cannot be used, empty if they can.
            measure: gives the measured pose in the order of `measured_names`; called before the first motion only, may
                raise ObservationError.
            output_fault: why commands do not reach the robot, empty if they do. It is brought to rest; the next
                motion begins at the pose that is measured then, since something else may have moved it.
            cause: kind of `fault`.
            elapsed_s: time since the last tick by the steady clock, when `fault` is that the node's clock does not
                advance; None: by the node's clock.
        """
        tick = step.Tick(now_ns, measure, fault, cause, output_fault, elapsed_s)
        with self._lock:
            self._state, command = step.ticked(self._setup, self._state, tick)
        return command

    def braking(self) -> Iterator[np.ndarray]:
        """Yield the commands (N,), to be sent a control period apart, that bring the robot to rest; drops the plan.

        For the end of the node, when no more ticks come.
        """
        with self._lock:
            self._state = self._state.with_changes(plan=())
        while True:
            with self._lock:
                motion = self._state.motion
                following = None if motion is None else next(self._setup.guard.braking(motion), None)
                if following is None:
                    return
                self._state = self._state.with_changes(motion=following)
            yield following.last
