# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Look at topics without taking part in them: the newest messages of each at a rate of its own.

A thread takes serialized messages from subscriptions with a short history, best effort. The executor has no part in it,
so a fast camera costs no more than a slow one, and no publisher waits for a view. What comes in between is not seen:
the recorder uses `ingest.py`, which loses nothing silently.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from gr00t_recorder.ros.ingest import IMAGE_READERS, message_class
from gr00t_recorder.topics.serialized_images import PLAIN_CDR
from gr00t_training.errors import Gr00tError

IDLE_PERIOD_S = 0.2
CLOSE_TIMEOUT_S = 5.0
WARN_PERIOD_S = 10.0


@dataclass(frozen=True)
class Watch:
    """One topic, and how often to look at it."""

    name: str  # in warnings
    topic: str
    type: str
    period_s: float
    depth: int  # messages that are taken at each look
    on_message: Callable[[Any], None]  # called in the thread; what it raises costs this message only
    is_wanted: Callable[[], bool] = lambda: True  # else messages are left where they are


@dataclass
class _Watched:
    watch: Watch
    subscription: Subscription
    next_s: float = 0.0


class NewestMessages:
    """Hands the newest messages of topics on, from a thread of its own."""

    def __init__(self, node: Node, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Begin; nothing is watched before `watch`.

        Args:
            node: owner of the subscriptions.
            is_wanted: whether anybody looks; while it is false nothing is subscribed.
        """
        self._node, self._is_wanted = node, is_wanted
        self._group = _Apart()
        self._lock = threading.Lock()
        self._watches: tuple[Watch, ...] = ()
        self._watched: list[_Watched] = []
        self._is_subscribed = False
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newest", daemon=True)
        self._thread.start()

    def watch(self, watches: Sequence[Watch]) -> None:
        """Look at these topics from now on, instead of those before."""
        with self._lock:
            self._unsubscribe()
            self._watches = tuple(watches)

    def close(self) -> None:
        """End the thread and unsubscribe."""
        self._is_closed.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        with self._lock:
            self._unsubscribe()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            is_wanted = self._is_wanted()
            with self._lock:
                if is_wanted != self._is_subscribed:
                    (self._subscribe if is_wanted else self._unsubscribe)()
                for each in self._watched:
                    self._look(each)
                due_s = min((each.next_s for each in self._watched), default=time.monotonic() + IDLE_PERIOD_S)
            self._is_closed.wait(min(max(due_s - time.monotonic(), 0.001), IDLE_PERIOD_S))

    def _subscribe(self) -> None:
        self._is_subscribed = True
        for watch in self._watches:
            try:
                kind = message_class(watch.type)
            except Gr00tError as error:
                self._node.get_logger().warning(f"{watch.name} is not shown: {error}")
                continue
            qos = QoSProfile(depth=watch.depth, reliability=ReliabilityPolicy.BEST_EFFORT)
            subscription = self._node.create_subscription(
                kind, watch.topic, _never, qos, callback_group=self._group, raw=True
            )
            self._watched.append(_Watched(watch, subscription))

    def _unsubscribe(self) -> None:
        self._is_subscribed = False
        while self._watched:
            self._node.destroy_subscription(self._watched.pop().subscription)

    def _look(self, watched: _Watched) -> None:
        watch, now_s = watched.watch, time.monotonic()
        if now_s < watched.next_s:
            return
        watched.next_s = max(watched.next_s + watch.period_s, now_s)
        if not watch.is_wanted():
            return
        for serialized in self._taken(watched):
            try:
                watch.on_message(_message(watch.type, serialized))
            except Exception as error:  # one message that cannot be used, or a bug that must not end the others
                self._node.get_logger().warning(
                    f"{watch.name} cannot be shown: {error}", throttle_duration_sec=WARN_PERIOD_S
                )

    def _taken(self, watched: _Watched) -> list[bytes]:
        found = []
        subscription = watched.subscription
        try:
            for _ in range(watched.watch.depth):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is None:
                    break
                found.append(taken[0])
        except InvalidHandle:  # the node was destroyed
            pass
        return found


class _Apart(CallbackGroup):
    """Subscriptions that no executor waits for."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        return None


def _never(message: Any) -> None:
    """Stand for a callback: messages are taken, not delivered."""


def _message(type_name: str, serialized: bytes) -> Any:
    reader = IMAGE_READERS.get(type_name)
    if reader is not None and serialized[:2] in PLAIN_CDR:
        return reader(serialized)
    return deserialize_message(serialized, message_class(type_name))
