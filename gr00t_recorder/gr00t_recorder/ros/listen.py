# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Listen to a running robot for some seconds: its messages as a bag, and who publishes and subscribes.

What is done with bags is then done with a running robot, too.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from gr00t_recorder.bag.heard import Heard
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.record_bag import BagRecorderNode
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap
from gr00t_training.errors import ConfigError

NODE_NAME = "bag_recorder"  # of the node that listens
DISCOVERY_S = 20.0  # within which the first message comes
FEEDBACK, FEEDBACK_TYPE = "/_action/feedback", "_FeedbackMessage"  # of an action server


@contextmanager
def listening(seconds: float, topic_map: TopicMap | None = None) -> Iterator[Heard]:
    """Give what was heard of a topic map's topics, or of all; its bag is deleted at the end.

    Args:
        seconds: how long to listen after the first message of the last topic that was heard.
        topic_map: of the robot; None: all topics.

    Raises:
        ConfigError: no topic is published.
    """
    with tempfile.TemporaryDirectory(prefix="gr00t_listen_") as folder:
        path = Path(folder) / "robot"
        quiet = ["--ros-args", "--log-level", f"{NODE_NAME}:=warn"]
        rclpy.init(args=quiet, signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C stays an exception
        try:
            heard = _listen(path, seconds, topic_map)
        finally:
            try_shutdown()
        yield heard


def _listen(path: Path, seconds: float, topic_map: TopicMap | None) -> Heard:
    missing: dict[str, str] = {}
    streams: list[StreamConfig] | None = None
    if topic_map is not None:
        streams = []
        for config in topic_map.streams.values():
            try:
                message_class(config.type)
                streams.append(config)
            except ConfigError as error:
                missing[config.type] = str(error)
    node = BagRecorderNode(path, streams)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        end_s = time.monotonic() + DISCOVERY_S
        num_heard = 0
        while time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.1)
            if node.num_topics > num_heard:
                num_heard, end_s = node.num_topics, time.monotonic() + seconds
        heard = _graph(node, path, missing)
    finally:
        executor.shutdown()
        node.close()
        node.destroy_node()
    if not heard.published:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        raise ConfigError(
            f"ROS domain {domain}: no topic is published within {DISCOVERY_S:g} s; start the drivers, and check "
            "ROS_DOMAIN_ID and the middleware of both sides"
        )
    return heard


def _graph(node: Node, path: Path, missing: Mapping[str, str]) -> Heard:
    own = f"/{NODE_NAME}"
    published: dict[str, str] = {}
    best_effort: set[str] = set()
    subscribed: dict[str, str] = {}
    for topic, types in node.get_topic_names_and_types(no_demangle=False):
        publishers = [each for each in node.get_publishers_info_by_topic(topic) if f"/{each.node_name}" != own]
        subscribers = [each for each in node.get_subscriptions_info_by_topic(topic) if f"/{each.node_name}" != own]
        if publishers:
            published[topic] = types[0]
        if any(each.qos_profile.reliability is ReliabilityPolicy.BEST_EFFORT for each in publishers):
            best_effort.add(topic)
        if subscribers:
            subscribed[topic] = types[0]
    actions = {
        topic.removesuffix(FEEDBACK): kind.removesuffix(FEEDBACK_TYPE)
        for topic, kind in published.items()
        if topic.endswith(FEEDBACK)
    }
    return Heard(path, published, subscribed, frozenset(best_effort), actions, missing)
