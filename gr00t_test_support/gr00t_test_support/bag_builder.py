# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Makes small bags with any fault in them: a coded camera at 10 Hz, two joints at 50 Hz, commands, texts, calls.

The image of step k shows the number k. Joints are linear in time: `a` is seconds since START_NS, `b` its negative.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gr00t_recorder.bag.message_types import event_definition

START_NS = 1_700_000_000 * 10**9
MS = 10**6
STEP_NS = 100 * MS
SIZE = (48, 128)
JOINT_STATE, IMAGE = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image"
TRIGGER = "---\nbool success\nstring message\n"
START_EPISODE = "string task\n---\nuint16 NONE=0\nuint16 error_code\nstring error_msg\nuint32 episode_index\n"

TOPICS = """
embodiment: toy.yaml
streams:
  joints: {topic: /joint_states, type: sensor_msgs/msg/JointState}
  command: {topic: /command, type: sensor_msgs/msg/JointState}
  camera: {topic: /camera, type: sensor_msgs/msg/Image}
  events: {topic: /events, type: std_msgs/msg/String, stamp: receive}
  task: {topic: /task, type: std_msgs/msg/String, stamp: receive}
state: {arm: {stream: joints}}
action: {arm: {stream: command, align: nearest}}
video: {front: {stream: camera}}
events: {stream: events}
task: {stream: task}
"""
EMBODIMENT = f"""
name: toy
tag: new_embodiment
fps: 10
state: {{arm: {{names: [a, b]}}}}
action: {{arm: {{names: [a, b]}}}}
video: {{front: {{height: {SIZE[0]}, width: {SIZE[1]}}}}}
"""


def write_toy_topics(folder: Path) -> Path:
    """Write topic map and embodiment of the bags made here."""
    (folder / "toy.yaml").write_text(EMBODIMENT)
    path = folder / "topics.yaml"
    path.write_text(TOPICS)
    return path


def numbered_image(number: int) -> np.ndarray:
    """Return an image that `bag_truth.frame_number` reads."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    cell = SIZE[1] // 16
    for bit in range(16):
        image[:8, cell * bit : cell * (bit + 1)] = 255 if number >> bit & 1 else 0
    return image


@dataclass
class ToyBag:
    """Messages in the order in which they are added; written sorted by log time."""

    is_ros1: bool = False
    messages: list[tuple[int, str, str, Any]] = field(default_factory=list)  # log time, topic, type, message
    services: dict[str, str] = field(default_factory=dict)  # event type -> definition of the service
    latched: tuple[str, ...] = ()  # topics with transient local publishers

    def __post_init__(self) -> None:
        self.store = get_typestore(Stores.ROS1_NOETIC if self.is_ros1 else Stores.ROS2_JAZZY)

    def steps(self, first: int, last: int) -> ToyBag:
        """Add camera, joints and commands of the steps `first` to `last`, both included."""
        for step in range(first, last + 1):
            self.image(step)
            self.joints("/command", step * STEP_NS)
            for part in range(5):
                self.joints("/joint_states", step * STEP_NS + part * 20 * MS)
        return self

    def image(self, step: int, *, stamp_ns: int | None = None) -> ToyBag:
        """Add the image of a step, logged 10 ms after its stamp."""
        stamp_ns = START_NS + step * STEP_NS if stamp_ns is None else stamp_ns
        image = numbered_image(step)
        message = self.make(IMAGE, header=self.header(stamp_ns), height=SIZE[0], width=SIZE[1], encoding="rgb8",
                            is_bigendian=0, step=SIZE[1] * 3, data=image.reshape(-1))  # fmt: skip
        return self.add(START_NS + step * STEP_NS + 10 * MS, "/camera", IMAGE, message)

    def joints(self, topic: str, offset_ns: int, *, stamp_ns: int | None = None, value: float | None = None) -> ToyBag:
        """Add joints `offset_ns` after the start, logged 1 ms later."""
        seconds = offset_ns / 1e9 if value is None else value
        message = self.make(JOINT_STATE, header=self.header(START_NS + offset_ns if stamp_ns is None else stamp_ns),
                            name=["a", "b"], position=np.array([seconds, -seconds]), velocity=np.zeros(0),
                            effort=np.zeros(0))  # fmt: skip
        return self.add(START_NS + offset_ns + MS, topic, JOINT_STATE, message)

    def text(self, topic: str, offset_ns: int, text: str) -> ToyBag:
        """Add a text."""
        return self.add(START_NS + offset_ns, topic, "std_msgs/msg/String", self.make("std_msgs/msg/String", data=text))

    def event(self, offset_ns: int, event: str, task: str = "", **members: Any) -> ToyBag:
        """Add a marker."""
        return self.text("/events", offset_ns, json.dumps({"event": event, "task": task, **members}))

    def call(self, offset_ns: int, service: str, kind: str, definition: str, request: dict, response: dict) -> ToyBag:
        """Add the events of a service call as the server records them: request received, response sent."""
        event_type = f"{kind}_Event"
        name = event_type.replace("/srv/", "/msg/")
        if event_type not in self.services:
            self.store.register(get_types_from_msg(event_definition(name, definition), name))
            self.services[event_type] = definition
        sequence = 1 + sum(topic == f"{service}/_service_event" for _, topic, _, _ in self.messages)
        for number, (event, members) in enumerate(((1, request), (2, response))):
            prefix = name.removesuffix("_Event")
            if not members:
                members = {"structure_needs_at_least_one_member": 0}
            content = self.make(f"{prefix}_{'Response' if number else 'Request'}", **members)
            info = self.make("service_msgs/msg/ServiceEventInfo", event_type=event, stamp=self.time(START_NS),
                             client_gid=np.zeros(16, np.uint8), sequence_number=sequence)  # fmt: skip
            message = self.make(name, info=info, request=[content][number:], response=[content][:number])
            self.add(START_NS + offset_ns + number * MS, f"{service}/_service_event", event_type, message)
        return self

    def add(self, log_ns: int, topic: str, kind: str, message: Any) -> ToyBag:
        """Add any message."""
        self.messages.append((log_ns, topic, kind, message))
        return self

    def make(self, kind: str, **members: Any) -> Any:
        """Return a message."""
        return self.store.types[kind](**members)

    def header(self, stamp_ns: int) -> Any:
        """Return a header; ROS 1 has a number in it."""
        extra = {"seq": 0} if self.is_ros1 else {}
        return self.make("std_msgs/msg/Header", **extra, stamp=self.time(stamp_ns), frame_id="")

    def time(self, stamp_ns: int) -> Any:
        """Return a time."""
        return self.make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)

    def write(self, path: Path) -> Path:
        """Write the bag: an MCAP file, or a ROS 1 file."""
        messages = sorted(self.messages, key=lambda entry: entry[0])
        if self.is_ros1:
            self._write_ros1(path, messages)
        else:
            self._write_mcap(path, messages)
        return path

    def _write_mcap(self, path: Path, messages: list[tuple[int, str, str, Any]]) -> None:
        channels: dict[str, int] = {}
        with open(path, "wb") as file:
            writer = Writer(file, chunk_size=20_000, compression=CompressionType.ZSTD)
            writer.start("ros2")
            for log_ns, topic, kind, message in messages:
                name = kind.replace("/srv/", "/msg/") if kind in self.services else kind
                if topic not in channels:
                    text = self.services.get(kind) or self.store.generate_msgdef(kind, ros_version=2)[0]
                    schema = writer.register_schema(kind, "ros2msg", text.encode())
                    profiles = (
                        "- durability: transient_local\n" if topic in self.latched else "- durability: volatile\n"
                    )
                    channels[topic] = writer.register_channel(topic, "cdr", schema, {"offered_qos_profiles": profiles})
                payload = bytes(self.store.serialize_cdr(message, name))
                writer.add_message(channels[topic], log_time=log_ns, data=payload, publish_time=log_ns)
            writer.finish()

    def _write_ros1(self, path: Path, messages: list[tuple[int, str, str, Any]]) -> None:
        connections: dict[tuple[str, int], Any] = {}
        with Ros1Writer(path) as writer:
            for number, (log_ns, topic, kind, message) in enumerate(messages):
                key = (topic, number % 2)  # two publishers on every topic
                if key not in connections:
                    connections[key] = writer.add_connection(topic, kind, typestore=self.store, callerid=f"/{key[1]}")
                writer.write(connections[key], log_ns, self.store.serialize_ros1(message, kind))
