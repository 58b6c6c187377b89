# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""With use_sim_time and a clock that does not advance, the node reports it, holds, and its time limits still apply."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.action import RunPolicy
from gr00t_msgs.msg import ErrorCode, PolicyStatus
from rclpy.action.client import ActionClient
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger
from test_policy_node import Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.waiting import DEADLINE_S


class SimulatedRobot(Robot):
    """Gives the time of its own clock on /clock, while it runs."""

    def __init__(self, domain: int, *, has_clock: bool) -> None:
        super().__init__(domain)
        self.has_clock = has_clock
        self._clock_publisher = self.node.create_publisher(Clock, "/clock", 10) if has_clock else None
        self.node.create_timer(0.01, self._publish_clock)

    def _publish_clock(self) -> None:
        if self.has_clock and self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=self.node.get_clock().now().to_msg()))


def run_goal(robot: Robot, time_limit: float) -> RunPolicy.Result:
    client = ActionClient(robot.node, RunPolicy, "policy/run_policy")
    robot.until(client.server_is_ready, "action server")
    goal = RunPolicy.Goal(instruction="lift the cube", time_limit=time_limit)
    handle = robot.result(client.send_goal_async(goal), "acceptance")
    result = robot.result(handle.get_result_async(), "result").result
    client.destroy()
    return result


def test_without_a_clock_goals_end_and_the_watchdog_stops(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()
    parameters = {"use_sim_time": True, "max_input_gap_s": 2.5}
    with SimulatedRobot(domain, has_clock=False) as robot, start_node(files, domain, **parameters):
        robot.until_state(PolicyStatus.IDLE)
        count = len(robot.statuses)
        robot.until(lambda: len(robot.statuses) > count + 1, "further statuses without a clock")
        robot.until(lambda: "nothing publishes /clock" in robot.status.input_fault, "its fault while idle")

        result = run_goal(robot, 1.0)
        assert result.error_code == ErrorCode.TIME_LIMIT and 0.9 < result.duration < DEADLINE_S

        assert robot.instruct().error_code == ErrorCode.NONE
        status = robot.until_state(PolicyStatus.HOLDING, "the clock does not advance")
        assert status.cause == PolicyStatus.CAUSE_CLOCK
        status = robot.until_state(PolicyStatus.STOPPED, "inputs not usable for more than 2.5 s: the clock does not")
        assert status.cause == PolicyStatus.CAUSE_CLOCK
        assert not robot.commands


def test_a_clock_that_stops_later_holds_and_goes_on(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()
    with SimulatedRobot(domain, has_clock=True) as robot, start_node(files, domain, use_sim_time=True):
        robot.until_state(PolicyStatus.IDLE)
        robot.instruct()
        robot.until_state(PolicyStatus.RUNNING)
        robot.has_clock = False
        status = robot.until_state(PolicyStatus.HOLDING, "the clock does not advance: /clock stays at")
        assert status.cause == PolicyStatus.CAUSE_CLOCK
        robot.has_clock = True
        robot.until_state(PolicyStatus.RUNNING)
        robot.until(
            lambda: (robot.status.cause, robot.status.input_fault) == (PolicyStatus.CAUSE_NONE, ""), "usable inputs"
        )


def test_a_latched_stop_shows_what_the_inputs_are_like_now(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()
    with Robot(domain) as robot, start_node(files, domain):
        robot.until_state(PolicyStatus.IDLE)
        robot.call(Trigger, "policy/stop")
        status = robot.until_state(PolicyStatus.STOPPED, "stop service called")
        assert status.cause == PolicyStatus.CAUSE_REQUEST
        robot.until(lambda: robot.status.input_fault == "", "usable inputs")
        robot.has_camera = False
        robot.until(lambda: "video.front" in robot.status.input_fault, "fault of the camera")
        assert robot.status.state == PolicyStatus.STOPPED and robot.status.reason == "stop service called"
        robot.has_camera = True
        robot.until(lambda: robot.status.input_fault == "", "usable inputs again")

        for limit in (float("nan"), -1.0):
            result = run_goal(robot, limit)
            assert result.error_code == ErrorCode.INVALID_NUMBER and "time_limit is" in result.error_msg
