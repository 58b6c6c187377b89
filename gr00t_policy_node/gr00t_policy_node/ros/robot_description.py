# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The robot's URDF from the topic on which robot_state_publisher offers it."""

from __future__ import annotations

import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from gr00t_training.errors import ConfigError

TIMEOUT_S = 10.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def receive_description(node: Node, topic: str, timeout_s: float = TIMEOUT_S) -> str:
    """Wait for the URDF on a topic, latched or repeated.

    May be called within a callback of `node`: a separate node waits.

    Raises:
        ConfigError: nothing came within `timeout_s`.
    """
    received: list[String] = []
    topic = node.resolve_topic_name(topic)
    # without the process's arguments: a rename of the node must not give this one the same name
    waiting = rclpy.create_node("urdf_reader", context=node.context, use_global_arguments=False)
    executor = SingleThreadedExecutor(context=node.context)
    try:
        # publishers that are not latched are heard when they repeat it
        for qos in (LATCHED, QoSProfile(depth=1)):
            waiting.create_subscription(String, topic, received.append, qos)
        executor.add_node(waiting)
        end_s = time.monotonic() + timeout_s
        while not received and time.monotonic() < end_s:
            executor.spin_once(0.1)
    finally:
        executor.shutdown()
        waiting.destroy_node()
    if not received:
        raise ConfigError(
            f"urdf_topic '{topic}': no robot description within {timeout_s:g} s; start robot_state_publisher first, "
            "or give a file with urdf_file"
        )
    return received[0].data
