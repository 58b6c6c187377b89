# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A node that gives tasks to a policy node and waits for what comes of them."""

from __future__ import annotations

import time
from typing import Any

from gr00t_msgs.action import RunPolicy
from gr00t_msgs.msg import CommandSource, ErrorCode, PolicyStatus
from rclpy.action.client import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import printable

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICKS = 1000  # control ticks that may wait to be read
REPLY_TIMEOUT_S = 20.0
REST_TIMEOUT_S = 60.0
OUTCOMES = {
    ErrorCode.NONE: "ended",
    ErrorCode.TIME_LIMIT: "time limit reached",
    ErrorCode.CANCELLED: "cancelled",
    ErrorCode.STOPPED: "stopped",
    ErrorCode.DEACTIVATED: "deactivated",
    ErrorCode.NOT_ACTIVE: "not active",
}


class DemoError(Gr00tError):
    """Robot or policy did not do what was asked."""


class TaskGiver(Node):
    """Goals for a policy node, and its status; spins itself while it waits."""

    def __init__(self, name: str, policy: str = "policy") -> None:
        """Watch the policy node of this name."""
        super().__init__(name)
        self.status: PolicyStatus | None = None
        self._source: CommandSource | None = None
        self.create_subscription(PolicyStatus, f"{policy}/status", self._on_status, LATCHED)
        self.create_subscription(CommandSource, f"{policy}/command_source", self._on_source, TICKS)
        self.policy = ActionClient(self, RunPolicy, f"{policy}/run_policy")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def wait_for(self, what: str, is_there: Any, timeout_s: float) -> None:
        """Spin until `is_there()`.

        Raises:
            DemoError: it took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while not is_there():
            self._executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > deadline_s:
                raise DemoError(f"{what}: not found within {timeout_s:.0f} s; see the logs next to the results")

    def spin(self, timeout_s: float) -> None:
        """Take one message, or wait for so long."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def spin_for(self, duration_s: float) -> None:
        """Take messages for so long."""
        end_s = time.monotonic() + duration_s
        while (rest_s := end_s - time.monotonic()) > 0:
            self.spin(rest_s)

    def reply(self, future: Future, what: str, timeout_s: float = REPLY_TIMEOUT_S) -> Any:
        """Wait for a result; DemoError if it takes too long."""
        self.wait_for(what, future.done, timeout_s)
        return future.result()

    def call(self, client: Any, request: Any = None) -> Any:
        """Call a service, of type Trigger if there is no request."""
        return self.reply(client.call_async(request or Trigger.Request()), client.srv_name)

    def has_policy(self) -> bool:
        """Whether the policy node is active and waits for a task."""
        return self.status is not None and self.policy.server_is_ready() and self.status.state == PolicyStatus.IDLE

    def give(self, instruction: str, time_limit_s: float = 0.0) -> Goal:
        """Give a task to the policy; time limit 0: none."""
        goal = RunPolicy.Goal(instruction=instruction, time_limit=time_limit_s)
        return Goal(self, self.reply(self.policy.send_goal_async(goal), "run_policy"))

    def wait_for_rest(self, *, may_be_stopped: bool = False) -> None:
        """Let the node brake: a command after a reset would move the arm out of its start pose.

        Args:
            may_be_stopped: a latched stop, which lasts until a reset, will do.
        """
        at_rest = (CommandSource.NONE, *((CommandSource.STOP,) if may_be_stopped else ()))
        self.wait_for(
            "end of the policy's commands",
            lambda: self._source is not None and self._source.source in at_rest,
            REST_TIMEOUT_S,
        )

    def _on_source(self, message: CommandSource) -> None:
        self._source = message

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message


class Goal:
    """A task that was given."""

    def __init__(self, giver: TaskGiver, handle: Any) -> None:
        """Begin to wait for its end."""
        self._giver, self._handle = giver, handle
        self._ended = handle.get_result_async()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    def cancel(self) -> None:
        """End it now."""
        self._giver.reply(self._handle.cancel_goal_async(), "cancel of run_policy")

    def outcome(self, timeout_s: float = REPLY_TIMEOUT_S) -> str:
        """Wait for its end; return how it ended."""
        result = self._giver.reply(self._ended, "run_policy", timeout_s).result
        text = OUTCOMES.get(result.error_code, f"error {result.error_code}")
        return f"{text} ({printable(result.error_msg)})" if result.error_msg else text
