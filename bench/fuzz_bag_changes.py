# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one hostile input a line
"""The ways in which `fuzz_bags.py` changes undamaged bags."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from mcap.writer import CompressionType

from bench.fuzz_bag_seeds import CHUNK, MCAP_RECORD, MESSAGE, Seed, mcap_records, toy_bag, write_mcap
from gr00t_test_support.bag_builder import IMAGE, JOINT_STATE, START_NS

HOSTILE_NUMBERS = (0, 1, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
HOSTILE_TEXTS = (
    "", "..", "../../etc/passwd", "/etc/passwd", "a\x1b[2Jb", "x" * 5000, "{0}", "%s%n", "/joint_states", "\u202e", "a\nb", "#", "null",
)  # fmt: skip


def changed(seed: Seed, rng: random.Random, path: Path) -> tuple[Path, str, bool]:
    """Write a changed bag at `path`; return its path, what was done, and whether only covered bytes were changed."""
    if rng.random() < 0.25 and seed.covered:
        content = bytearray(seed.content)
        start, end = rng.choice(seed.covered)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            content[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
        return _with(seed, bytes(content)).write(path), "covered flip", True
    ways: list[tuple[str, Callable[[Seed, random.Random, Path], Path]]] = [
        ("bytes", _change_bytes), ("bytes", _change_bytes), ("numbers", _change_numbers), ("numbers", _change_numbers),
        ("messages", _change_messages), ("messages", _change_messages), ("files", _change_files),
    ]  # fmt: skip
    if seed.metadata:
        ways += [("metadata", _change_metadata)]
    if seed.kind == "mcap":
        ways += [("records", _change_records), ("definitions", _change_definitions), ("bombs", _make_bomb)]
    if seed.kind == "db3":
        ways += [("tables", _change_tables)] * 3
    what, change = rng.choice(ways)
    return change(seed, rng, path), what, False


def _with(seed: Seed, content: bytes, metadata: str | None = None) -> Seed:
    return Seed(seed.kind, content, seed.covered, seed.metadata if metadata is None else metadata)


def _change_bytes(seed: Seed, rng: random.Random, path: Path) -> Path:
    content = bytearray(seed.content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 2, 8, 100, 5000)))
        way = rng.randrange(8)
        if way == 0:
            content = content[:start]
        elif way == 1:
            del content[start:end]
        elif way == 2:
            content[start:start] = rng.randbytes(end - start)
        elif way == 3:
            content[start:end] = bytes(end - start)
        elif way == 4:
            content[start:start] = content[start:end]
        elif way == 5:
            other = rng.randrange(len(content) + 1)
            content[start:end], content[other : other + end - start] = (
                content[other : other + end - start],
                content[start:end],
            )
        elif start < len(content):
            content[start] ^= 1 << rng.randrange(8)
        if not content:
            break
    return _with(seed, bytes(content)).write(path)


def _change_numbers(seed: Seed, rng: random.Random, path: Path) -> Path:
    """Put hostile numbers where lengths, counts, times and places are."""
    content = bytearray(seed.content)
    for _ in range(rng.choice((1, 1, 3))):
        if seed.kind == "mcap":
            _, start, end = rng.choice(mcap_records(seed.content))
            place = rng.choice((start + 1, start + MCAP_RECORD.size + rng.choice((0, 2, 4, 8, 10, 16, 24, 28, 32))))
            place = min(place, end)
        elif seed.kind == "bag":
            place = max(
                seed.content.find(
                    rng.choice((b"size=", b"count=", b"time=", b"conn=", b"op=")), rng.randrange(len(content))
                ),
                13,
            )
            place += rng.choice((-4, 3, 5, 6, 0))
        else:
            place = rng.choice((rng.randrange(100), rng.randrange(len(content))))
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(HOSTILE_NUMBERS) + rng.choice((0, 0, -1, 1))
        content[place : place + width] = (number % 256**width).to_bytes(width, rng.choice(("little", "little", "big")))
    return _with(seed, bytes(content)).write(path)


def _change_records(seed: Seed, rng: random.Random, path: Path) -> Path:
    """Drop, repeat and exchange whole records, or give them another kind."""
    content = seed.content
    records = [bytearray(content[start:end]) for _, start, end in mcap_records(content)]
    for _ in range(rng.choice((1, 2, 4))):
        number = rng.randrange(len(records))
        way = rng.randrange(4)
        if way == 0 and len(records) > 1:
            del records[number]
        elif way == 1:
            records.insert(rng.randrange(len(records)), records[number])
        elif way == 2:
            other = rng.randrange(len(records))
            records[number], records[other] = records[other], records[number]
        else:
            records[number][0] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 200))
    return _with(seed, content[:8] + b"".join(records) + content[-8:]).write(path)


def _change_messages(seed: Seed, rng: random.Random, path: Path) -> Path:
    """Write a valid bag of hostile messages: values, names, sizes, times, texts."""
    bag = toy_bag(is_ros1=seed.kind == "bag")
    for _ in range(rng.choice((1, 3, 10))):
        number = rng.randrange(len(bag.messages))
        log_ns, topic, kind, message = bag.messages[number]
        if seed.kind == "mcap" and rng.random() < 0.2:
            payload = bytearray(_serialized(bag, message, kind))
            place = rng.randrange(len(payload))
            payload[place : place + 4] = (rng.choice(HOSTILE_NUMBERS) % 2**32).to_bytes(4, "little")
            message = bytes(payload)
        elif not isinstance(message, bytes):
            _spoil(message, rng)
        times = (
            log_ns,
            log_ns,
            0,
            1,
            START_NS - 30 * 10**9,
            START_NS + rng.randrange(10**10),
            2**62,
            2**63 - 1,
            2**64 - 1,
        )
        log_ns = rng.choice(times if seed.kind == "mcap" else times[:2] + times[4:6])
        topic = rng.choice((topic, topic, topic, rng.choice(HOSTILE_TEXTS)))
        bag.messages[number] = (log_ns, topic, kind, message)
    if seed.kind == "bag":
        path = path.with_suffix(".bag")
        with contextlib.suppress(Exception):  # what cannot be written is not a bag
            bag.write(path)
        if not path.exists():
            path.write_bytes(seed.content)
        return path
    path = path.with_suffix(".mcap")
    options: dict[str, Any] = rng.choice(
        ({"compression": CompressionType.ZSTD}, {"compression": CompressionType.LZ4}, {"use_chunking": False})
    )
    try:
        write_mcap(bag, path, None, **options)
    except Exception:
        path.write_bytes(seed.content)
    return path


def _serialized(bag: Any, message: Any, kind: str) -> bytes:
    if isinstance(message, bytes):
        return message
    try:
        return bytes(bag.store.serialize_cdr(message, kind))
    except Exception:  # its values were changed before, to some that cannot be written
        return bytes(64)


def _spoil(message: Any, rng: random.Random) -> None:
    """Give one field of a message a hostile value of its type."""
    name = rng.choice(list(message.__dataclass_fields__))
    value = getattr(message, name)
    if isinstance(value, str):
        value = rng.choice(HOSTILE_TEXTS)
    elif isinstance(value, int):
        value = rng.choice((0, 1, 255, 2**16, 2**31 - 1))
    elif isinstance(value, list):
        value = rng.choice(([], value * 2, value[:1], ["a"] * 500, list(HOSTILE_TEXTS)))
    elif isinstance(value, np.ndarray):
        odd = np.array([np.nan, np.inf, 1e308, -1e308, 0]) if value.dtype.kind == "f" else np.arange(5)
        value = rng.choice((value[:0], value[:-1], np.tile(value, 2), odd.astype(value.dtype)))
    else:
        _spoil(value, rng)
        return
    setattr(message, name, value)


def _change_definitions(seed: Seed, rng: random.Random, path: Path) -> Path:
    rule = "\n" + "=" * 80 + "\n"
    hostile = (
        "JointState[] a", f"B b{rule}MSG: sensor_msgs/B\nJointState a", "uint8[4294967295] a", f"A[] a{rule}MSG: sensor_msgs/A\n",
        f"A[9999999] a{rule}MSG: sensor_msgs/A\nuint8 x", "\n".join(f"uint8 a{i}" for i in range(30000)), "", "((((", "uint8 __init__",
        "string<=999999999999999999999 a", "x" * 300_000, "uint8 a\nuint8 a", "float64 X=1e999", "string X=\"\"\"\nimport os",
        f"A a{rule}" + rule.join(f"MSG: sensor_msgs/{c}\n{n}[100] a" for c, n in zip("ABCDEFGH", "BCDEFGHA", strict=True)),
    )  # fmt: skip
    idl = (
        "module sensor_msgs { module msg { struct JointState { sequence<JointState> a; }; }; };", "=" * 80 + "\nIDL: a/msg/B\n#include <x>\n",
        "module a {" * 3000, "const unsigned long A = 1 << 9999999999;", "typedef a a;", "\x00\x01", "module sensor_msgs { module msg {",
    )  # fmt: skip
    encoding, text = rng.choice([("ros2msg", each) for each in hostile] + [("ros2idl", each) for each in idl])
    path = path.with_suffix(".mcap")
    write_mcap(toy_bag(), path, {rng.choice((JOINT_STATE, IMAGE)): (encoding, text)}, compression=CompressionType.ZSTD)
    return path


def _make_bomb(seed: Seed, rng: random.Random, path: Path) -> Path:
    """Write a chunk that unpacks to far more than it takes, declared or not."""
    size = rng.choice((2**26, 2**28 + 1, 2**30, 2**31))
    with_size = rng.random() < 0.5
    packed = _zeros(size, with_size)
    declared = rng.choice((size, 1000, 2**40))
    head = (
        struct.pack("<QQQII", START_NS, START_NS, declared, rng.choice((0, 12345)), 4)
        + b"zstd"
        + struct.pack("<Q", len(packed))
    )
    chunk = MCAP_RECORD.pack(CHUNK, len(head) + len(packed)) + head + packed
    place = next(start for opcode, start, _ in mcap_records(seed.content) if opcode in (CHUNK, MESSAGE, 3))
    content = seed.content[:place] + chunk + seed.content[place:]
    if rng.random() < 0.3:
        path = path.with_suffix(".mcap.zstd")
        path.write_bytes(rng.choice((packed, zstandard.compress(content))))
        return path
    return _with(seed, content).write(path)


_bombs: dict[tuple[int, bool], bytes] = {}


def _zeros(size: int, with_size: bool) -> bytes:
    if (size, with_size) not in _bombs:
        compressor = zstandard.ZstdCompressor(write_content_size=with_size).compressobj(size if with_size else -1)
        block = bytes(2**22)
        parts = [compressor.compress(block[: min(len(block), size - done)]) for done in range(0, size, len(block))]
        _bombs[size, with_size] = b"".join(parts) + compressor.flush()
    return _bombs[size, with_size]


def _change_tables(seed: Seed, rng: random.Random, path: Path) -> Path:
    bag = seed.write(path)
    database = sqlite3.connect(next(bag.glob("*.db3")))
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n"
    scripts = (
        f"DROP TABLE messages; CREATE VIEW messages AS {endless} AS id, 1 AS topic_id, n AS timestamp, x'00' AS data FROM r;",
        f"DROP TABLE topics; CREATE VIEW topics AS {endless} AS id, 'a' AS name, 'b' AS type, 'cdr' AS serialization_format FROM r;",
        f"DROP TABLE message_definitions; CREATE VIEW message_definitions AS {endless} AS topic_type, 'a' AS encoding, 'b' AS encoded_message_definition FROM r;",
        "ALTER TABLE messages RENAME TO m; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data GENERATED ALWAYS AS (zeroblob(900000000))); INSERT INTO messages(topic_id, timestamp) SELECT topic_id, timestamp FROM m;",
        "UPDATE messages SET timestamp = 'now' WHERE id = 7;", "UPDATE messages SET data = zeroblob(300000000) WHERE id = 7;",
        "UPDATE messages SET data = NULL || '' WHERE id % 3 = 0;", "UPDATE messages SET topic_id = 99 WHERE id = 3;",
        "UPDATE messages SET timestamp = -5 WHERE id = 9;", "UPDATE messages SET timestamp = 9223372036854775807 WHERE id = 9;",
        "UPDATE messages SET timestamp = 0 WHERE id < 5;", "UPDATE messages SET timestamp = timestamp - 30000000000 WHERE id > 20;",
        "UPDATE topics SET name = x'ff00';", "UPDATE topics SET type = '/';", "DELETE FROM messages WHERE id % 4 = 1;",
        "UPDATE messages SET data = randomblob(40) WHERE id = 12;", "DROP INDEX timestamp_idx;", "DROP TABLE messages;",
        "UPDATE message_definitions SET encoded_message_definition = encoding;", "DELETE FROM topics;",
        "CREATE VIRTUAL TABLE v USING fts5(a); DROP TABLE topics; ALTER TABLE v RENAME TO topics;",
        f"UPDATE topics SET name = '{HOSTILE_TEXTS[4]}' WHERE id = 1;", "UPDATE topics SET serialization_format = 3;",
    )  # fmt: skip
    for _ in range(rng.choice((1, 1, 2))):
        with contextlib.suppress(sqlite3.Error):
            database.executescript(rng.choice(scripts))
    database.commit()
    database.close()
    return bag


def _change_metadata(seed: Seed, rng: random.Random, path: Path) -> Path:
    text = seed.metadata
    lines = text.splitlines(keepends=True)
    hostile = (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c]\n",
        "!!python/object/apply:os.system ['true']", "[" * 5000, "rosbag2_bagfile_information: 7", "", "\x00", "- a\n- b", "a: b: c",
        "rosbag2_bagfile_information: {relative_file_paths: {a: b}}", "rosbag2_bagfile_information: {relative_file_paths: [[1]]}",
        text.replace("message_count: 6", "message_count: 99999999999999999999"), text.replace("message_count: 6", "message_count: -1"),
        text.replace("message_count: 6", "message_count: [1]"), text.replace("name: /camera", "name: [1]"),
    )  # fmt: skip
    way = rng.randrange(4)
    if way == 0:
        text = rng.choice(hostile)
    elif way == 1:
        name = rng.choice(
            (
                "../../seeds/toy.yaml",
                "/etc/passwd",
                "bag_0." + seed.kind + "/..",
                *HOSTILE_TEXTS,
                "renamed." + seed.kind,
            )
        )
        text = text.replace(f"- bag_0.{seed.kind}", f"- {name!r}")
    elif way == 2:
        del lines[rng.randrange(len(lines))]
        text = "".join(lines)
    else:
        content = bytearray(text.encode())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
        text = content.decode("utf-8", "replace")
    return _with(seed, seed.content, text or "# nothing").write(path)


def _change_files(seed: Seed, rng: random.Random, path: Path) -> Path:
    """Put something else where a file of the bag is."""
    bag = seed.write(path)
    target = bag if bag.is_file() else rng.choice(list(bag.iterdir()))
    way = rng.randrange(7)
    if way != 6:
        target.unlink()
    if way == 0:
        os.mkfifo(target)
    elif way == 1:
        target.symlink_to("/dev/zero")
    elif way == 2:
        target.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    elif way == 3:
        target.touch()
    elif way == 4:
        target.mkdir()
    elif way == 5:
        with open(target, "wb") as file:
            file.write(seed.content[: rng.randrange(200)])
            file.truncate(rng.choice((10**6, 10**11)))  # the rest is a hole
    elif bag.is_dir():
        (bag / f"._bag_0.{seed.kind}").write_bytes(b"\x00\x05\x16\x07")
        (bag / f"bag_1.{seed.kind}").write_bytes(seed.content if rng.random() < 0.5 else b"")
    return bag
