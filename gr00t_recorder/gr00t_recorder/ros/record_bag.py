# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the topics of a topic map, or all, into an MCAP bag: `ros2 bag record` for machines without ROS tools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from rclpy.node import Node

from gr00t_recorder.ros.bag_topics import DISCOVERED_DEPTH, BagScope, TopicBags
from gr00t_recorder.ros.ingest import stream_qos
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.topics.bindings import StreamConfig, load_topic_map
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError, DatasetError

DISCOVERY_PERIOD_S = 0.5


class BagRecorderNode(Node):
    """Writes all messages of its subscriptions into one bag."""

    def __init__(self, path: Path, streams: Collection[StreamConfig] | None) -> None:
        """Begin the bag of these streams; None: of all topics.

        Raises:
            DatasetError: the folder exists already.
            ConfigError: a message type is not installed.
        """
        super().__init__("bag_recorder")
        if path.exists():
            raise DatasetError(f"{path}: exists already; choose another folder")
        configs = streams or ()
        scope = BagScope.ALL if streams is None else BagScope.CONFIGURED
        self._bags = TopicBags(self, scope, {}, "", is_per_episode=False)
        self._path = path
        for config in configs:
            topic = self.resolve_topic_name(config.topic)
            qos = stream_qos(config, min_depth=DISCOVERED_DEPTH)
            self._bags.subscribe(topic, config.type, qos, is_latched=config.latched)
        self._bags.recording.begin(path)
        self._bags.discover()
        self.create_timer(DISCOVERY_PERIOD_S, self._bags.discover)
        self.get_logger().info(f"writing {len(configs) or 'all'} topics to {path}")

    @property
    def num_topics(self) -> int:
        """Topics of which a message has come."""
        return self._bags.recording.num_topics

    def close(self) -> None:
        """Finish the bag."""
        self._bags.close()
        bag = self._bags.recording
        self.get_logger().info(f"{self._path}: {bag.num_messages} messages, {bag.num_dropped} dropped")


def main(args: Sequence[str] | None = None) -> int:
    """Record until a signal."""
    return run_command("gr00t_record_bag", lambda: _record(args))


def _record(args: Sequence[str] | None) -> int:
    parser = CommandParser("gr00t_record_bag", description="Record topics into an MCAP bag until Ctrl-C.")
    parser.add_argument("old_output", type=Path, nargs="?", help=argparse.SUPPRESS)  # before --output was an option
    add(parser, "--output", "Must not exist.")
    add(parser, "--topics", "Its topics are recorded (default: all topics).")
    given, ros = parse_with_ros_args(parser, args)
    output = given.output or given.old_output
    if output is None:
        raise ConfigError("--output is missing; name the folder of the bag")
    streams = load_topic_map(given.topics)[0].streams.values() if given.topics else None
    return run_node(lambda: BagRecorderNode(output, streams), ros)


if __name__ == "__main__":
    sys.exit(main())
