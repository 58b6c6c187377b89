# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Feed `gr00t_recorder.bag.recording` from topics: those of the topic map through the ingest, others by discovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.subscription import Subscription
from std_msgs.msg import String

from gr00t_recorder.bag.installed_definitions import full_definition
from gr00t_recorder.bag.mcap_writer import WrittenTopic
from gr00t_recorder.bag.recording import BagRecording
from gr00t_recorder.episodes.events import EpisodeEvent, event_text
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.latched import subscribe_latched
from gr00t_training.errors import ConfigError

DISCOVERED_DEPTH = 200  # messages; at least what the disk may hold up
NO_LIMIT = {"sec": 9223372036, "nsec": 854775807}  # how DDS writes "no deadline"
EVENT_TYPE = "std_msgs/msg/String"


class BagScope(str, Enum):
    """Which topics go into the bag."""

    OFF = "off"
    CONFIGURED = "configured"  # those of the topic map
    ALL = "all"  # every topic with an installed type


class TopicBags:
    """The bags of one recorder node."""

    def __init__(
        self, node: Node, scope: BagScope, topics: Mapping[str, str], events_topic: str, *, is_per_episode: bool
    ) -> None:
        """Prepare; nothing is written before a bag begins.

        Args:
            node: subscribes to the topics that are not configured.
            scope: CONFIGURED or ALL.
            topics: type of every configured topic by its fully qualified name.
            events_topic: fully qualified topic of the markers that the recorder publishes.
            is_per_episode: whether each episode gets a separate bag.
        """
        self.recording = BagRecording()
        self.is_per_episode = is_per_episode
        self._node = node
        self._scope = scope
        self._events_topic = events_topic
        self._types = {**topics, events_topic: EVENT_TYPE}
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._left_out: set[str] = set()

    def put(self, topic: str, receive_ns: int, serialized: bytes) -> None:
        """Take a message of a configured topic, as soon as it has come."""
        # the recorder's own markers are written by `mark`, with the times that count
        if topic != self._events_topic and self._declare(topic):
            self.recording.put(topic, receive_ns, serialized)

    def mark(self, event: EpisodeEvent, time_ns: int) -> None:
        """Write a marker of the recorder."""
        if self._declare(self._events_topic):
            message = String(data=event_text(event))
            self.recording.note(self._events_topic, time_ns, serialize_message(message))

    def begin(self, folder: Path, name: str) -> None:
        """Begin a bag in `folder`, its name completed by the time."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")[:-3]
        self.recording.begin(folder / f"{name}_{stamp}")

    def discover(self) -> None:
        """Subscribe to topics that have appeared, where all are wanted."""
        if self._scope is not BagScope.ALL:
            return
        for topic, types in self._node.get_topic_names_and_types():
            if topic in self._types or topic in self._left_out:
                continue
            profiles = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
            if not profiles:
                continue  # how it must be subscribed to is known with the first publisher
            try:
                # other publishers of a latched topic may come later, and be volatile
                is_latched = any(profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
                self.subscribe(topic, types[0], _fitting(profiles), is_latched=is_latched)
            except ConfigError as error:
                self._leave_out(topic, error)

    def subscribe(self, topic: str, type_name: str, qos: QoSProfile, *, is_latched: bool = False) -> None:
        """Write a topic that does not come through `put`; ConfigError when its type is not installed.

        Args:
            topic: fully qualified name.
            type_name: of its messages.
            qos: of the subscription.
            is_latched: whether to receive from latched and volatile publishers.
        """
        kind, clock = message_class(type_name), self._node.get_clock()
        self._types[topic] = type_name

        def take(serialized: Any) -> None:  # bytes, since raw
            self.put(topic, clock.now().nanoseconds, serialized)

        def take_with_info(serialized: bytes, _info: Any) -> None:  # as the callbacks of `subscribe_latched`
            take(serialized)

        if is_latched:
            self._subscriptions[topic] = subscribe_latched(self._node, kind, topic, take, depth=qos.depth, raw=True)
        else:
            taker: Any = take_with_info
            self._subscriptions[topic] = [self._node.create_subscription(kind, topic, taker, qos, raw=True)]

    def close(self) -> None:
        """Write what has been received, complete the bag and unsubscribe; may be called twice."""
        while self._subscriptions:
            for subscription in self._subscriptions.popitem()[1]:
                self._take_rest(subscription)
                self._node.destroy_subscription(subscription)
        self.recording.close()

    def _take_rest(self, subscription: Subscription) -> None:
        """Handle the messages that the executor has not come to, as many as the queue may hold."""
        for _ in range(subscription.qos_profile.depth):
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is None:
                return
            subscription.callback(*taken)

    def _declare(self, topic: str) -> bool:
        """Describe a topic to the bag at its first message: by then its publishers are known."""
        if self.recording.is_declared(topic):
            return True
        if topic in self._left_out:
            return False
        try:
            definition = full_definition(self._types[topic])
        except ConfigError as error:
            self._leave_out(topic, error)
            return False
        infos = self._node.get_publishers_info_by_topic(topic)
        hashes = [_hash_text(getattr(info, "topic_type_hash", None)) for info in infos]  # Humble has none
        offered = [_offered(info.qos_profile) for info in infos]
        unique = [profile for number, profile in enumerate(offered) if profile not in offered[:number]]
        self.recording.declare(
            WrittenTopic(topic, self._types[topic], definition, unique, next(filter(None, hashes), ""))
        )
        return True

    def _leave_out(self, topic: str, error: ConfigError) -> None:
        self._left_out.add(topic)
        self._node.get_logger().warning(f"{topic} is not written into the bag: {error}")


def _fitting(profiles: Sequence[QoSProfile]) -> QoSProfile:
    """Return a subscription that receives from all these publishers, as reliably as all of them allow."""
    is_reliable = all(profile.reliability is ReliabilityPolicy.RELIABLE for profile in profiles)
    return QoSProfile(
        depth=DISCOVERED_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def _offered(profile: QoSProfile) -> dict[str, Any]:
    """Return a publisher's profile in the words of rosbag2 (version 9)."""
    return {
        "history": "keep_last",  # discovery does not report it; a player needs a finite one
        "depth": profile.depth or 10,
        "reliability": "reliable" if profile.reliability is ReliabilityPolicy.RELIABLE else "best_effort",
        "durability": "transient_local" if profile.durability is DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
        "deadline": NO_LIMIT,
        "lifespan": NO_LIMIT,
        "liveliness": "automatic",
        "liveliness_lease_duration": NO_LIMIT,
        "avoid_ros_namespace_conventions": False,
    }


def _hash_text(type_hash: Any) -> str:
    return "" if type_hash is None else str(type_hash)
