# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Look at joints and cameras while somebody watches.

A thread of its own takes the newest message of each stream at the rate of the page. The executor has no part in it, and
the history of a subscription is short, so a fast camera costs no more than a slow one. When nobody watches, nothing is
subscribed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from gr00t_console.board import Board
from gr00t_console.joints import JointReader
from gr00t_console.pictures import preview
from gr00t_recorder.ros.ingest import IMAGE_READERS, message_class
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.serialized_images import PLAIN_CDR
from gr00t_training.errors import Gr00tError

JOINT_PERIOD_S = 0.1
IDLE_PERIOD_S = 0.2
WIDTH = 320  # pixels of a picture
MIN_RATE_HZ, MAX_RATE_HZ = 0.2, 30.0
VECTOR_DEPTH = 5  # several publishers may send parts of one topic
IMAGE_DEPTH = 1
CLOSE_TIMEOUT_S = 5.0


class _Apart(CallbackGroup):
    """Subscriptions that no executor waits for."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        return None


@dataclass
class _Watched:
    """One stream that is looked at."""

    name: str
    config: StreamConfig
    subscription: Subscription
    period_s: float
    camera: str = ""  # key of the camera; empty: joints
    levels: tuple[float, ...] = ()
    next_s: float = 0.0


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
        self._group = _Apart()
        self._lock = threading.Lock()
        self._topic_map: TopicMap | None = None
        self._joints: JointReader | None = None
        self._watched: list[_Watched] = []
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)
        self._thread.start()

    def show(self, topic_map: TopicMap, joints: JointReader) -> None:
        """Look at the streams of a topic map from now on."""
        with self._lock:
            self._unsubscribe()
            self._topic_map, self._joints = topic_map, joints
        self._board.post("joint_rows", [asdict(row) for row in joints.rows])
        self._board.post("cameras", list(topic_map.video))

    def close(self) -> None:
        """End the thread and unsubscribe."""
        self._is_closed.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        with self._lock:
            self._unsubscribe()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            is_watched = self._board.num_readers > 0
            with self._lock:
                if is_watched and not self._watched and self._topic_map is not None:
                    self._subscribe(self._topic_map)
                elif not is_watched and self._watched:
                    self._unsubscribe()
                for each in self._watched:
                    self._look(each)
                due_s = min((each.next_s for each in self._watched), default=time.monotonic() + IDLE_PERIOD_S)
            self._is_closed.wait(min(max(due_s - time.monotonic(), 0.001), IDLE_PERIOD_S))

    def _subscribe(self, topic_map: TopicMap) -> None:
        assert self._joints is not None
        for name in self._joints.streams:
            self._add(name, topic_map, VECTOR_DEPTH, JOINT_PERIOD_S)
        for key, binding in topic_map.video.items():
            self._add(binding.stream, topic_map, IMAGE_DEPTH, self._picture_period_s, key, binding.levels)

    def _add(
        self, stream: str, topic_map: TopicMap, depth: int, period_s: float, camera: str = "", levels: Any = ()
    ) -> None:
        config = topic_map.streams[stream]
        try:
            kind = message_class(config.type)
        except Gr00tError as error:
            self._node.get_logger().warning(f"stream '{stream}' is not shown: {error}")
            return
        ignored: Callable[[Any], None] = lambda message: None  # noqa: E731 - it is never called
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = self._node.create_subscription(
            kind, config.topic, ignored, qos, callback_group=self._group, raw=True
        )
        self._watched.append(_Watched(stream, config, subscription, period_s, camera, tuple(levels)))

    def _unsubscribe(self) -> None:
        while self._watched:
            self._node.destroy_subscription(self._watched.pop().subscription)

    def _look(self, watched: _Watched) -> None:
        now_s = time.monotonic()
        if now_s < watched.next_s:
            return
        watched.next_s = max(watched.next_s + watched.period_s, now_s)
        if watched.camera and not self._pictures.num_readers:
            return
        try:
            for serialized in self._taken(watched):
                self._post(watched, serialized)
        except InvalidHandle:  # the node was destroyed
            return
        except Exception as error:  # one message that cannot be used, or a bug that must not end the others
            self._node.get_logger().warning(
                f"stream '{watched.name}' cannot be shown: {error}", throttle_duration_sec=10.0
            )

    def _taken(self, watched: _Watched) -> list[bytes]:
        found = []
        subscription = watched.subscription
        for _ in range(IMAGE_DEPTH if watched.camera else VECTOR_DEPTH):
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, True)
            if taken is None:
                break
            found.append(taken[0])
        return found

    def _post(self, watched: _Watched, serialized: bytes) -> None:
        reader = IMAGE_READERS.get(watched.config.type)
        if reader is not None and serialized[:2] in PLAIN_CDR:
            message = reader(serialized)
        else:
            message = deserialize_message(serialized, message_class(watched.config.type))
        if watched.camera:
            self._pictures.post(watched.camera, preview(message, watched.config.type, WIDTH, watched.levels))
            return
        assert self._joints is not None
        stamp_ns = stamp_of(message) or self._node.get_clock().now().nanoseconds
        values = self._joints.read(watched.name, message)
        if values:
            self._board.post(f"joints_{watched.name}", {"stamp_s": stamp_ns / 1e9, "values": values})
