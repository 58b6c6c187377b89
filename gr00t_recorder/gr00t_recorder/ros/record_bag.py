# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the topics of a topic map, or all, into an MCAP bag: `ros2 bag record` for machines without ROS tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rclpy.node import Node

from gr00t_recorder.ros.bag_topics import DISCOVERED_DEPTH, BagScope, TopicBags
from gr00t_recorder.ros.ingest import stream_qos
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_training.errors import DatasetError, Gr00tError

DISCOVERY_PERIOD_S = 0.5


class BagRecorderNode(Node):
    """Writes what it is subscribed to, from the start to the end."""

    def __init__(self, path: Path, topic_map: TopicMap | None) -> None:
        """Begin the bag; without a topic map all topics are written.

        Raises:
            DatasetError: the folder exists already.
            ConfigError: a message type is not installed.
        """
        super().__init__("bag_recorder")
        if path.exists():
            raise DatasetError(f"{path}: exists already; name another folder")
        configs = topic_map.streams.values() if topic_map else ()
        scope = BagScope.CONFIGURED if topic_map else BagScope.ALL
        self._bags = TopicBags(self, scope, {}, "", is_per_episode=False)
        self._path = path
        for config in configs:
            topic = self.resolve_topic_name(config.topic)
            self._bags.subscribe(topic, config.type, stream_qos(config, min_depth=DISCOVERED_DEPTH))
        self._bags.recording.begin(path)
        self._bags.discover()
        self.create_timer(DISCOVERY_PERIOD_S, self._bags.discover)
        self.get_logger().info(f"writing {len(configs) or 'all'} topics to {path}")

    def close(self) -> None:
        """Finish the bag."""
        self._bags.close()
        bag = self._bags.recording
        self.get_logger().info(f"{self._path}: {bag.num_messages} messages, {bag.num_dropped} dropped")


def main(args: list[str] | None = None) -> int:
    """Record until a signal."""
    parser = argparse.ArgumentParser(prog="gr00t_record_bag", description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the bag; is made")
    parser.add_argument("--topics", type=Path, help="topic map (YAML); without it all topics are written")
    given, ros_args = parser.parse_known_args(args)
    try:
        topic_map = load_topic_map(given.topics)[0] if given.topics else None
    except Gr00tError as error:
        print(f"gr00t_record_bag: {error}", file=sys.stderr)
        return 2
    return run_node(lambda: BagRecorderNode(given.output, topic_map), ros_args)


if __name__ == "__main__":
    sys.exit(main())
