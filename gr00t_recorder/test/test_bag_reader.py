# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import sqlite3
from collections import Counter

import numpy as np
import pytest
from mcap.writer import CompressionType, Writer

from gr00t_recorder.bag.reader import Bag
from gr00t_test_support.bag_builder import ToyBag
from gr00t_training.errors import DatasetError

WITH_TRUTH = [
    "gr1_ep0_mcap",
    "gr1_ep1_sqlite3_raw",
    "gr1_session_split_mcap",
    "so101_leader_follower_mcap",
    "arm7_two_cameras_sqlite3",
    "edge_no_metadata_sqlite3",
    "edge_unindexed_mcap",
    "edge_trailing_bytes_mcap",
]


def bag_path(folder):
    return folder / "bag" if (folder / "bag").exists() else folder


def read_all(path, **options):
    """Return the number of messages per topic, after deserializing each and checking the order."""
    counts, last_ns = Counter(), 0
    with Bag(path, **options) as bag:
        for message in bag.messages():
            assert message.log_ns >= last_ns
            last_ns = message.log_ns
            bag.deserialize(message)
            counts[message.topic] += 1
        return dict(counts), bag.complaints


@pytest.mark.parametrize("name", WITH_TRUTH)
def test_every_message_is_read_in_order(bags_dir, name):
    truth = json.loads((bags_dir / name / "truth.json").read_text())
    counts, complaints = read_all(bag_path(bags_dir / name))
    assert counts == {topic: entry["count"] for topic, entry in truth["topics"].items()}
    assert not complaints


def test_stray_bytes_after_a_message_do_no_harm(bags_dir):
    with Bag(bags_dir / "edge_trailing_bytes_mcap") as bag:
        message = next(iter(bag.messages(["/joint_states"])))
        joints = bag.deserialize(message)
    assert joints.name[0] == "panda_joint1"
    assert np.isfinite(joints.position).all()
    assert len(joints.velocity) == 0


def test_cut_file_is_refused_and_kept_in_part_on_request(bags_dir):
    path = bags_dir / "edge_truncated_mcap"
    with pytest.raises(DatasetError, match=r"truncated.*--allow-partial"):
        read_all(path)
    counts, complaints = read_all(path, allow_partial=True)
    assert counts == json.loads((path / "truth.json").read_text())["recoverable"]
    assert any("truncated" in line for line in complaints)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("talker_mcap", {"/topic": 10, "/rosout": 10}),  # QoS text of metadata and storage differ
        ("talker_sqlite3", {"/topic": 10, "/rosout": 10}),
        ("reindex_mcap", {"/chatter": 3177}),  # three files, no metadata
        ("cdr_mcap", {"/test_topic": 3, "/array_topic": 4}),
        ("empty_sqlite3", {}),
    ],
)
def test_bags_of_rosbag2_are_read_whole(bags_dir, name, expected):
    assert read_all(bags_dir / "rosbag2_suite" / name)[0] == expected


def test_service_events_do_not_hinder_the_other_topics(bags_dir):
    with Bag(bags_dir / "rosbag2_suite" / "service_events_mcap") as bag:
        messages = list(bag.messages(["/test_topic1", "/test_topic2"]))
        assert [bag.deserialize(message) for message in messages]
        assert len(messages) == 2


def test_service_events_are_read_by_the_definition_of_their_service(bags_dir):
    with Bag(bags_dir / "rosbag2_suite" / "service_events_mcap") as bag:
        events = [bag.deserialize(message) for message in bag.messages(["/test_service1/_service_event"])]
    assert [event.info.event_type for event in events] == [0, 3, 0, 3]  # of the client: request sent, response received
    assert [len(event.request) for event in events] == [1, 0, 1, 0]
    assert events[1].response[0].string_value == ""


def test_unknown_type_is_named(tmp_path):
    with open(tmp_path / "x.mcap", "wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        channel = writer.register_channel("/x", "cdr", writer.register_schema("lab_msgs/msg/Own", "ros2msg", b""))
        writer.add_message(channel, log_time=1, data=b"\0\1\0\0", publish_time=1)
        writer.finish()
    with Bag(tmp_path / "x.mcap") as bag:
        with pytest.raises(DatasetError, match="lab_msgs/msg/Own is not a standard type"):
            bag.deserialize(next(iter(bag.messages())))
        assert "record with a rosbag2 of Iron or later" in bag.unreadable("/x")


def test_topic_of_two_types_is_readable_up_to_itself(tmp_path):
    with open(tmp_path / "x.mcap", "wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        for kind, definition in (("std_msgs/msg/String", b"string data"), ("std_msgs/msg/Bool", b"bool data")):
            channel = writer.register_channel("/x", "cdr", writer.register_schema(kind, "ros2msg", definition))
            writer.add_message(channel, log_time=1, data=b"\0\1\0\0", publish_time=1)
        writer.finish()
    with Bag(tmp_path / "x.mcap") as bag:
        assert bag.topics["/x"].type == "std_msgs/msg/String and std_msgs/msg/Bool"
        assert bag.topics["/x"].num_messages == len(list(bag.messages())) == 2
        assert "is not a standard type" in bag.unreadable("/x")


@pytest.mark.parametrize(
    "name",
    [
        "gr1_ep0_mcap",
        "gr1_ep1_sqlite3_raw",
        "edge_unindexed_mcap",
        "rosbag2_suite/cdr_mcap",
        "rosbag2_suite/empty_sqlite3",
        "ros1_suite/example.bag",
    ],
)
def test_times_without_payloads_are_those_of_the_messages(bags_dir, name):
    with Bag(bag_path(bags_dir / name)) as bag:
        expected = {topic: [] for topic in bag.topics}
        for message in bag.messages():
            expected[message.topic].append(message.log_ns)
        times = bag.times(set(bag.topics))
        assert {topic: block.tolist() for topic, block in times.items()} == expected
        assert bag.start_ns() == min((block[0] for block in expected.values() if block), default=None)


def copy_bag(bags_dir, name, target):
    shutil.copytree(bag_path(bags_dir / name), target)
    for path in [target, *target.iterdir()]:
        path.chmod(0o755)
    return target


def test_messages_missing_against_the_metadata_are_an_error(bags_dir, tmp_path):
    folder = copy_bag(bags_dir, "arm7_two_cameras_sqlite3", tmp_path / "bag")
    with sqlite3.connect(folder / "bag.db3") as database:
        number = database.execute("SELECT id FROM topics WHERE name = '/arm/command'").fetchone()[0]
        database.execute(
            "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE topic_id = ? LIMIT 3)", [number]
        )
    database.close()
    with pytest.raises(DatasetError, match="topic /arm/command has 147 messages, the bag declares 150"):
        read_all(folder)
    counts, complaints = read_all(folder, allow_partial=True)
    assert counts["/arm/command"] == 147
    assert complaints == ["bag: topic /arm/command has 147 messages, the bag declares 150; "[:-2]]


def test_messages_in_the_write_ahead_log_are_read(bags_dir, tmp_path):
    folder = copy_bag(bags_dir, "edge_no_metadata_sqlite3", tmp_path / "bag")
    database = sqlite3.connect(folder / "bag.db3")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    row = database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY timestamp DESC").fetchone()
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", [row[0], row[1] + 1, row[2]])
    database.commit()
    assert (folder / "bag.db3-wal").stat().st_size > 0
    before = (folder / "bag.db3").read_bytes()
    assert sum(read_all(folder)[0].values()) == 438
    assert (folder / "bag.db3").read_bytes() == before
    database.close()


def test_damaged_chunk_is_one_clear_error_and_costs_only_itself(bags_dir, tmp_path):
    folder = copy_bag(bags_dir, "gr1_ep0_mcap", tmp_path / "bag")
    content = bytearray((folder / "bag.mcap").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    (folder / "bag.mcap").write_bytes(content)
    with pytest.raises(DatasetError, match=r"chunk at byte \d+ is damaged") as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)
    counts, complaints = read_all(folder, allow_partial=True)
    assert 0 < sum(counts.values()) < 1416
    assert any("is damaged" in line for line in complaints)


@pytest.mark.parametrize(("name", "reason"), [("x.mcap", "is not an MCAP file"), ("x.db3", "is not a SQLite file")])
def test_other_files_are_refused(tmp_path, name, reason):
    (tmp_path / name).write_bytes(b"something else entirely")
    with pytest.raises(DatasetError, match=reason):
        Bag(tmp_path / name)


def test_absent_bag_and_absent_file_are_named(bags_dir, tmp_path):
    with pytest.raises(DatasetError, match="no such bag"):
        Bag(tmp_path / "nothing")
    folder = copy_bag(bags_dir, "gr1_session_split_mcap", tmp_path / "bag")
    (folder / "bag_1.mcap").unlink()
    with pytest.raises(DatasetError, match=r"bag_1.mcap is missing, metadata.yaml lists it"):
        Bag(folder)


def write_mcap(path, times, compression):
    """Write a file with one string message per chunk, in this order on disk."""
    with open(path, "wb") as file:
        writer = Writer(file, chunk_size=1, compression=compression)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/text", "cdr", schema)
        for time in times:
            text = str(time).encode() + b"\0"
            payload = b"\x00\x01\x00\x00" + len(text).to_bytes(4, "little") + text
            writer.add_message(channel, log_time=time, data=payload, publish_time=time)
        writer.finish()


def test_messages_outside_of_chunks_are_read_in_order(tmp_path):
    path = tmp_path / "x.mcap"
    with open(path, "wb") as file:
        writer = Writer(file, use_chunking=False)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channels = [writer.register_channel(topic, "cdr", schema) for topic in ("/text", "/other")]
        for number, time in enumerate((3, 1, 2, 5, 4)):
            payload = b"\x00\x01\x00\x00\x02\x00\x00\x00" + b"%d\x00" % time
            writer.add_message(channels[number % 2], log_time=time, data=payload, publish_time=time)
        writer.finish()
    assert read_texts(path) == ["1", "2", "3", "4", "5"]
    with Bag(path) as bag:
        assert [message.log_ns for message in bag.messages(["/text"])] == [2, 3, 4]


def test_cut_sqlite_file_keeps_the_messages_before_the_cut(bags_dir, tmp_path):
    content = (bags_dir / "edge_no_metadata_sqlite3" / "bag" / "bag.db3").read_bytes()
    path = tmp_path / "bag.db3"
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(DatasetError, match=r"is damaged .*--allow-partial"):
        read_all(path)
    counts, complaints = read_all(path, allow_partial=True)
    assert 100 < sum(counts.values()) < 437
    assert len(complaints) == 1


def read_texts(path, **options):
    with Bag(path, **options) as bag:
        return [bag.deserialize(message).data for message in bag.messages()]


def test_chunks_out_of_time_order_are_put_in_order(tmp_path):
    write_mcap(tmp_path / "x.mcap", [30, 50, 10, 20, 40], CompressionType.ZSTD)
    assert read_texts(tmp_path / "x.mcap") == ["10", "20", "30", "40", "50"]


def test_messages_before_the_cut_of_a_chunk_are_kept(tmp_path):
    path = tmp_path / "x.mcap"
    with open(path, "wb") as file:
        writer = Writer(file, chunk_size=10**6, compression=CompressionType.NONE)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/text", "cdr", schema)
        for time in range(1, 9):
            writer.add_message(channel, time, b"\x00\x01\x00\x00\x02\x00\x00\x00" + b"%d\x00" % time, time)
        writer.finish()
    content = path.read_bytes()
    cut = content.index(b"\x02\x00\x00\x005\x00") + 6  # behind the fifth message
    path.write_bytes(content[:cut])
    assert read_texts(path, allow_partial=True) == ["1", "2", "3", "4", "5"]


def test_split_files_without_metadata_are_taken_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10):
        # one log time in all: the order of the files decides
        write_mcap(tmp_path / f"bag_{number}.mcap", [7] * number, CompressionType.LZ4)
    with Bag(tmp_path) as bag:
        counts = [file.topics()["/text"].num_messages for file in bag.files]
    assert counts == [1, 2, 10]


def test_sqlite_events_of_a_service_are_read_by_the_definition_of_the_service(tmp_path):
    """rosbag2 keys definitions in SQLite by the service itself, and notes profiles that a player needs."""
    bag = ToyBag().call(0, "/go", "lab_msgs/srv/Go", "int32 speed\n---\nbool done\n", {"speed": 7}, {"done": True})
    database = sqlite3.connect(tmp_path / "x.db3")
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT,"
        " offered_qos_profiles TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
        "CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT, encoding TEXT,"
        " encoded_message_definition TEXT);"
        "INSERT INTO topics VALUES(1, '/go/_service_event', 'lab_msgs/srv/Go_Event', 'cdr', '- durability: 1');"
        "INSERT INTO message_definitions VALUES(1, 'lab_msgs/srv/Go', 'ros2msg', 'int32 speed\n---\nbool done\n');"
    )
    for log_ns, _, _, message in bag.messages:
        payload = bytes(bag.store.serialize_cdr(message, "lab_msgs/msg/Go_Event"))
        database.execute("INSERT INTO messages VALUES(NULL, 1, ?, ?)", (log_ns, payload))
    database.commit()
    database.close()
    with Bag(tmp_path / "x.db3") as opened:
        events = [opened.deserialize(message) for message in opened.messages()]
        assert events[0].request[0].speed == 7
        assert events[1].response[0].done
        assert opened.topics["/go/_service_event"].is_latched
