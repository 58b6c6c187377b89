# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What transitions leave behind: no model after cleanup, no tick before activation."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from gr00t_msgs.msg import PolicyStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from test_policy_node import LATCHED, Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_policy_node.ros.policy_node import PolicyNode
from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import ForkedNode, parameter_arguments
from gr00t_training.io.text import MAX_INSTRUCTION

STOPPED = PolicyStatus.STOPPED


def test_cleanup_frees_the_model(files: dict[str, Path]) -> None:  # noqa: F811
    rclpy.init(args=parameter_arguments(**files, device="cpu"), domain_id=next_domain())
    node = PolicyNode()
    gc.disable()
    try:
        for _ in range(3):
            num_publishers = len(list(node.publishers))
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            runtime = node._runtime
            assert runtime is not None
            held = [weakref.ref(each) for each in (runtime, runtime._observer, runtime._observer._policy)]
            del runtime
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
            assert [each() for each in held] == [None, None, None]
            assert len(list(node.publishers)) == num_publishers and not node._managed_entities
            assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
        node.close()
        node.destroy_node()
        rclpy.shutdown()


def test_transitions_delay_no_tick_and_parameters_answer_truly(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()

    def set_parameter(name: str, value: ParameterValue) -> tuple[bool, str]:
        request = [Parameter(name=name, value=value)]
        result = robot.call(SetParameters, "policy/set_parameters", parameters=request).results[0]
        return result.successful, result.reason

    def text(value: str) -> ParameterValue:
        return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)

    with Robot(domain) as robot, start_node(files, domain, autostart=False) as node:
        configure = Transition(id=Transition.TRANSITION_CONFIGURE)
        assert robot.call(ChangeState, "policy/change_state", transition=configure).success
        robot.until(lambda: len(robot.statuses) > 2, "statuses while inactive")
        assert num_ticks(robot.status) == 0
        rate = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=1.0)
        successful, reason = set_parameter("max_input_gap_s", rate)
        assert not successful and "takes effect at the next configure" in reason
        successful, reason = set_parameter("instruction", text("x" * 1_000_000))
        assert not successful and f"has 1000000 characters (limit {MAX_INSTRUCTION})" in reason
        assert set_parameter("instruction", text("lift the cube")) == (True, "")
        activate = Transition(id=Transition.TRANSITION_ACTIVATE)
        assert robot.call(ChangeState, "policy/change_state", transition=activate).success
        robot.until(lambda: num_ticks(robot.status) > 50, "ticks")
        assert robot.status.instruction == "lift the cube"

        # a publisher as `ros2 topic pub` makes it is heard, once
        publisher = robot.node.create_publisher(String, "policy/instruction", 10)
        robot.until(publisher.get_subscription_count, "subscription")
        publisher.publish(String(data="fold the cloth"))
        robot.until(lambda: robot.status.instruction == "fold the cloth", "instruction by topic")
        latched = robot.node.create_publisher(String, "policy/instruction", LATCHED)
        latched.publish(String(data="lift the cube"))
        robot.until(lambda: robot.status.instruction == "lift the cube", "instruction by a latched topic")
        assert node.output.count("instruction: fold the cloth") == 1
        assert node.output.count("instruction: lift the cube") == 2  # by parameter, by topic

        # neither topic nor service takes a text without end
        publisher.publish(String(data="y" * 1_000_000))
        assert "characters" in robot.instruct("z" * 1_000_000).error_msg
        robot.until(lambda: "is not followed: the instruction has 1000000 characters" in node.output, "log")
        assert robot.status.instruction == "lift the cube"
        assert len(node.output) < 20_000

        # an emergency stop is heard from any publisher
        for qos in (QoSProfile(depth=1), QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT), LATCHED):
            # again and again: stops that were on their way may come after a reset
            robot.until(
                lambda: robot.call(Trigger, "policy/reset") and robot.status.state == PolicyStatus.IDLE, "reset"
            )
            stop = robot.node.create_publisher(Bool, "policy/stop", qos)
            robot.until(lambda publish=stop.publish: publish(Bool(data=True)) or robot.status.state == STOPPED, "stop")
            robot.node.destroy_publisher(stop)


def num_ticks(status: PolicyStatus) -> int:
    return sum(stage.count for stage in status.stages if stage.name == "tick lateness")


def test_an_instruction_without_end_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"policy:\n  ros__parameters:\n    instruction: {'a' * 2000}\n")
    arguments = ["--ros-args", "--params-file", str(path)]
    with ForkedNode("gr00t_policy_node.ros.policy_node", *arguments, domain=next_domain()) as process:
        assert process.wait() == 2
        assert "parameter 'instruction' has 2000 characters (limit 1000)" in process.output
