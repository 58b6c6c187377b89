# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the topics of a topic map into an MCAP bag, as they come: `ros2 bag record` for machines without ROS tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.topics.bindings import Reliability, StreamConfig, TopicMap, load_topic_map
from gr00t_training.errors import ConfigError, DatasetError, Gr00tError

METADATA_VERSION = 9  # of Jazzy
DEPTH = 100  # messages; at least what the disk may hold up
UNLIMITED = QosTime(9223372036, 854775807)  # how DDS writes "no deadline"


class BagRecorderNode(Node):
    """Subscribes to every stream and writes its serialised messages."""

    def __init__(self, path: Path, topic_map: TopicMap) -> None:
        """Open the bag and subscribe.

        Raises:
            DatasetError: the folder exists already, or cannot be made.
            ConfigError: a message type is not installed, or its definition is not known.
        """
        super().__init__("bag_recorder")
        types = get_typestore(Stores.ROS2_JAZZY)
        unknown = [config.type for config in topic_map.streams.values() if config.type not in types.types]
        if unknown:
            raise ConfigError(f"message type {unknown[0]}: no definition to write into the bag; use `ros2 bag record`")
        if path.exists():
            raise DatasetError(f"{path}: exists already; name another folder")
        self._writer = Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self.counts = dict.fromkeys(topic_map.streams, 0)
        for name, config in topic_map.streams.items():
            self._subscribe(name, config, types)
        self.get_logger().info(f"writing {len(topic_map.streams)} topics to {path}")

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()
        self.get_logger().info(", ".join(f"{name} {count}" for name, count in self.counts.items()))

    def _subscribe(self, name: str, config: StreamConfig, types: Typestore) -> None:
        is_reliable = config.reliability is Reliability.RELIABLE or config.latched
        profile = QoSProfile(
            depth=max(config.depth, DEPTH),
            reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if config.latched else DurabilityPolicy.VOLATILE,
        )
        connection = None

        def write(serialised: bytes) -> None:
            assert connection is not None
            self._writer.write(connection, self.get_clock().now().nanoseconds, serialised)
            self.counts[name] += 1

        subscription = self.create_subscription(message_class(config.type), config.topic, write, profile, raw=True)
        connection = self._writer.add_connection(
            subscription.topic_name, config.type, typestore=types, offered_qos_profiles=[_offered(config)]
        )


def _offered(config: StreamConfig) -> Qos:
    """Return how a player should offer the topic."""
    is_reliable = config.reliability is Reliability.RELIABLE or config.latched
    return Qos(
        QosHistory.KEEP_LAST,
        config.depth,
        QosReliability.RELIABLE if is_reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if config.latched else QosDurability.VOLATILE,
        UNLIMITED,
        UNLIMITED,
        QosLiveliness.AUTOMATIC,
        UNLIMITED,
        False,
    )


def main(args: list[str] | None = None) -> int:
    """Record until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the bag; is made")
    parser.add_argument("--topics", type=Path, required=True, help="topic map (YAML)")
    given, ros_args = parser.parse_known_args(args)
    try:
        topic_map, _ = load_topic_map(given.topics)
    except Gr00tError as error:
        print(error, file=sys.stderr)
        return 2
    return run_node(lambda: BagRecorderNode(given.output, topic_map), ros_args)
