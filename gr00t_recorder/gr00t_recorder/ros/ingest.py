# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Subscribe to the streams of a topic map and hand their messages on, losing none silently.

The executor's thread only takes the serialised bytes and the time; one worker thread deserialises them in order. So a
slow consumer never delays the next message, and what does not fit into the queue is counted.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from gr00t_recorder.topics.bindings import Reliability, StreamConfig
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.errors import ConfigError

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError  # type: ignore[no-redef]

QUEUE_SIZE = 256  # messages of all streams; three raw 640x480 cameras at 30 Hz fill it in nearly three seconds
CLOSE_TIMEOUT_S = 5.0


class TopicIngest:
    """Subscriptions of a node, feeding a frame assembler."""

    def __init__(
        self,
        node: Node,
        streams: Mapping[str, StreamConfig],
        assembler: FrameAssembler,
        *,
        on_message: Callable[[str, Any, int], None] | None = None,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        """Subscribe at once.

        Args:
            node: node whose clock gives the receive time; relative topics follow its namespace.
            streams: topics by stream name.
            assembler: takes every message and the counts of lost ones.
            on_message: called in the worker thread after the assembler has the message (stream, message, receive_ns).
            queue_size: messages that may wait for the worker.

        Raises:
            ConfigError: a message type is not installed.
        """
        classes = {name: message_class(config.type) for name, config in streams.items()}
        self._node = node
        self._assembler = assembler
        self._on_message = on_message
        self._queue: queue.Queue[tuple[str, bytes, int] | None] = queue.Queue(queue_size)
        self._classes = classes
        self._reported: set[str] = set()
        self._group = MutuallyExclusiveCallbackGroup()
        self._worker = threading.Thread(target=self._work, name="ingest", daemon=True)
        self._subscriptions = {name: self._subscribe(name, config) for name, config in streams.items()}
        self._worker.start()

    def topic_name(self, stream: str) -> str:
        """Return the fully qualified topic of a stream, remaps applied."""
        return self._subscriptions[stream].topic_name

    def close(self) -> None:
        """Unsubscribe and finish what is queued; may be called twice."""
        while self._subscriptions:
            _, subscription = self._subscriptions.popitem()
            self._node.destroy_subscription(subscription)
        if self._worker.is_alive():
            self._queue.put(None)
            self._worker.join(CLOSE_TIMEOUT_S)

    def _subscribe(self, name: str, config: StreamConfig) -> Subscription:
        is_reliable = config.reliability is Reliability.RELIABLE
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=config.depth,
            # a latched message is only delivered to late joiners that ask for reliable delivery
            reliability=ReliabilityPolicy.RELIABLE if is_reliable or config.latched else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if config.latched else DurabilityPolicy.VOLATILE,
        )

        def subscribe(events: SubscriptionEventCallbacks | None) -> Subscription:
            return self._node.create_subscription(
                self._classes[name],
                config.topic,
                lambda serialised: self._enqueue(name, serialised),  # type: ignore[arg-type]  # bytes, since raw
                profile,
                callback_group=self._group,
                event_callbacks=events,
                raw=True,
            )

        try:
            return subscribe(
                SubscriptionEventCallbacks(
                    incompatible_qos=lambda event: self._report_qos(name, config, event.last_policy_kind),
                    message_lost=lambda event: self._assembler.count_dropped(name, event.total_count_change),
                )
            )
        except UnsupportedEventTypeError:  # an RMW without these events
            return subscribe(None)

    def _enqueue(self, name: str, serialised: bytes) -> None:
        try:
            self._queue.put_nowait((name, serialised, self._node.get_clock().now().nanoseconds))
        except queue.Full:
            self._assembler.count_dropped(name)
            if f"{name} overflow" not in self._reported:
                self._reported.add(f"{name} overflow")
                self._node.get_logger().warning(
                    f"stream '{name}': messages arrive faster than they are read; dropping and counting them"
                )

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            name, serialised, receive_ns = item
            try:
                message = deserialize_message(serialised, self._classes[name])
            except Exception as error:  # rclpy raises RuntimeError or worse for damaged bytes
                self._assembler.count_invalid(name, f"cannot be deserialised: {error}", receive_ns)
                continue
            self._assembler.add(name, message, receive_ns)
            if self._on_message is not None:
                self._call(name, message, receive_ns)

    def _call(self, name: str, message: Any, receive_ns: int) -> None:
        assert self._on_message is not None
        try:
            self._on_message(name, message, receive_ns)
        except Exception as error:  # the worker must outlive a bug of its consumer, but not hide it
            self._node.get_logger().error(f"stream '{name}': consumer failed: {error!r}; going on with the next")

    def _report_qos(self, name: str, config: StreamConfig, policy: int) -> None:
        if name in self._reported:
            return
        self._reported.add(name)
        self._node.get_logger().error(
            f"stream '{name}': a publisher on {config.topic} offers an incompatible {_policy_name(policy)}; "
            f"nothing is received from it, change 'reliability' or 'latched' of the stream (now "
            f"{config.reliability.value}{', latched' if config.latched else ''})"
        )


def message_class(type_name: str) -> Any:
    """Import the class of `package/msg/Name`.

    Raises:
        ConfigError: the package or the message is not installed; names it.
    """
    package, kind, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"message type {type_name}: package '{package}' is not installed here; install it or source its workspace"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"message type {type_name}: package '{package}' has no message '{name}'") from error


def _policy_name(policy: Any) -> str:
    name = getattr(policy, "name", str(policy))
    return name.lower().removeprefix("rmw_qos_policy_").replace("_", " ")
