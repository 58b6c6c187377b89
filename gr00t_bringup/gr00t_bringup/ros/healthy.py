# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Health check of a container: does its node publish? For `healthcheck` of docker/compose.yaml.

What counts is what a node publishes periodically, so that one that hangs is not healthy although its process runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from gr00t_recorder.ros.ingest import message_class
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser

NAME = "gr00t_healthy"
WITHIN_S = 20.0
STEP_S = 0.1


class Listener(Node):
    """Waits for one message."""

    def __init__(self) -> None:
        super().__init__(NAME, enable_rosout=False, start_parameter_services=False)
        self.is_healthy = False
        self._is_subscribed = False

    def follow_node(self, name: str) -> None:
        """Wait for a diagnostic of a node."""

        def take(message: DiagnosticArray) -> None:
            self.is_healthy |= any(status.name.startswith(f"/{name.strip('/')}: ") for status in message.status)

        self.create_subscription(DiagnosticArray, "/diagnostics", take, qos_profile_sensor_data)

    def follow_topic(self, topic: str) -> None:
        """Wait for any message of a topic, once it is there."""
        name = self.resolve_topic_name(topic)
        types = dict(self.get_topic_names_and_types()).get(name)
        if self._is_subscribed or not types:
            return
        self._is_subscribed = True

        def take(message: bytes) -> None:
            self.is_healthy = True

        self.create_subscription(message_class(types[0]), name, take, qos_profile_sensor_data, raw=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if something was published in time, else 1."""
    return run_command(NAME, lambda: _check(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(NAME, description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--node", metavar="NAME", help="Node of the suite that publishes diagnostics, with its namespace."
    )
    what.add_argument("--topic", metavar="TOPIC", help="Topic that is published again and again.")
    parser.add_argument("--within", type=float, default=WITHIN_S, metavar="X", help="Time limit [s].")
    return parser


def _check(options: argparse.Namespace) -> int:
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Listener()
        if options.node:
            node.follow_node(options.node)
        end = time.monotonic() + options.within
        while not node.is_healthy and time.monotonic() < end:
            if options.topic:
                node.follow_topic(options.topic)
            rclpy.spin_once(node, timeout_sec=STEP_S)
        if not node.is_healthy:
            print(f"nothing of {options.node or options.topic} within {options.within:g} s", file=sys.stderr)
        return 0 if node.is_healthy else 1
    finally:
        try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
