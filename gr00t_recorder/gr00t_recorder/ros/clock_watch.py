# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Detect that simulated time does not advance, and timers that run meanwhile.

With `use_sim_time` the clock of a node and its timers stay at zero until `/clock` comes, and stop with it. What has to
run anyway (status, watchdogs, time limits) uses the steady clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage] - Humble has no clock_type
from rclpy.node import Node
from rclpy.timer import Timer

CLOCK_TOPIC = "/clock"
STALL_S = 1.0  # simulators publish the clock at 10 Hz and more
STEADY_CLOCK = Clock(clock_type=ClockType.STEADY_TIME)


def create_steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """Return a timer of a node that runs on the steady clock, whatever `/clock` says."""
    return node.create_timer(period_s, callback, clock=STEADY_CLOCK)


class ClockWatch:
    """Reports whether a node's clock advances; call it at least a few times per second."""

    def __init__(self, node: Node, stall_s: float = STALL_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin to watch.

        Args:
            node: its clock is watched.
            stall_s: the clock counts as stopped when it has not changed for this time [s].
            monotonic: gives the steady time [s].
        """
        self._node = node
        self._stall_s = stall_s
        self._monotonic = monotonic
        self._newest_ns = -1
        self._changed_s = monotonic()

    def fault(self) -> str:
        """Return that the clock does not advance, and what to do; empty if it does."""
        clock = self._node.get_clock()
        now_ns = clock.now().nanoseconds
        now_s = self._monotonic()
        if now_ns != self._newest_ns:
            if self._newest_ns >= 0 or now_ns > 0:  # zero: no message on /clock yet
                self._changed_s = now_s
            self._newest_ns = now_ns
        if now_s - self._changed_s < self._stall_s or not getattr(clock, "ros_time_is_active", False):
            return ""
        if not self._node.count_publishers(CLOCK_TOPIC):
            return (
                "the clock does not advance: use_sim_time is true and nothing publishes /clock; start the simulator, "
                "play the bag with --clock, or set use_sim_time to false"
            )
        return f"the clock does not advance: /clock stays at {now_ns / 1e9:.3f} s; is the simulator paused?"
