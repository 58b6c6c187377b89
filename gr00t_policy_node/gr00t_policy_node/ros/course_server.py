# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Move to a pose and replay actions: the actions `~/move_to` and `~/replay`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gr00t_msgs.action import MoveTo, ReplayMotion
from gr00t_msgs.msg import ErrorCode
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.lifecycle import LifecycleNode

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.course import CourseCause, CourseEnd, CourseError
from gr00t_policy_node.replaying import unit_factors
from gr00t_policy_node.ros.diagnostics import STATES
from gr00t_policy_node.ros.waiting_goal import WaitingGoal
from gr00t_recorder.ros.clock_watch import create_steady_timer

GOAL_PERIOD_S = 0.1
ERROR_CODES = {
    CourseCause.REACHED: ErrorCode.NONE,
    CourseCause.BUSY: ErrorCode.BUSY,
    CourseCause.STOPPED: ErrorCode.STOPPED,
    CourseCause.INVALID: ErrorCode.INVALID_POSE,
    CourseCause.NOT_ALIGNED: ErrorCode.NOT_ALIGNED,
    CourseCause.NOT_REACHED: ErrorCode.NOT_REACHED,
    CourseCause.INTERRUPTED: ErrorCode.INTERRUPTED,
    CourseCause.CANCELLED: ErrorCode.CANCELLED,
}


class CourseServer:
    """Actions of one node; refuses goals until `is_active` is set."""

    def __init__(
        self,
        node: LifecycleNode,
        controller: Controller,
        on_change: Callable[[], None],
        *,
        motion_speed: float,
        units: Mapping[str, str],
    ) -> None:
        """Create the actions.

        Args:
            node: owner of the interfaces.
            controller: follows the courses.
            on_change: called after each start and end.
            motion_speed: of a move whose goal names none, as a share of the limits.
            units: of the action channels.
        """
        self.is_active = False
        self._node, self._controller, self._on_change = node, controller, on_change
        self._motion_speed, self._units = motion_speed, units
        self._goal: _Goal | None = None
        self._timer = create_steady_timer(node, GOAL_PERIOD_S, self._watch_goal)
        self._actions = [
            ActionServer(node, kind, name, execute, cancel_callback=lambda _: CancelResponse.ACCEPT)
            for kind, name, execute in (
                (MoveTo, "~/move_to", self._move_to),
                (ReplayMotion, "~/replay", self._replay),
            )
        ]

    def abandon(self, reason: str) -> None:
        """End the running goal, if any, because the node stops."""
        if self._goal is not None:
            self._controller.end_course(self._goal.number)
            self._end(ErrorCode.DEACTIVATED, reason)

    def close(self) -> None:
        """Destroy the interfaces."""
        self._node.destroy_timer(self._timer)
        for action in self._actions:
            action.destroy()

    async def _move_to(self, handle: ServerGoalHandle) -> MoveTo.Result:
        goal: MoveTo.Goal = handle.request

        def begin() -> int:
            if bool(goal.pose) == bool(goal.names) or len(goal.names) != len(goal.positions):
                found = f"pose '{goal.pose}', {len(goal.names)} names and {len(goal.positions)} positions"
                raise CourseError(CourseCause.INVALID, f"{found}: expected a pose, or one position per name")
            if len(set(goal.names)) != len(goal.names):
                found = f"a channel is named twice in {', '.join(goal.names)}"
                raise CourseError(CourseCause.INVALID, f"{found}; expected each once")
            positions = np.array(goal.positions, np.float64) * self._factors(goal)
            pose = goal.pose or dict(zip(goal.names, positions.tolist(), strict=True))
            return self._controller.move_to(pose, goal.speed or self._motion_speed)

        return await self._run(handle, MoveTo, begin)

    async def _replay(self, handle: ServerGoalHandle) -> ReplayMotion.Result:
        goal: ReplayMotion.Goal = handle.request

        def begin() -> int:
            width = len(goal.names)
            if not width or len(goal.data) % width:
                found = f"{len(goal.data)} numbers for {width} names"
                raise CourseError(CourseCause.INVALID, f"{found}: expected rows of one number per name")
            rows = np.array(goal.data, np.float64).reshape(-1, width) * self._factors(goal)
            step_ns = goal.step.sec * 1_000_000_000 + goal.step.nanosec
            return self._controller.replay(list(goal.names), rows, step_ns, goal.speed or 1.0)

        return await self._run(handle, ReplayMotion, begin)

    def _factors(self, goal: Any) -> np.ndarray:
        try:
            return unit_factors(goal.names, goal.units, self._units)
        except ValueError as error:
            raise CourseError(CourseCause.INVALID, str(error)) from error

    async def _run(self, handle: ServerGoalHandle, kind: Any, begin: Callable[[], int]) -> Any:
        try:
            if not self.is_active:
                handle.abort()
                found = "the node is not active; activate it first"
                return kind.Result(error_code=ErrorCode.NOT_ACTIVE, error_msg=found)
            self._watch_goal()  # the last one may have ended since the timer looked
            limited = self._controller.report().limited_commands
            number = begin()
        except CourseError as error:
            handle.abort()
            return kind.Result(error_code=ERROR_CODES[error.cause], error_msg=str(error))
        self._goal = _Goal(handle, kind, number, limited)
        self._on_change()
        return await self._goal.result

    def _watch_goal(self) -> None:
        goal = self._goal
        if goal is None:
            return
        course, report = self._controller.course(goal.number), self._controller.report()
        if isinstance(course, CourseEnd):
            self._end(ERROR_CODES[course.cause], course.reason)
        elif goal.handle.is_cancel_requested:
            self._controller.end_course(goal.number)
            self._end(ErrorCode.CANCELLED, "")
        else:
            feedback = goal.kind.Feedback(progress=course.progress, state=STATES[report.state], reason=report.reason)
            goal.handle.publish_feedback(feedback)

    def _end(self, error_code: int, error_msg: str) -> None:
        goal, self._goal = self._goal, None
        assert goal is not None
        result = goal.kind.Result(error_code=error_code, error_msg=error_msg)
        if hasattr(result, "limited_commands"):
            result.limited_commands = self._controller.report().limited_commands - goal.limited_before
        goal.end(result, is_success=error_code == ErrorCode.NONE)
        self._on_change()


class _Goal(WaitingGoal):
    def __init__(self, handle: ServerGoalHandle, kind: Any, number: int, limited_before: int) -> None:
        super().__init__(handle)
        self.kind, self.number, self.limited_before = kind, number, limited_before
