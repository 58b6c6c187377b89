# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Simulated time that stands still is noticed on the steady clock."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from gr00t_recorder.ros.clock_watch import ClockWatch, create_steady_timer
from gr00t_recorder.ros.processes import next_domain, spinning_node
from gr00t_test_support.waiting import eventually


def test_a_clock_that_never_came_and_one_that_stopped_are_told_apart() -> None:
    with spinning_node("sim", next_domain()) as sim:
        node = Node("watched", context=sim.context, parameter_overrides=[Parameter("use_sim_time", value=True)])
        executor = sim.executor
        assert executor is not None
        executor.add_node(node)
        steady_s = [0.0]
        watch = ClockWatch(node, monotonic=lambda: steady_s[0])
        ticks: list[int] = []
        create_steady_timer(node, 0.01, lambda: ticks.append(1))
        eventually(lambda: len(ticks) > 3, "ticks without /clock")
        assert watch.fault() == ""
        steady_s[0] = 1.5
        assert "the clock does not advance: use_sim_time is true and nothing publishes /clock" in watch.fault()

        publisher = sim.create_publisher(Clock, "/clock", 10)
        message = Clock()
        message.clock.sec = 12

        def has_clock() -> bool:
            publisher.publish(message)
            return node.get_clock().now().nanoseconds > 0

        eventually(has_clock, "clock")
        assert watch.fault() == ""
        steady_s[0] = 3.0
        assert watch.fault() == "the clock does not advance: /clock stays at 12.000 s; is the simulator paused?"
        message.clock.sec = 13
        eventually(lambda: has_clock() and node.get_clock().now().nanoseconds > 12_500_000_000, "clock")
        assert watch.fault() == ""
        node.destroy_node()


def test_the_system_clock_is_never_at_fault() -> None:
    with spinning_node("plain", next_domain()) as node:
        steady_s = [0.0]
        watch = ClockWatch(node, monotonic=lambda: steady_s[0])
        steady_s[0] = 100.0
        assert watch.fault() == ""
