# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Let a person command the robot through the policy node: leader arm, gamepad, keyboard or poses in, targets out.

Each message of the device becomes one target, so a device that falls silent makes this node silent, which holds the
robot. Nothing is sent before the person has engaged once: a restart of this node alone gives control to nobody.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial

import numpy as np
from geometry_msgs.msg import PoseStamped
from gr00t_msgs.msg import PolicyStatus, TeleopTarget
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from gr00t_policy_node.control.person import Request
from gr00t_policy_node.ros.keyboard_input import KeyboardInput
from gr00t_policy_node.ros.teleop_parameters import TeleopParameters
from gr00t_policy_node.teleop.devices import GamepadDevice, KeyboardDevice, LeaderDevice, PoseDevice, ToolPose
from gr00t_policy_node.teleop.engagement import Engagement
from gr00t_policy_node.teleop.teleop_file import Gamepad, Keyboard, Leader, PoseTool, TeleopFile
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable
from gr00t_training.settings import load_settings

COMMAND = NodeCommand(
    name="teleop_node",
    node_name="teleop",
    purpose="Take over from a policy by hand: leader arm, gamepad, keyboard or poses in, targets for policy_node out.",
    settings=TeleopParameters,
)
SENSOR_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches every publisher
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MAX_ROBOT_AGE_S = 0.5  # of the robot's pose when a person engages
MAX_SENT = 1000  # own targets are heard long before so many others


class TeleopNode(Node):
    """One device of one person."""

    def __init__(self) -> None:
        """Read the file and listen to the device.

        Raises:
            ConfigError: the file is missing or wrong, or there is no keyboard.
        """
        super().__init__("teleop")
        parameters = declare(self, TeleopParameters)
        if not parameters.teleop_file:
            raise ConfigError("parameter 'teleop_file' is empty; set it to a teleop.yaml")
        self._file = file = load_settings(TeleopFile, parameters.teleop_file)
        self._engagement = Engagement(file.engage_button, file.engage_by)
        self._keyboard: KeyboardInput | None = None
        self._has_control = self._has_namesake = False
        self._sent_ns: deque[int] = deque(maxlen=MAX_SENT)  # stamps of the newest targets
        self._targets = self.create_publisher(TeleopTarget, f"{parameters.policy}/teleop", 10)
        self.create_subscription(TeleopTarget, f"{parameters.policy}/teleop", self._on_target, SENSOR_QOS)
        self.create_subscription(PolicyStatus, f"{parameters.policy}/status", self._on_status, LATCHED)
        self.create_subscription(Bool, "~/engage", self._on_engage_topic, SENSOR_QOS)
        self.create_service(SetBool, "~/engage", self._on_engage_service)
        if file.engage_button >= 0:
            self.create_subscription(Joy, file.joystick_topic, self._on_engage_button, SENSOR_QOS)
        if file.leader is not None:
            self._listen_to_leader(file.leader)
        if file.gamepad is not None:
            self._listen_to_gamepad(file.gamepad)
        if file.pose is not None:
            self._listen_to_tool(file.pose)
        if file.keyboard is not None:
            self._listen_to_keyboard(file.keyboard, parameters.keyboard_rate_hz)

    def close(self) -> None:
        """Restore the terminal. A person who had control keeps it: the robot is held until they say otherwise."""
        if self._keyboard is not None:
            self._keyboard.close()

    def _listen_to_leader(self, settings: Leader) -> None:
        device = LeaderDevice(settings)

        def on_message(topic: str, message: JointState) -> None:
            stamp_ns = stamp_of(message) or self._now_ns()
            try:
                request = device.request(list(message.name), list(message.position), stamp_ns, topic)
            except ValueError as error:
                self._refuse(str(error))
                return
            if request is not None:
                self._send(request, stamp_ns)

        for topic in settings.topics:
            self.create_subscription(JointState, topic, partial(on_message, topic), SENSOR_QOS)

    def _listen_to_gamepad(self, settings: Gamepad) -> None:
        device = GamepadDevice(settings)

        def on_message(message: Joy) -> None:
            try:
                self._send(device.request(message.axes, message.buttons), stamp_of(message) or self._now_ns())
            except ValueError as error:
                self._refuse(str(error))

        self.create_subscription(Joy, settings.topic, on_message, SENSOR_QOS)

    def _listen_to_tool(self, settings: PoseTool) -> None:
        device = PoseDevice(settings)
        robot: list[tuple[ToolPose, float]] = []  # the newest pose, and when it arrived

        def on_robot(message: PoseStamped) -> None:
            robot[:] = [(_tool_pose(message), time.monotonic())]

        def on_message(message: PoseStamped) -> None:
            frame, expected = message.header.frame_id, settings.frame_id
            if expected and frame != expected:
                self._refuse(f"a pose is in frame '{printable(frame)}', expected '{expected}'; transform it there")
                return
            known = [pose for pose, arrived_s in robot if time.monotonic() - arrived_s < MAX_ROBOT_AGE_S]
            try:
                is_engaged = self._engagement.is_engaged
                request = device.request(_tool_pose(message), next(iter(known), None), is_engaged=is_engaged)
                self._send(request, stamp_of(message) or self._now_ns())
            except ValueError as error:
                self._refuse(str(error))

        self.create_subscription(PoseStamped, settings.topic, on_message, SENSOR_QOS)
        if settings.robot_topic:
            self.create_subscription(PoseStamped, settings.robot_topic, on_robot, SENSOR_QOS)

    def _listen_to_keyboard(self, settings: Keyboard, rate_hz: float) -> None:
        device, self._keyboard = KeyboardDevice(settings), KeyboardInput()
        keyboard = self._keyboard

        def on_timer() -> None:
            for key in keyboard.read():
                if key == KeyboardDevice.ENGAGE:
                    self._engage(not self._engagement.is_engaged)
                device.press(key, time.monotonic())
            if keyboard.is_open:
                self._send(device.request(time.monotonic()), self._now_ns())

        self.create_timer(1.0 / rate_hz, on_timer)

    def _on_engage_button(self, message: Joy) -> None:
        if self._engagement.press(message.buttons, time.monotonic()):
            self._tell_engaged()

    def _on_engage_topic(self, message: Bool) -> None:
        self._engage(message.data)

    def _on_engage_service(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._engage(request.data)
        response.success = True
        response.message = f"'{self._file.name}' is {'engaged' if request.data else 'not engaged'}"
        return response

    def _engage(self, is_engaged: bool) -> None:
        if self._engagement.set(is_engaged):
            self._tell_engaged()

    def _tell_engaged(self) -> None:
        self.get_logger().info("engaged" if self._engagement.is_engaged else "disengaged")
        if not self._engagement.is_engaged:  # at once, even if the device is silent
            self._send(Request(), self._now_ns())

    def _send(self, request: Request, stamp_ns: int) -> None:
        if not self._engagement.is_known:
            return
        silence = self._engagement.fault(time.monotonic())
        if silence:
            self._refuse(silence)
            return
        if self._has_namesake:
            name = printable(self._file.name)
            self._refuse(
                f"another device is named '{name}'; give each its own 'name' in teleop_file, then restart both"
            )
            return
        message = TeleopTarget(source=self._file.name, is_engaged=self._engagement.is_engaged)
        message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        message.names, message.positions = list(request.names), list(request.positions)
        message.rate_names, message.rates = list(request.rate_names), list(request.rates)
        self._sent_ns.append(stamp_ns)
        self._targets.publish(message)

    def _on_target(self, message: TeleopTarget) -> None:
        """Notice another device of this name: the policy node takes both for one."""
        self._has_namesake |= message.source == self._file.name and stamp_of(message) not in self._sent_ns

    def _refuse(self, reason: str) -> None:
        self.get_logger().warning(f"{reason}; no target is sent", throttle_duration_sec=5.0)

    def _on_status(self, message: PolicyStatus) -> None:
        has_control = message.device == self._file.name
        if has_control != self._has_control:
            self._has_control = has_control
            self.get_logger().info("in control" if has_control else "not in control")
        if self._engagement.is_engaged and message.teleop_fault:
            self.get_logger().warning(message.teleop_fault + self._remedy(message), throttle_duration_sec=5.0)

    def _remedy(self, message: PolicyStatus) -> str:
        tool = self._file.pose
        names = () if tool is None else (*tool.position, *tool.rotation)
        if not any(f"channel '{name}' is not commanded" in message.teleop_fault for name in names):
            return ""
        return (
            "; poses need a robot whose action has Cartesian channels: where it takes joints only, use a leader arm, "
            "a gamepad or a keyboard"
        )

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def _tool_pose(message: PoseStamped) -> ToolPose:
    position, turn = message.pose.position, message.pose.orientation
    return ToolPose(np.array([position.x, position.y, position.z]), np.array([turn.w, turn.x, turn.y, turn.z]))


def main(args: list[str] | None = None) -> int:
    """Run the node until a signal."""
    return run_node(TeleopNode, args, COMMAND)
