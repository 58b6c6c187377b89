# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep a simulator in step with a policy node: simulated time goes on when the policy has done its part of it.

The policy node acknowledges a control tick by `~/command_source`, which it publishes after the command of the tick, and
an observation by `~/action_chunk`. So neither the speed of the machine nor the time that inference takes changes what
happens; inference counts as taking no time. A policy node that is not there, or does not answer for `timeout_s`, is not
waited for until it is heard of again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from gr00t_msgs.msg import ActionChunk, CommandSource, PolicyStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time

REPEAT_S = 0.1  # the clock is best effort for its readers: repeated while nobody answers
MOVING = (CommandSource.POLICY, CommandSource.PERSON, CommandSource.MOTION)  # a command belongs to these ticks


class LockStep:
    """What a policy node has done so far. Callbacks and waits are on different threads."""

    def __init__(
        self,
        node: Node,
        *,
        policy: str,
        control_period_s: float,
        query_period_s: float,
        timeout_s: float,
        repeat_clock: Callable[[], None],
    ) -> None:
        """Subscribe to what the policy node publishes.

        Args:
            node: of the simulator.
            policy: name of the policy node.
            control_period_s: of its control ticks.
            query_period_s: from one of its observations to the next, at most.
            timeout_s: longest wait for it, on the steady clock.
            repeat_clock: publishes the present time again.
        """
        self.num_late = 0  # waits without an answer
        self._node, self._timeout_s, self._repeat_clock = node, timeout_s, repeat_clock
        self._control_ns, self._query_ns = round(control_period_s * 1e9), round(query_period_s * 1e9)
        self._news = threading.Condition()
        self._is_closed = False
        self._source: int | None = None  # of the newest control tick; None: not waited for
        self._ack_ns = self._used_ns = -1  # that tick, and the one whose command has been waited for
        self._has_command = False  # since then
        self._asks = False  # the policy has a task
        self._chunk_ns: int | None = None  # observation of the newest chunk of the task
        self._waits_for_chunks = True
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(CommandSource, f"{policy}/command_source", self._on_source, 100)
        node.create_subscription(ActionChunk, f"{policy}/action_chunk", self._on_chunk, 10)
        node.create_subscription(PolicyStatus, f"{policy}/status", self._on_status, latched)

    @property
    def is_engaged(self) -> bool:
        """Whether a policy node is waited for."""
        return self._source is not None

    def note_command(self) -> None:
        """Take that a command has arrived and counts."""
        with self._news:
            self._has_command = True
            self._news.notify_all()

    def wait_for_command(self, now_ns: int) -> None:
        """Wait until the control tick that is due at `now_ns`, if any, has commanded."""
        if self._source is None:
            return
        if not self._wait(lambda: self._has_ticked(now_ns)):
            self._source = None
            self._tell(now_ns, "no control tick")
        if self._ack_ns != self._used_ns:
            self._used_ns, self._has_command = self._ack_ns, False

    def wait_for_chunk(self, now_ns: int, *, has_images: bool) -> None:
        """Wait until the policy has answered, if it must: to the images of `now_ns`, or first of all."""
        if self._source is None or not self._waits_for_chunks:
            return
        if not self._wait(lambda: not self._is_query_due(now_ns, has_images)):
            self._waits_for_chunks = False
            self._tell(now_ns, "no chunk")

    def has_tick(self, now_ns: int) -> bool:
        """Whether `now_ns` is a control tick, or nobody has any."""
        return self._source is None or self._ack_ns == now_ns

    def wait_for_task(self) -> None:
        """Wait until the policy has a task."""
        if self._source is not None:
            self._wait(lambda: self._asks)

    def close(self) -> None:
        """End a wait; called before the thread that waits is joined."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()

    def _wait(self, is_over: Callable[[], bool]) -> bool:
        left_s = self._timeout_s
        while left_s > 0:
            with self._news:
                if self._news.wait_for(lambda: self._is_closed or is_over(), REPEAT_S):
                    return True
            left_s -= REPEAT_S
            self._repeat_clock()
        return False

    def _tell(self, now_ns: int, what: str) -> None:
        self.num_late += 1
        self._node.get_logger().warning(
            f"lock-step: {what} of the policy at {now_ns / 1e9:.2f} s within {self._timeout_s:g} s; going on without"
        )

    def _has_ticked(self, now_ns: int) -> bool:
        if self._source is None or self._ack_ns > now_ns:
            return True
        if self._ack_ns <= now_ns - self._control_ns:
            return False
        return self._ack_ns == self._used_ns or self._source not in MOVING or self._has_command

    def _is_query_due(self, now_ns: int, has_images: bool) -> bool:
        if not self._asks or self._source not in (CommandSource.POLICY, CommandSource.HOLD):
            return False
        return self._chunk_ns is None or (has_images and self._chunk_ns <= now_ns - self._query_ns)

    # In the executor's thread.

    def _on_source(self, message: CommandSource) -> None:
        with self._news:
            self._source, self._ack_ns = message.source, Time.from_msg(message.header.stamp).nanoseconds
            self._news.notify_all()

    def _on_chunk(self, message: ActionChunk) -> None:
        with self._news:
            self._chunk_ns, self._waits_for_chunks = Time.from_msg(message.header.stamp).nanoseconds, True
            self._news.notify_all()

    def _on_status(self, message: PolicyStatus) -> None:
        with self._news:
            is_running = message.state in (PolicyStatus.RUNNING, PolicyStatus.HOLDING)
            asks = is_running and bool(message.instruction) and not message.device
            if asks and not self._asks:
                self._chunk_ns, self._waits_for_chunks = None, True
            self._asks = asks
            self._news.notify_all()
