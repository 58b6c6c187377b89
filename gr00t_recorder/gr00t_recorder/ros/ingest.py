# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Subscribe to the streams of a topic map and hand their messages on, losing none silently.

One thread takes the serialized bytes and the time, another deserializes them in order. So a slow consumer never delays
the next message, and what does not fit into the queue is counted. The executor has no part in it: it builds its wait
again for every message, which at 500 Hz costs most of a core and delays its timers; asking every millisecond does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from gr00t_recorder.ros.latched import RepeatFilter
from gr00t_recorder.topics.bindings import Reliability, StreamConfig
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.serialized_images import PLAIN_CDR, read_encoded_image, read_raw_image
from gr00t_training.errors import ConfigError

try:
    from rclpy._rclpy_pybind11 import RCLError
except ImportError:  # another rclpy may keep it elsewhere; it is a RuntimeError there as well
    RCLError = RuntimeError

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError  # type: ignore[no-redef]

QUEUE_SIZE = 8192  # messages of all streams: joints at 500 Hz fill it in 16 s
QUEUE_BYTES = 256 * 2**20  # of the same; three raw 640x480 cameras at 30 Hz fill it in three seconds
SMALL_DEPTH = 200  # least history of streams without images: 0.4 s at 500 Hz that the process may be held up
IMAGE_READERS: Mapping[str, Callable[[bytes], Any]] = {
    IMAGE_TYPE: read_raw_image,
    COMPRESSED_IMAGE_TYPE: read_encoded_image,
}
MAX_TAKEN = 64  # messages of a stream in a row, so that none keeps the others waiting
TAKE_PERIOD_S = 0.001
EVENT_PERIOD_S = 1.0
EVENT_WINDOW_S = 0.02  # in which a wait for all of a node's events is built
PUBLISHERS_PERIOD_S = 1.0
CLOSE_TIMEOUT_S = 5.0
UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"  # of a publisher that was discovered before its node


class _Order(Enum):
    """Orders to the worker, in addition to messages."""

    WAKE = 1
    END = 2


class _Untended(MutuallyExclusiveCallbackGroup):
    """Subscriptions that the executor does not wait for.

    For their events, such as a publisher that does not fit, it waits once a second only: with Fast DDS, a wait for the
    events of a subscription ends with each of its messages.
    """

    def __init__(self) -> None:
        super().__init__()
        self._opened_s = 0.0

    def can_execute(self, entity: Any) -> bool:
        if isinstance(entity, Subscription):
            return False
        now_s = time.monotonic()
        if now_s - self._opened_s > EVENT_PERIOD_S:
            self._opened_s = now_s
        return now_s - self._opened_s < EVENT_WINDOW_S and super().can_execute(entity)


class TopicIngest:
    """Subscriptions of a node, feeding a frame assembler."""

    def __init__(
        self,
        node: Node,
        streams: Mapping[str, StreamConfig],
        assembler: FrameAssembler,
        *,
        on_message: Callable[[str, Any, int], None] | None = None,
        on_raw: Callable[[str, int, bytes], None] | None = None,
        on_wake: Callable[[], None] = lambda: None,
        on_timed: Callable[[float], None] | None = None,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        """Subscribe at once.

        Args:
            node: its clock gives the receive time; relative topics follow its namespace.
            streams: topics by stream name.
            assembler: takes every message and the counts of lost ones.
            on_message: called in the worker thread after the assembler has the message (stream, message, receive_ns).
            on_raw: called in the taking thread with every message as it comes (stream, receive_ns, bytes).
            on_wake: called in the worker thread after `wake`.
            on_timed: called in the worker thread with the time from a message's arrival here to its place in the
                assembler [s].
            queue_size: messages that may wait for the worker.

        Raises:
            ConfigError: a message type is not installed.
        """
        classes = {name: message_class(config.type) for name, config in streams.items()}
        self._node = node
        self._assembler = assembler
        self._on_message = on_message
        self._on_raw = on_raw
        self._on_wake = on_wake
        self._on_timed = on_timed
        self._queue: queue.Queue[tuple[str, bytes, int, float, int | None] | _Order] = queue.Queue(queue_size)
        self._bytes_in = self._bytes_out = 0  # put by the taking thread, taken by the worker
        self._numbers: dict[str, int] = {}  # stream -> the publisher's number of its last message
        self._classes = classes
        self._readers = {name: IMAGE_READERS.get(config.type) for name, config in streams.items()}
        self._reported: set[str] = set()
        self._group = _Untended()
        self._is_closed = False
        self._taker = threading.Thread(target=self._take_all, name="take", daemon=True)
        self._worker = threading.Thread(target=self._work, name="ingest", daemon=True)
        self._subscriptions = {name: self._subscribe(name, config) for name, config in streams.items()}
        # a latched stream has a second subscription: the first matches no volatile publisher
        latched = {name: config for name, config in streams.items() if config.latched}
        self._repeats = {name: RepeatFilter() for name in latched}
        self._volatile = {name: self._subscribe(name, config, is_volatile=True) for name, config in latched.items()}
        self._worker.start()
        self._taker.start()

    def topic_name(self, stream: str) -> str:
        """Return the fully qualified topic of a stream, remaps applied."""
        return self._subscriptions[stream].topic_name

    def wake(self) -> None:
        """Have `on_wake` called after the queued messages are read; a full queue does not need it."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(_Order.WAKE)

    def close(self) -> None:
        """Unsubscribe and finish what is queued; may be called twice."""
        self._is_closed = True
        self._taker.join(CLOSE_TIMEOUT_S)
        for subscriptions in (self._subscriptions, self._volatile):
            while subscriptions:
                _, subscription = subscriptions.popitem()
                self._node.destroy_subscription(subscription)
        if self._worker.is_alive():
            self._queue.put(_Order.END)
            self._worker.join(CLOSE_TIMEOUT_S)

    def _subscribe(self, name: str, config: StreamConfig, *, is_volatile: bool = False) -> Subscription:
        profile = stream_qos(dataclasses.replace(config, latched=False) if is_volatile else config)
        is_matched = config.latched and not is_volatile  # whom this one does not match, the volatile one may

        def subscribe(events: SubscriptionEventCallbacks | None) -> Subscription:
            return self._node.create_subscription(
                self._classes[name],
                config.topic,
                partial(self._receive, name),  # type: ignore[arg-type]  # bytes, since raw
                profile,
                callback_group=self._group,
                event_callbacks=events,
                raw=True,
            )

        try:
            return subscribe(
                SubscriptionEventCallbacks(
                    incompatible_qos=lambda event: (
                        None if is_matched else self._report_qos(name, config, event.last_policy_kind)
                    ),
                    message_lost=lambda event: self._count_lost(name, event.total_count_change),
                )
            )
        except UnsupportedEventTypeError:  # an RMW without these events
            return subscribe(None)

    def _take_all(self) -> None:
        """Take what has come, again and again, until closed."""
        asked_s = -PUBLISHERS_PERIOD_S
        while not self._is_closed:
            if time.monotonic() - asked_s > PUBLISHERS_PERIOD_S:
                asked_s = time.monotonic()
                self._ask_for_publishers()
            for name, subscription in (*self._subscriptions.items(), *self._volatile.items()):
                try:
                    self._take(name, subscription)
                except InvalidHandle:  # the node was destroyed
                    return
                except Exception as error:  # without this thread the node would receive nothing
                    self._node.get_logger().error(
                        f"stream '{name}': cannot be read: {error!r}; trying again", throttle_duration_sec=5.0
                    )
            time.sleep(TAKE_PERIOD_S)

    def _ask_for_publishers(self) -> None:
        """Report to the assembler which nodes publish each stream; several nodes may publish different channels."""
        for name, subscription in self._subscriptions.items():
            try:
                self._assembler.store.set_publishers(name, publisher_names(self._node, subscription.topic_name))
            except (InvalidHandle, RCLError):  # the node is being destroyed
                return

    def _take(self, name: str, subscription: Subscription) -> None:
        for _ in range(MAX_TAKEN):
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, True)
            if taken is None:
                return
            self._receive(name, *taken)

    def _receive(self, name: str, serialized: bytes, info: Mapping[str, Any]) -> None:
        if name in self._repeats and not self._repeats[name].is_new(info):
            return
        number = info.get("publication_sequence_number")  # None on Humble
        self._count_gap(name, number)
        self._enqueue(name, serialized, number)

    def _count_gap(self, name: str, number: int | None) -> None:
        """Count the messages missing between two of one publisher: Fast DDS is silent when a history overflows."""
        if number is None:
            return
        missing = number - self._numbers.get(name, number) - 1
        self._numbers[name] = number
        if missing > 0 and self._has_one_publisher(name):
            self._assembler.store.count_dropped(name, missing)

    def _count_lost(self, name: str, count: int) -> None:
        """Count what the middleware reports, unless `_count_gap` has it already."""
        if name not in self._numbers or not self._has_one_publisher(name):
            self._assembler.store.count_dropped(name, count)

    def _has_one_publisher(self, name: str) -> bool:
        """Whether the message numbers of a stream come from one counter."""
        subscription = self._subscriptions.get(name)
        return subscription is not None and self._node.count_publishers(subscription.topic_name) == 1

    def _enqueue(self, name: str, serialized: bytes, number: int | None) -> None:
        receive_ns = self._node.get_clock().now().nanoseconds
        if self._on_raw is not None:
            self._on_raw(name, receive_ns, serialized)
        try:
            if self._bytes_in - self._bytes_out + len(serialized) > QUEUE_BYTES:
                raise queue.Full
            self._queue.put_nowait((name, serialized, receive_ns, time.perf_counter(), number))
            self._bytes_in += len(serialized)
        except queue.Full:
            self._assembler.store.count_dropped(name)
            if f"{name} overflow" not in self._reported:
                self._reported.add(f"{name} overflow")
                self._node.get_logger().warning(
                    f"stream '{name}': messages arrive faster than they are read; dropping and counting them"
                )

    def _work(self) -> None:
        while (item := self._queue.get()) is not _Order.END:
            if isinstance(item, _Order):
                self._guard(self._on_wake, "the work between messages")
                continue
            name, serialized, receive_ns, taken_s, number = item
            self._bytes_out += len(serialized)
            try:
                message = self._read(name, serialized)
            except Exception as error:  # rclpy raises RuntimeError or worse for damaged bytes
                self._assembler.store.count_invalid(name, f"cannot be deserialized: {error}", receive_ns)
                continue
            self._assembler.store.add(name, message, receive_ns, number)
            if self._on_timed is not None:
                self._on_timed(time.perf_counter() - taken_s)
            if self._on_message is not None:
                self._guard(partial(self._on_message, name, message, receive_ns), f"stream '{name}': consumer")

    def _read(self, name: str, serialized: bytes) -> Any:
        reader = self._readers[name]
        if reader is not None and serialized[:2] in PLAIN_CDR:
            return reader(serialized)
        return deserialize_message(serialized, self._classes[name])

    def _guard(self, action: Callable[[], None], subject: str) -> None:
        try:
            action()
        except Exception as error:  # the worker must outlive a bug of its consumer, but not hide it
            self._node.get_logger().error(f"{subject} failed: {error!r}; going on with the next")

    def _report_qos(self, name: str, config: StreamConfig, policy: int) -> None:
        if name in self._reported:
            return
        self._reported.add(name)
        self._node.get_logger().error(
            f"stream '{name}': a publisher on {config.topic} offers an incompatible {_policy_name(policy)}; "
            f"nothing is received from it, change 'reliability' or 'latched' of the stream (now "
            f"{config.reliability.value}{', latched' if config.latched else ''})"
        )


def publisher_names(node: Node, topic: str) -> list[str]:
    """Return the full names of the nodes that publish a topic, one for each publisher."""
    found = node.get_publishers_info_by_topic(topic)
    names = [f"{each.node_namespace.rstrip('/')}/{each.node_name}" for each in found]
    return sorted("(a node without a name yet)" if UNKNOWN_NODE in name else name for name in names)


def stream_qos(config: StreamConfig, *, min_depth: int = 1) -> QoSProfile:
    """Return how a stream is subscribed to."""
    # a latched message is only delivered to late joiners that ask for reliable delivery
    is_reliable = config.reliability is Reliability.RELIABLE or config.latched
    least = min_depth if config.type in IMAGE_READERS else max(min_depth, SMALL_DEPTH)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(config.depth, least),
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if config.latched else DurabilityPolicy.VOLATILE,
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
