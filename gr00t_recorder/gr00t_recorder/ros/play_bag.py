# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_play_bag`: publish a bag's messages at the pace of their log times, where `ros2 bag` is not installed.

The recorded bytes are published unchanged. With `--clock`, `/clock` follows the log times, so that nodes with
`use_sim_time` see the time of the recording. `--now` is for nodes that use real time: the stamps are moved to the
present, and each keeps its recorded distance to the publication of its message.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import ok, try_shutdown
from rosgraph_msgs.msg import Clock

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.storage import CDR
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError, DatasetError

MAX_NUMBER = 1e6
MAX_CLOCK_S = 2**31  # limit of a ROS stamp
CLOCK_STEP_S = 0.01
TAIL_S = 2.0  # of /clock after the last message: for nodes that wait for late ones, and for the middleware
STAMP_OFFSET = 4  # bytes; CDR: the encapsulation comes first, then a header's stamp
STAMP_END = STAMP_OFFSET + 8
# Reliable and transient-local match every subscriber; the depth is for bursts.
OFFERED_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a bag and return the exit code: 0, also at the end of a loop, or as `run_command`."""
    return run_command("gr00t_play_bag", lambda: _play(arguments))


def _play(arguments: Sequence[str] | None) -> int:
    parser = CommandParser("gr00t_play_bag", description="Publish the messages of a bag as ROS 2 topics.")
    parser.add_argument("bag", type=Path, metavar="BAG", help="Bag folder or storage file.")
    parser.add_argument("--clock", action="store_true", help="Publish the log time on /clock.")
    parser.add_argument("--now", action="store_true", help="Move the stamps to the present.")
    text = "Speed as a factor of real time."
    parser.add_argument("--rate", type=_positive, default=1.0, metavar="X", help=text)
    text = "Names of topics to play (default: all)."
    parser.add_argument("--only-topics", nargs="+", metavar="TOPIC", help=text)
    parser.add_old_spelling("--topics", "--only-topics")
    parser.add_argument("--loop", action="store_true", help="Start again at the end, until interrupted.")
    add(parser, "--allow-partial")
    text = "Longest wait for a subscriber of each topic [s]."
    parser.add_argument("--wait", type=_positive, default=0.0, metavar="X", help=text)
    options, ros = parse_with_ros_args(parser, arguments)
    if options.now and options.clock:
        parser.error("--now and --clock are both given; choose one: stamps of the present or of the recording")
    # our own handlers: a signal ends this command like any other
    rclpy.init(args=ros, signal_handler_options=SignalHandlerOptions.NO)
    try:
        with Bag(options.bag, allow_partial=options.allow_partial) as bag:
            player = BagPlayer(bag, options.only_topics, has_clock=options.clock, is_now=options.now)
            player.wait_for_subscribers(options.wait)
            player.play(options.rate)
            while options.loop:
                player.play(options.rate)
    except ExternalShutdownException:
        pass
    except KeyboardInterrupt:
        if not options.loop:  # a loop is meant to be ended so
            raise
    finally:
        try_shutdown()
    return 0


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and up to {MAX_NUMBER:g}")
    return number


class BagPlayer(Node):
    """Publishers of a bag's topics."""

    def __init__(
        self, bag: Bag, topics: Sequence[str] | None, *, has_clock: bool = False, is_now: bool = False
    ) -> None:
        """Create a publisher per topic; topics without an installed type are skipped with a warning.

        Args:
            bag: open.
            topics: to play; None: all.
            has_clock: whether `/clock` follows the log times.
            is_now: whether stamps are moved to the present.

        Raises:
            DatasetError: a named topic is not in the bag, or nothing is left to play.
        """
        super().__init__("gr00t_play_bag")
        absent = [topic for topic in topics or () if topic not in bag.topics]
        if absent:
            raise DatasetError(f"{bag.path}: no topic {absent[0]}; the bag has {', '.join(sorted(bag.topics))}")
        self._bag = bag
        self._publishers_by_topic: dict[str, Any] = {}
        self._is_now = is_now
        for name in topics or sorted(bag.topics):
            if has_clock and name == "/clock":
                continue  # the recorded clock would conflict with ours
            if bag.topics[name].encoding != CDR:
                self.get_logger().warning(f"{name} is not played: it is serialized as '{bag.topics[name].encoding}'")
                continue
            try:
                kind = message_class(bag.topics[name].type)
            except ConfigError as error:
                self.get_logger().warning(f"{name} is not played: {error}")
                continue
            self._publishers_by_topic[name] = self.create_publisher(kind, name, OFFERED_QOS)
        if not self._publishers_by_topic:
            raise DatasetError(f"{bag.path}: none of its topics can be played")
        self.shift_ns = 0  # from stamps of the bag to those that are published; known when playing has begun
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10) if has_clock else None

    def wait_for_subscribers(self, timeout_s: float) -> None:
        """Wait until every topic has a subscriber, at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        waiting: list[str] = []
        publishers = [*self._publishers_by_topic.values(), *([self._clock_publisher] if self._clock_publisher else [])]
        while time.monotonic() < deadline and ok():
            waiting = [publisher.topic_name for publisher in publishers if not publisher.get_subscription_count()]
            if not waiting:
                return
            time.sleep(CLOCK_STEP_S)
        if timeout_s > 0:
            self.get_logger().warning(f"no subscriber on {', '.join(waiting)}; playing anyway")

    def play(
        self, rate: float = 1.0, *, tail_s: float = TAIL_S, before: Callable[[int], None] = lambda log_ns: None
    ) -> None:
        """Publish the whole bag once, then continue the time.

        Args:
            rate: times as fast as recorded.
            tail_s: how long the time continues.
            before: called with the log time of each message when it is due.
        """
        start_ns, last_ns, start_s, now_ns = 0, 0, 0.0, 0
        for message in self._bag.messages(self._publishers_by_topic):
            if not start_ns:
                start_ns, start_s, now_ns = message.log_ns, time.monotonic(), self.get_clock().now().nanoseconds
                self.shift_ns = now_ns - start_ns if self._is_now else 0
            last_ns = message.log_ns
            publisher, payload = self._publishers_by_topic[message.topic], bytes(message.payload)
            if self._is_now:
                present_ns = now_ns + round((last_ns - start_ns) / rate)
                payload = _moved(payload, publisher.msg_type, present_ns - last_ns)
            self._wait_until(last_ns, start_ns, start_s, rate)
            before(last_ns)
            self._publish_clock(last_ns)
            publisher.publish(payload)
        self._wait_until(last_ns + round(tail_s * 1e9), start_ns, start_s, rate)

    def _wait_until(self, log_ns: int, start_ns: int, start_s: float, rate: float) -> None:
        """Sleep until a log time is due, and publish `/clock` meanwhile."""
        while True:
            passed_ns = round((time.monotonic() - start_s) * rate * 1e9)
            rest_s = (log_ns - start_ns - passed_ns) / 1e9 / rate
            if rest_s <= 0:
                return
            self._publish_clock(start_ns + passed_ns)
            time.sleep(min(rest_s, CLOCK_STEP_S))

    def _publish_clock(self, now_ns: int) -> None:
        if self._clock_publisher is not None:
            if not 0 <= now_ns < MAX_CLOCK_S * 10**9:
                raise DatasetError(
                    f"{self._bag.path}: log time {now_ns} ns is out of range for /clock; play without --clock"
                )
            stamp = Time(sec=now_ns // 1_000_000_000, nanosec=now_ns % 1_000_000_000)
            self._clock_publisher.publish(Clock(clock=stamp))


def _moved(payload: bytes, kind: Any, shift_ns: int) -> bytes:
    """Return a serialized message with its stamp moved; a stamp of zero means none and stays."""
    first = next(iter(kind.get_fields_and_field_types().items()), ("", ""))
    if len(payload) < STAMP_END:
        return payload
    if first == ("header", "std_msgs/Header"):
        form = "<iI" if payload[1] & 1 else ">iI"
        moved = bytearray(payload)
        sec, nanosec = struct.unpack_from(form, payload, STAMP_OFFSET)
        struct.pack_into(form, moved, STAMP_OFFSET, *_later(sec, nanosec, shift_ns))
        return bytes(moved)
    if first[0] != "transforms":
        return payload
    message = deserialize_message(payload, kind)
    for transform in message.transforms:
        stamp = transform.header.stamp
        stamp.sec, stamp.nanosec = _later(stamp.sec, stamp.nanosec, shift_ns)
    return serialize_message(message)


def _later(sec: int, nanosec: int, shift_ns: int) -> tuple[int, int]:
    return divmod(sec * 1_000_000_000 + nanosec + shift_ns, 1_000_000_000) if sec or nanosec else (0, 0)


if __name__ == "__main__":
    sys.exit(main())
