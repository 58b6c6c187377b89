# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Play the driver of any robot whose topic map is known: joint states and cameras out, commands in.

It refuses commands as a driver does: other joints, values outside the limits. With a `fault` it behaves like a robot
that is wired wrongly, so that what the suite says about it can be seen without a robot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.action.server import ActionServer
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from gr00t_bringup.controls import ARRAY, Control
from gr00t_bringup.fake.faults import Fault, can_swap, joint_values, swapped
from gr00t_bringup.fake.pictures import Picture
from gr00t_bringup.fake.plan import CameraStream, RobotPlan, VectorStream, load_plan
from gr00t_bringup.fake.plant import Plant
from gr00t_bringup.robots import has_robot_file, robot_file
from gr00t_bringup.ros.image_messages import jpeg_image, raw_image
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare, guard_changes
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE
from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting

JPEG_QUALITY = 90
STALE_S = 10.0
WARN_PERIOD_S = 5.0
NUM_REFUSALS = 100  # that are remembered


@dataclass(frozen=True)
class FakeRobotSettings:
    """Parameters of the fake robot."""

    robot: str = setting(
        "", "Shipped robot to play, or the folder of another one; empty: that of topics_file.", read_only=True
    )
    topics_file: str = setting("", "Topic map (YAML) of a robot without a folder.", read_only=True)
    limits_file: str = setting("", "Its limits (YAML); empty: any command is taken.", read_only=True)
    driver_file: str = setting("", "What its driver does beyond the topic map (YAML); empty: nothing.", read_only=True)
    max_rate_hz: float = setting(
        100.0, "Most messages per second of a topic [Hz]; drivers in C++ are faster.", ge=1.0, le=1000.0, read_only=True
    )
    fault: Fault = setting(
        Fault.NONE,
        "Wrong wiring to play: none, swapped_topics, missing_joint, degrees, joint_order, no_names, encoding, "
        "stale_clock.",
    )

    def __post_init__(self) -> None:
        if bool(self.robot) == bool(self.topics_file):
            which = "both are set" if self.robot else "neither is set"
            raise ValueError(f"robot and topics_file: {which}; set one of them")
        for name in ("limits_file", "driver_file"):
            if self.robot and getattr(self, name):
                raise ValueError(f"{name} is for topics_file; robot '{self.robot}' has its own")

    def plan(self) -> RobotPlan:
        """Return what the robot does; ConfigError names a file, or a topic that cannot be played."""
        if not self.robot:
            return load_plan(Path(self.topics_file), _path(self.limits_file), _path(self.driver_file))
        limits, driver = (
            robot_file(self.robot, name) if has_robot_file(self.robot, name) else None
            for name in ("limits.yaml", "driver.yaml")
        )
        return load_plan(robot_file(self.robot, "topics.yaml"), limits, driver)


COMMAND = NodeCommand(
    name="fake_robot_node",
    node_name="fake_robot",
    purpose="Play the driver of a robot without hardware: joint states and pictures out, commands in.",
    settings=FakeRobotSettings,
)


class FakeRobot:
    """The topics of one robot on a node."""

    def __init__(self, node: Node, plan: RobotPlan, max_rate_hz: float) -> None:
        """Create publishers, subscriptions, action servers and timers; ConfigError if a message is not installed."""
        self.plan = plan
        self.fault = Fault.NONE
        self.num_commands: Counter[str] = Counter()  # that were taken, by topic
        self.refusals: list[str] = []  # newest last
        self._node = node
        self.plant = Plant(plan, self._now_s())
        self._publishers: dict[str, Any] = {}
        self._actions: list[ActionServer] = []
        for name, vector in plan.vectors.items():
            self._publish(
                name, vector.config.type, vector.config.topic, vector.rate_hz, max_rate_hz, self._vector(vector)
            )
        for number, (name, camera) in enumerate(plan.cameras.items()):
            make = self._camera(camera, number)
            self._publish(name, camera.config.type, camera.config.topic, camera.rate_hz, max_rate_hz, make)
        for control in plan.controls:
            self._take(control)

    def close(self) -> None:
        """Withdraw the actions."""
        for action in self._actions:
            action.destroy()
        self._actions.clear()

    def set_fault(self, fault: Fault) -> None:
        """Play this fault from now on.

        Raises:
            ValueError: the robot has nothing that could be swapped.
        """
        if fault is Fault.SWAPPED_TOPICS and not can_swap(self.plan):
            raise ValueError("no two topics of this robot have the same type: none can be swapped")
        self.fault = fault

    # out

    def _publish(
        self, name: str, type_name: str, topic: str, rate_hz: float, max_rate_hz: float, make: Callable[[], Any]
    ) -> None:
        # reliable, as drivers are: subscribers may ask for less
        self._publishers[name] = self._node.create_publisher(message_class(type_name), topic, QoSProfile(depth=10))
        self._node.create_timer(1.0 / min(rate_hz, max_rate_hz), partial(self._send, name, make))

    def _send(self, name: str, make: Callable[[], Any]) -> None:
        message = make()
        if hasattr(message, "header"):
            late = Duration(seconds=STALE_S if self.fault is Fault.STALE_CLOCK else 0.0)
            message.header.stamp = (self._node.get_clock().now() - late).to_msg()
        to = swapped(self.plan, name) if self.fault is Fault.SWAPPED_TOPICS else name
        self._publishers[to].publish(message)

    def _vector(self, stream: VectorStream) -> Callable[[], Any]:
        kind = message_class(stream.config.type)
        is_array = stream.config.type == ARRAY

        def make() -> Any:
            names, values = joint_values(stream, self.plant.numbers(stream, self._now_s()), self.fault)
            return kind(data=values) if is_array else kind(name=names, position=values)

        return make

    def _camera(self, stream: CameraStream, number: int) -> Callable[[], Any]:
        picture = Picture(stream.key, number, stream.height, stream.width)
        is_jpeg = stream.config.type == COMPRESSED_IMAGE_TYPE

        def make() -> Any:
            pixels = picture.draw(self.plant.fractions(), self._now_s())
            message: Any = jpeg_image(pixels, JPEG_QUALITY) if is_jpeg else raw_image(pixels)
            message.header.frame_id = f"{stream.key}_optical_frame"
            if self.fault is Fault.ENCODING and is_jpeg:
                message.format, message.data = "h264", message.data[:0]
            elif self.fault is Fault.ENCODING:
                message.encoding = "nv21"
            return message

        return make

    # in

    def _take(self, control: Control) -> None:
        kind, topic = message_class(control.config.type), control.config.topic
        if "/action/" in control.config.type:
            execute = partial(self._execute, control, kind.Result)
            self._actions.append(ActionServer(self._node, kind, topic, execute))
            return
        # depth 1: the newest command counts
        self._node.create_subscription(kind, topic, partial(self._on_message, control), 1)

    def _on_message(self, control: Control, message: Any) -> None:
        self._obey(control, message)

    def _obey(self, control: Control, command: Any) -> bool:
        """Follow a message or a goal; return whether the controller takes it."""
        try:
            self.plant.aim(control.read(command), self._now_s())
        except ValueError as error:
            self.refusals.append(f"{control.config.topic}: {error}")
            del self.refusals[:-NUM_REFUSALS]
            self._node.get_logger().warning(f"{self.refusals[-1]}; ignored", throttle_duration_sec=WARN_PERIOD_S)
            return False
        self.num_commands[control.config.topic] += 1
        return True

    def _execute(self, control: Control, result_type: Any, handle: Any) -> Any:
        """Take a goal; it ends at once, while the joints are still on their way."""
        is_taken = self._obey(control, handle.request)
        (handle.succeed if is_taken else handle.abort)()
        result = result_type()
        if hasattr(result, "reached_goal"):
            result.position, result.reached_goal = handle.request.command.position, is_taken
        return result

    def _now_s(self) -> float:
        return self._node.get_clock().now().nanoseconds / 1e9


class FakeRobotNode(Node):
    """A fake robot with parameters."""

    def __init__(self) -> None:
        """Read the robot's files and start to play it; ConfigError names a parameter or a file."""
        super().__init__("fake_robot")
        settings = declare(self, FakeRobotSettings)
        guard_changes(self, FakeRobotSettings, lambda: True, live=("fault",))
        plan = settings.plan()
        for line in plan.describe():
            self.get_logger().info(line)
        self._robot = FakeRobot(self, plan, settings.max_rate_hz)
        try:
            self._robot.set_fault(settings.fault)
        except ValueError as error:
            raise ConfigError(f"parameter 'fault': {error}") from error
        self.add_on_set_parameters_callback(self._on_change)

    def close(self) -> None:
        """Withdraw the actions."""
        self._robot.close()

    def _on_change(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            # another word is refused by the check of parameters, which names the choices
            if parameter.name == "fault" and parameter.value in [fault.value for fault in Fault]:
                try:
                    self._robot.set_fault(Fault(parameter.value))
                except ValueError as error:
                    return SetParametersResult(successful=False, reason=f"parameter 'fault': {error}")
                self.get_logger().info(f"fault: {parameter.value}")
        return SetParametersResult(successful=True)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def main(args: list[str] | None = None) -> int:
    """Play the robot until it is stopped."""
    return run_node(FakeRobotNode, args, COMMAND)
