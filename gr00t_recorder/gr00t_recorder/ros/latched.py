# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Subscribe to topics with latched (transient-local) or other publishers, such as a task or an instruction.

A transient-local subscription does not match volatile publishers (`ros2 topic pub`, rqt), and a volatile one misses
what was published before. So there are several subscriptions; a message that two of them receive counts once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

REMEMBERED = 1000  # messages; both subscriptions receive one within milliseconds


class RepeatFilter:
    """Recognizes a message that the other subscription has received already."""

    def __init__(self) -> None:
        self._order: deque[tuple[Any, Any]] = deque()
        self._seen: set[tuple[Any, Any]] = set()

    def is_new(self, info: Mapping[str, Any]) -> bool:
        """Return whether a message has not been seen; `info` is what rclpy reports of it."""
        key = (info.get("source_timestamp"), info.get("publication_sequence_number"))
        if not key[0]:  # a middleware that does not report it
            return True
        if key in self._seen:
            return False
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
        return True


def subscribe_latched(
    node: Node,
    kind: Any,
    topic: str,
    callback: Callable[[Any], None],
    *,
    depth: int = 1,
    group: CallbackGroup | None = None,
    raw: bool = False,
) -> list[Subscription]:
    """Subscribe so that latched and volatile, reliable and best-effort publishers are received, each message once.

    Args:
        node: owner of the subscriptions.
        kind: class of the message.
        topic: name, relative or not.
        callback: takes each message; bytes when `raw`.
        depth: of the history.
        group: callback group of all.
        raw: whether messages stay serialized.

    Returns:
        The subscriptions.
    """
    repeats = RepeatFilter()

    def take(message: Any, info: Mapping[str, Any]) -> None:
        if repeats.is_new(info):
            callback(message)

    # rclpy passes the second argument to callbacks that take two, which its types do not say
    taker: Any = take
    # publishers that do not match one subscription match another: nothing to report
    quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
    return [
        node.create_subscription(kind, topic, taker, qos, callback_group=group, event_callbacks=quiet, raw=raw)
        for qos in latched_qos(depth)
    ]


def latched_qos(depth: int) -> tuple[QoSProfile, ...]:
    """Return the profiles of subscriptions that together match every publisher, reliably where it is reliable.

    The first receives what was published before. The last alone would match all that are not latched, but loses a
    message that is published as soon as the publisher sees it.
    """
    return (
        QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        QoSProfile(depth=depth),
        QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT),
    )
