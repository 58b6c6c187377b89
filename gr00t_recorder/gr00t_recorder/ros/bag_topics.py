# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Feed `gr00t_recorder.bag_recording` from topics: those of the topic map through the ingest, others by discovery."""

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

from gr00t_recorder.bag_recording import BagRecording
from gr00t_recorder.definitions import full_definition
from gr00t_recorder.episodes import EpisodeEvent, event_text
from gr00t_recorder.mcap_writer import WrittenTopic
from gr00t_recorder.ros.ingest import message_class
from gr00t_training.errors import ConfigError

DISCOVERED_DEPTH = 200  # messages; at least what the disk may hold up
NO_LIMIT = {"sec": 9223372036, "nsec": 854775807}  # how DDS writes "no deadline"
EVENT_TYPE = "std_msgs/msg/String"


class BagScope(str, Enum):
    """Which topics go into the bag."""

    OFF = "off"
    CONFIGURED = "configured"  # those of the topic map
    ALL = "all"  # every topic whose type is installed


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
            events_topic: fully qualified topic of the episodes' markers.
            is_per_episode: whether each episode gets a bag of its own.
        """
        self.recording = BagRecording()
        self.is_per_episode = is_per_episode
        self._node = node
        self._scope = scope
        self._events_topic = events_topic
        self._types = {**topics, events_topic: EVENT_TYPE}
        self._subscriptions: dict[str, Subscription] = {}
        self._left_out: set[str] = set()

    def put(self, topic: str, receive_ns: int, serialised: bytes) -> None:
        """Take a message of a configured topic, as soon as it has come."""
        # an episode's bag has the markers of its own episode only, written by `mark`
        if self._declare(topic) and not (self.is_per_episode and topic == self._events_topic):
            self.recording.put(topic, receive_ns, serialised)

    def mark(self, event: EpisodeEvent, time_ns: int, *, is_heard: bool) -> None:
        """Write a marker of the running episode; `is_heard` when it came on the events topic itself."""
        if self._declare(self._events_topic) and (self.is_per_episode or not is_heard):
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
                self.subscribe(topic, types[0], _fitting(profiles))
            except ConfigError as error:
                self._leave_out(topic, error)

    def subscribe(self, topic: str, type_name: str, qos: QoSProfile) -> None:
        """Write a topic that does not come through `put`; ConfigError when its type is not installed."""
        kind, clock = message_class(type_name), self._node.get_clock()
        self._types[topic] = type_name

        def take(serialised: Any) -> None:  # bytes, since raw
            self.put(topic, clock.now().nanoseconds, serialised)

        self._subscriptions[topic] = self._node.create_subscription(kind, topic, take, qos, raw=True)

    def close(self) -> None:
        """Complete the bag and unsubscribe; may be called twice."""
        while self._subscriptions:
            _, subscription = self._subscriptions.popitem()
            self._node.destroy_subscription(subscription)
        self.recording.close()

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
    is_latched = all(profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        depth=DISCOVERED_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE,
    )


def _offered(profile: QoSProfile) -> dict[str, Any]:
    """Return a publisher's profile in the words of rosbag2 (version 9)."""
    return {
        "history": "keep_last",  # discovery does not tell; a player needs a finite one
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
