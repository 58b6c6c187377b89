# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Show a running robot in Rerun, and where its hands are about to go in RViz.

The node only listens. Cameras and joints are taken by a thread of its own from short best-effort histories
(`gr00t_recorder.ros.newest`), so neither the robot's drivers nor policy and recorder wait for a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from gr00t_msgs.msg import ActionChunk, PolicyStatus, RecorderStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from gr00t_bringup.controls import Control
from gr00t_bringup.ros.view_messages import chunk_rows, policy_note, recorder_note, step_ns
from gr00t_bringup.views.joints import JointReader
from gr00t_bringup.views.pictures import preview
from gr00t_bringup.views.rerun_log import RerunLog
from gr00t_bringup.views.robot import ViewedRobot
from gr00t_recorder.ros.clock_watch import create_steady_timer
from gr00t_recorder.ros.newest import NewestMessages, Watch
from gr00t_recorder.topics.bindings import Stamp, StreamConfig
from gr00t_recorder.topics.codecs import stamp_of

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
JOINT_PERIOD_S = 0.02  # with VECTOR_DEPTH: up to 500 messages per second
VECTOR_DEPTH = 10
IMAGE_DEPTH = 1
CHUNK_DEPTH = 5
FLUSH_PERIOD_S = 0.2


@dataclass(frozen=True)
class ViewSettings:
    """What is shown, and how."""

    policy: str = "policy"  # names of the nodes
    recorder: str = "recorder"
    picture_rate_hz: float = 5.0
    picture_width: int = 640  # pixels


class RerunBridge:
    """Fills a Rerun recording from the topics of a robot."""

    def __init__(self, node: Node, robot: ViewedRobot, log: RerunLog, settings: ViewSettings) -> None:
        """Subscribe."""
        self._node, self._log, self._settings = node, log, settings
        policy, recorder = settings.policy, settings.recorder
        node.create_subscription(PolicyStatus, f"{policy}/status", self._on_policy, LATCHED)
        node.create_subscription(RecorderStatus, f"{recorder}/status", self._on_recorder, LATCHED)
        node.create_subscription(ActionChunk, f"{policy}/action_chunk", self._on_chunk, CHUNK_DEPTH)
        create_steady_timer(node, FLUSH_PERIOD_S, self._log.flush)
        self._newest = NewestMessages(node)
        self._newest.watch(tuple(self._watches(robot)))

    def close(self) -> None:
        """Stop looking."""
        self._newest.close()

    def _watches(self, robot: ViewedRobot) -> Iterator[Watch]:
        streams = robot.topic_map.streams
        for part, reader in (("state", robot.state), ("action", robot.action)):
            for stream in reader.streams:
                config = streams[stream]
                show = partial(self._on_joints, part, reader, stream, config)
                yield Watch(f"stream '{stream}'", config.topic, config.type, JOINT_PERIOD_S, VECTOR_DEPTH, show)
        for control in robot.controls:
            config = control.config
            show = partial(self._on_command, control)
            yield Watch(f"command '{config.topic}'", config.topic, config.type, JOINT_PERIOD_S, VECTOR_DEPTH, show)
        for camera, binding in robot.topic_map.video.items():
            config = streams[binding.stream]
            show = partial(self._on_picture, camera, config, tuple(binding.levels))
            period_s = 1.0 / self._settings.picture_rate_hz
            yield Watch(f"camera '{camera}'", config.topic, config.type, period_s, IMAGE_DEPTH, show)

    # In the thread of the newest messages.

    def _on_joints(self, part: str, reader: JointReader, stream: str, config: StreamConfig, message: Any) -> None:
        self._log.joints(part, self._stamp(message, config), reader.read_names(stream, message))

    def _on_command(self, control: Control, message: Any) -> None:
        self._log.joints("command", self._stamp(message), control.read(message))

    def _on_picture(self, camera: str, config: StreamConfig, levels: tuple[float, ...], message: Any) -> None:
        jpeg = preview(message, config.type, self._settings.picture_width, levels)
        self._log.picture(camera, self._stamp(message, config), jpeg)

    def _stamp(self, message: Any, config: StreamConfig | None = None) -> int:
        is_on_arrival = config is not None and config.stamp is Stamp.RECEIVE
        # a stamp of zero is "now" for a controller
        return (None if is_on_arrival else stamp_of(message)) or self._node.get_clock().now().nanoseconds

    # In the thread of the executor.

    def _on_policy(self, status: PolicyStatus) -> None:
        self._log.policy(policy_note(status))

    def _on_recorder(self, status: RecorderStatus) -> None:
        self._log.recorder(recorder_note(status))

    def _on_chunk(self, chunk: ActionChunk) -> None:
        self._log.chunk(stamp_of(chunk) or 0, step_ns(chunk), list(chunk.names), chunk_rows(chunk))
