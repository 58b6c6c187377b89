# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Take what persons' devices ask for: the topic `~/teleop`."""

from __future__ import annotations

from collections.abc import Callable

from gr00t_msgs.msg import TeleopTarget
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.person import Request
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_training.io.text import printable

# matches every publisher; devices repeat themselves
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class TeleopServer:
    """Gives the controller what arrives on `~/teleop`.

    Also before `is_active` is set, so that the controller knows who has engaged before the activation.
    """

    def __init__(self, node: LifecycleNode, controller: Controller, now_ns: Callable[[], int]) -> None:
        """Subscribe.

        Args:
            node: owner of the subscription.
            controller: is steered.
            now_ns: the node's clock.
        """
        self.is_active = False
        self._node, self._controller, self._now_ns = node, controller, now_ns
        self._subscription = node.create_subscription(TeleopTarget, "~/teleop", self._on_target, QOS)

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _on_target(self, message: TeleopTarget) -> None:
        now_ns = self._now_ns()
        request = (
            Request(list(message.names), list(message.positions), list(message.rate_names), list(message.rates))
            if message.is_engaged
            else None
        )
        fault = self._controller.steer(message.source, request, stamp_of(message) or now_ns, now_ns)
        if fault and self.is_active:
            self._node.get_logger().warning(
                f"a target of '{printable(message.source)}' is not followed: {printable(fault)}",
                throttle_duration_sec=5.0,
            )
