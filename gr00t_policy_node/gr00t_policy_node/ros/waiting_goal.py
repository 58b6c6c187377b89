# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A goal of an action that waits as a coroutine until a timer ends it: the executor has one thread."""

from __future__ import annotations

import time
from typing import Any

from gr00t_msgs.msg import ErrorCode
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future


class WaitingGoal:
    """An accepted goal. `await goal.result` waits for `end`."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        """Begin to wait."""
        self.handle = handle
        self.result: Future = Future()
        self._start_s = time.monotonic()

    @property
    def duration_s(self) -> float:
        """Time since the goal was accepted."""
        return time.monotonic() - self._start_s

    def end(self, result: Any, *, is_success: bool) -> None:
        """End with a result that has `error_code` and `duration`; canceled only if a client asked for that."""
        result.duration = self.duration_s
        if is_success:
            self.handle.succeed()
        elif result.error_code == ErrorCode.CANCELLED and self.handle.is_cancel_requested:
            self.handle.canceled()
        else:
            self.handle.abort()
        self.result.set_result(result)
