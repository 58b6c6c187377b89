# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Show joints and cameras while somebody watches. When nobody watches, nothing is subscribed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from rclpy.node import Node

from gr00t_bringup.views.joints import JointReader
from gr00t_bringup.views.pictures import preview
from gr00t_console.board import Board
from gr00t_recorder.ros.newest import NewestMessages, Watch
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.codecs import stamp_of

JOINT_PERIOD_S = 0.1
WIDTH = 320  # pixels of a picture
MIN_RATE_HZ, MAX_RATE_HZ = 0.2, 30.0
VECTOR_DEPTH = 5  # several publishers may send parts of one topic
IMAGE_DEPTH = 1


class Previews:
    """Posts `joint_rows`, `joints` and a JPEG per camera."""

    def __init__(self, node: Node, board: Board, pictures: Board, *, rate_hz: float) -> None:
        """Begin; nothing is shown before `show`.

        Args:
            node: owner of the subscriptions.
            board: takes joints.
            pictures: takes the JPEG of each camera.
            rate_hz: pictures per second and camera.
        """
        self._node, self._board, self._pictures = node, board, pictures
        self._picture_period_s = 1.0 / rate_hz
        self._newest = NewestMessages(node, lambda: board.num_readers > 0)

    def show(self, topic_map: TopicMap, joints: JointReader) -> None:
        """Look at the streams of a topic map from now on."""
        self._newest.watch(tuple(self._watches(topic_map, joints)))
        self._board.post("joint_rows", [asdict(row) for row in joints.rows])
        self._board.post("cameras", list(topic_map.video))

    def close(self) -> None:
        """End the thread and unsubscribe."""
        self._newest.close()

    def _watches(self, topic_map: TopicMap, joints: JointReader) -> Iterator[Watch]:
        for stream in joints.streams:
            config, post = topic_map.streams[stream], partial(self._post_joints, joints, stream)
            yield Watch(f"stream '{stream}'", config.topic, config.type, JOINT_PERIOD_S, VECTOR_DEPTH, post)
        for key, binding in topic_map.video.items():
            config = topic_map.streams[binding.stream]
            post = partial(self._post_picture, key, config.type, tuple(binding.levels))
            yield Watch(
                name=f"stream '{binding.stream}'",
                topic=config.topic,
                type=config.type,
                period_s=self._picture_period_s,
                depth=IMAGE_DEPTH,
                on_message=post,
                is_wanted=lambda: self._pictures.num_readers > 0,
            )

    def _post_picture(self, camera: str, type_name: str, levels: tuple[float, ...], message: Any) -> None:
        self._pictures.post(camera, preview(message, type_name, WIDTH, levels))

    def _post_joints(self, joints: JointReader, stream: str, message: Any) -> None:
        stamp_ns = stamp_of(message) or self._node.get_clock().now().nanoseconds
        values = joints.read(stream, message)
        if values:
            self._board.post(f"joints_{stream}", {"stamp_s": stamp_ns / 1e9, "values": values})
