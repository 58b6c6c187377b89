# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Small undamaged bags of every storage for `fuzz_bags.py`, and the offsets of their parts."""

from __future__ import annotations

import sqlite3
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, IndexType, Writer
from rosbags.rosbag1 import Writer as Ros1Writer

from gr00t_test_support.bag_builder import IMAGE, JOINT_STATE, STEP_NS, ToyBag

STEPS = 5
MCAP_RECORD, LENGTH = struct.Struct("<BQ"), struct.Struct("<I")
CHUNK, MESSAGE = 6, 5


@dataclass(frozen=True)
class Seed:
    """An undamaged bag."""

    kind: str  # mcap, db3 or bag
    content: bytes
    covered: tuple[tuple[int, int], ...] = ()  # ranges of bytes that a checksum covers
    metadata: str = ""  # of rosbag2, where it has one

    def write(self, path: Path) -> Path:
        """Write it as a folder or as a file."""
        if not self.metadata:
            path = path.with_suffix(f".{self.kind}")
            path.write_bytes(self.content)
            return path
        path.mkdir()
        (path / f"bag_0.{self.kind}").write_bytes(self.content)
        (path / "metadata.yaml").write_text(self.metadata)
        return path


def make_seeds(folder: Path) -> dict[str, Seed]:
    """Return undamaged bags by name; `folder` is for files in between."""
    zstd = _mcap(folder / "a", compression=CompressionType.ZSTD)
    lz4 = _mcap(folder / "b", compression=CompressionType.LZ4)
    loose = _mcap(folder / "c", use_chunking=False, enable_crcs=False)
    whole = _mcap(folder / "d", compression=CompressionType.NONE, enable_data_crcs=True)
    unchecked = _mcap(folder / "e", compression=CompressionType.ZSTD, enable_crcs=False, index_types=IndexType.NONE)
    seeds = {
        "zstd": Seed("mcap", zstd, _chunk_data(zstd), _metadata("mcap")),
        "lz4": Seed("mcap", lz4, _chunk_data(lz4)),
        "loose": Seed("mcap", loose),
        "whole": Seed("mcap", whole, ((0, _end_of_data(whole)),)),
        "unchecked": Seed("mcap", unchecked),
        "sqlite": Seed("db3", _sqlite(folder / "f"), (), _metadata("db3")),
    }
    for kind in ("none", "bz2", "lz4"):
        content = _ros1(folder / f"g_{kind}.bag", kind)
        seeds[f"ros1_{kind}"] = Seed("bag", content, _ros1_chunks(content) if kind == "bz2" else ())
    return seeds


def toy_bag(is_ros1: bool = False) -> ToyBag:
    bag = ToyBag(is_ros1).text("/task", 0, "wave").steps(0, STEPS)
    return bag.event(0, "start", "wave").event(STEPS * STEP_NS, "stop")


def _mcap(path: Path, **options: Any) -> bytes:
    bag = toy_bag()
    write_mcap(bag, path, **options)
    return path.read_bytes()


def write_mcap(bag: ToyBag, path: Path, definitions: dict[str, tuple[str, str]] | None = None, **options: Any) -> None:
    channels: dict[str, int] = {}
    with open(path, "wb") as file:
        writer = Writer(file, chunk_size=30_000, **options)
        writer.start("ros2")
        for log_ns, topic, kind, message in sorted(bag.messages, key=lambda entry: entry[0]):
            if topic not in channels:
                text = bag.store.generate_msgdef(kind, ros_version=2)[0]
                encoding, text = (definitions or {}).get(kind, ("ros2msg", text))
                channels[topic] = writer.register_channel(
                    topic, "cdr", writer.register_schema(kind, encoding, text.encode())
                )
            payload = message if isinstance(message, bytes) else bytes(bag.store.serialize_cdr(message, kind))
            writer.add_message(channels[topic], log_time=log_ns, data=payload, publish_time=log_ns)
        writer.finish()


def _sqlite(path: Path) -> bytes:
    bag = toy_bag()
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
        " serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
        "CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT, encoding TEXT,"
        " encoded_message_definition TEXT, type_description_hash TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,"
        " data BLOB NOT NULL); CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
    )
    numbers: dict[str, int] = {}
    for log_ns, topic, kind, message in sorted(bag.messages, key=lambda entry: entry[0]):
        if topic not in numbers:
            numbers[topic] = len(numbers) + 1
            database.execute("INSERT INTO topics VALUES(?, ?, ?, 'cdr', '')", (numbers[topic], topic, kind))
            text = bag.store.generate_msgdef(kind, ros_version=2)[0]
            database.execute("INSERT INTO message_definitions VALUES(NULL, ?, 'ros2msg', ?, '')", (kind, text))
        payload = bytes(bag.store.serialize_cdr(message, kind))
        database.execute("INSERT INTO messages VALUES(NULL, ?, ?, ?)", (numbers[topic], log_ns, payload))
    database.commit()
    database.close()
    return path.read_bytes()


def _ros1(path: Path, compression: str) -> bytes:
    bag, connections = toy_bag(is_ros1=True), {}
    writer = Ros1Writer(path)
    if compression != "none":
        writer.set_compression(Ros1Writer.CompressionFormat[compression.upper()])
    with writer:
        for log_ns, topic, kind, message in sorted(bag.messages, key=lambda entry: entry[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=bag.store)
            writer.write(connections[topic], log_ns, bag.store.serialize_ros1(message, kind))
    return path.read_bytes()


def _metadata(kind: str) -> str:
    counts = {"/task": 1, "/events": 2, "/camera": STEPS + 1, "/command": STEPS + 1, "/joint_states": 5 * (STEPS + 1)}
    types = {"/task": "std_msgs/msg/String", "/events": "std_msgs/msg/String", "/camera": IMAGE}
    topics = "".join(
        f"    - topic_metadata: {{name: {topic}, type: {types.get(topic, JOINT_STATE)}, serialization_format: cdr}}\n"
        f"      message_count: {count}\n"
        for topic, count in counts.items()
    )
    return (
        "rosbag2_bagfile_information:\n  version: 5\n  storage_identifier: mcap\n  relative_file_paths:\n"
        f"    - bag_0.{kind}\n  topics_with_message_count:\n{topics}"
    )


def mcap_records(content: bytes) -> list[tuple[int, int, int]]:
    """Return opcode, begin of the header and end of every record at the top."""
    place, found = 8, []
    while place + MCAP_RECORD.size <= len(content) - 8:
        opcode, length = MCAP_RECORD.unpack_from(content, place)
        found.append((opcode, place, place + MCAP_RECORD.size + length))
        place += MCAP_RECORD.size + length
    return found


def _chunk_data(content: bytes) -> tuple[tuple[int, int], ...]:
    found = []
    for opcode, start, end in mcap_records(content):
        if opcode == CHUNK:
            (name,) = LENGTH.unpack_from(content, start + MCAP_RECORD.size + 28)
            found.append((start + MCAP_RECORD.size + 32 + name + 8, end))
    return tuple(found)


def _end_of_data(content: bytes) -> int:
    return next(start for opcode, start, _ in mcap_records(content) if opcode == 0x0F)


def _ros1_chunks(content: bytes) -> tuple[tuple[int, int], ...]:
    found, place = [], content.find(b"\n") + 1
    while place < len(content):
        (header,) = LENGTH.unpack_from(content, place)
        fields = content[place + 4 : place + 4 + header]
        (length,) = LENGTH.unpack_from(content, place + 4 + header)
        start = place + 8 + header
        if b"op=\x05" in fields:
            found.append((start, start + length))
        place = start + length
    return tuple(found)
