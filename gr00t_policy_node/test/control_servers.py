# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Action servers as the controllers of arms and grippers have them; for tests."""

from __future__ import annotations

from typing import Any

from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future


class GoalServer:
    """Accepts goals and lets each run until it is ended, is cancelled, or another replaces it."""

    def __init__(self, node: Node, action_type: Any, name: str, *, replaces: bool = True) -> None:
        """Offer the action; with `replaces` False goals run in parallel."""
        self.goals: list[Any] = []  # accepted
        self.rejected = 0
        self.cancelled: list[int] = []  # places in `goals`
        self.accepts = True
        self._type = action_type
        self._replaces = replaces
        self._ends: dict[int, Future] = {}
        self._numbers: dict[bytes, int] = {}
        self._server = ActionServer(
            node, action_type, name, self._execute, goal_callback=self._receive, cancel_callback=self._cancel
        )

    @property
    def running(self) -> list[int]:
        """Places in `goals` of those that run."""
        return [number for number, end in self._ends.items() if not end.done()]

    def end(self, way: str) -> None:
        """End all goals: succeed or abort."""
        for number in self.running:
            self._ends[number].set_result(way)

    def close(self) -> None:
        """Withdraw the action."""
        self._server.destroy()

    def _receive(self, goal: Any) -> GoalResponse:
        self.rejected += not self.accepts
        return GoalResponse.ACCEPT if self.accepts else GoalResponse.REJECT

    async def _execute(self, handle: ServerGoalHandle) -> Any:
        if self._replaces:
            self.end("abort")
        number = len(self.goals)
        self._numbers[bytes(handle.goal_id.uuid)] = number
        self._ends[number] = Future()
        self.goals.append(handle.request)
        way = await self._ends[number]
        {"succeed": handle.succeed, "abort": handle.abort, "cancel": handle.canceled}[str(way)]()
        result = self._type.Result()
        if hasattr(result, "error_code") and way == "abort":
            result.error_code, result.error_string = self._type.Result.PATH_TOLERANCE_VIOLATED, "j0 is behind"
        return result

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        number = self._numbers[bytes(handle.goal_id.uuid)]
        self.cancelled.append(number)
        if not self._ends[number].done():
            self._ends[number].set_result("cancel")
        return CancelResponse.ACCEPT
