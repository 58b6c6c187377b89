# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Publish the predicted paths as markers for RViz and Foxglove: a line per end effector, from blue (now) to red.

A line is shown until the last row of its chunk is due, so what is seen is still ahead, or the newest there is.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from gr00t_msgs.msg import ActionChunk
from rclpy.node import Node
from std_msgs.msg import ColorRGBA

from gr00t_bringup.ros.view_messages import chunk_rows, step_ns
from gr00t_bringup.views.names import PATH_TOPIC
from gr00t_bringup.views.path import PathPlanner, TipPath
from gr00t_bringup.views.robot import ViewedRobot
from gr00t_recorder.ros.newest import NewestMessages, Watch
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.units import UNITS, si_factor
from gr00t_training.errors import ConfigError

JOINT_STATE = "sensor_msgs/msg/JointState"
STATE_PERIOD_S = 0.05
STATE_DEPTH = 5
WIDTH_M = 0.006
FIRST, LAST = np.array([0.1, 0.4, 1.0, 1.0]), np.array([1.0, 0.2, 0.1, 0.6])  # RGBA
WARN_PERIOD_S = 10.0


class PathMarkers:
    """Publishes `~/predicted_path`, a MarkerArray per chunk."""

    def __init__(self, node: Node, robot: ViewedRobot, planner: PathPlanner, policy: str) -> None:
        """Subscribe to chunks and measured joints.

        Args:
            node: owner of the interfaces.
            robot: whose joints are measured.
            planner: computes the paths.
            policy: name of the policy node.

        Raises:
            ConfigError: visualization_msgs is not installed.
        """
        self._node, self._planner = node, planner
        self._messages = _messages()
        self._measured: dict[str, float] = {}
        self._publisher = node.create_publisher(self._messages.MarkerArray, f"~/{PATH_TOPIC}", 1)
        node.create_subscription(ActionChunk, f"{policy}/action_chunk", self._on_chunk, 1)
        streams = robot.topic_map.streams
        self._newest = NewestMessages(node)
        self._newest.watch(
            [
                Watch(
                    f"stream '{name}'",
                    streams[name].topic,
                    streams[name].type,
                    STATE_PERIOD_S,
                    STATE_DEPTH,
                    partial(self._on_state, robot, name),
                )
                for name in robot.state.streams
            ]
        )

    def close(self) -> None:
        """Stop looking at joints."""
        self._newest.close()

    def _on_state(self, robot: ViewedRobot, stream: str, message: Any) -> None:
        found: dict[str, float] = {}
        if robot.topic_map.streams[stream].type == JOINT_STATE:  # also joints that no key has, such as a torso
            found |= dict(zip(message.name, message.position, strict=False))
        units = {row.name: row.unit for row in robot.state.rows}
        for name, value in robot.state.read_names(stream, message).items():
            if UNITS.get(units[name], ("",))[0] in ("angle", "length"):
                found[name] = value * si_factor(units[name])
        self._measured = {**self._measured, **found}  # replaced as a whole: the executor reads it

    def _on_chunk(self, chunk: ActionChunk) -> None:
        paths, unknown = self._planner.paths(list(chunk.names), chunk_rows(chunk), self._measured)
        for tip, joint in unknown.items():
            self._node.get_logger().warning(
                f"the path of '{tip}' is not shown: the position of joint '{joint}' is in no chunk and no joint state",
                throttle_duration_sec=WARN_PERIOD_S,
            )
        end_ns = (stamp_of(chunk) or 0) + chunk.horizon * step_ns(chunk)
        left_ns = end_ns - self._node.get_clock().now().nanoseconds
        if paths and left_ns > 0:
            markers = [self._marker(i, path, chunk, left_ns) for i, path in enumerate(paths)]
            self._publisher.publish(self._messages.MarkerArray(markers=markers))

    def _marker(self, number: int, path: TipPath, chunk: ActionChunk, left_ns: int) -> Any:
        marker = self._messages.Marker(ns=path.tip, id=number)
        marker.header.stamp, marker.header.frame_id = chunk.header.stamp, self._planner.root
        marker.type, marker.action = marker.LINE_STRIP, marker.ADD
        marker.pose.orientation.w = 1.0
        marker.scale.x = WIDTH_M
        marker.lifetime = Duration(sec=left_ns // 1_000_000_000, nanosec=left_ns % 1_000_000_000)
        marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in path.points]
        marker.colors = [_color(i / max(len(path.points) - 1, 1)) for i in range(len(path.points))]
        return marker


def _color(share: float) -> ColorRGBA:
    red, green, blue, alpha = (FIRST + share * (LAST - FIRST)).tolist()
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def _messages() -> Any:
    try:
        return importlib.import_module("visualization_msgs.msg")
    except ImportError as error:
        raise ConfigError(
            "--markers needs visualization_msgs: apt install ros-$ROS_DISTRO-visualization-msgs, or without a ROS "
            "installation pip install ros-visualization-msgs"
        ) from error
