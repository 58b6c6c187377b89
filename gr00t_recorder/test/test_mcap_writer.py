# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import shutil

import pytest
from mcap.reader import make_reader

from gr00t_recorder.bag.mcap_writer import BagWriter, WrittenTopic
from gr00t_recorder.bag.reader import Bag
from gr00t_training.errors import DatasetError

STRING = "string data\n"
DURATION = {"sec": 9223372036, "nsec": 854775807}
QOS = {
    "history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "transient_local",
    "deadline": DURATION, "lifespan": DURATION, "liveliness": "automatic", "liveliness_lease_duration": DURATION,
    "avoid_ros_namespace_conventions": False,
}  # fmt: skip
TYPE_HASH = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
TOPIC = WrittenTopic("/task", "std_msgs/msg/String", STRING, [QOS], TYPE_HASH)


def cdr(text):
    return b"\x00\x01\x00\x00" + (len(text) + 1).to_bytes(4, "little") + text.encode() + b"\x00"


@pytest.fixture
def bag(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    number = writer.add_topic(TOPIC)
    for i in range(10):
        writer.write(number, 1000 + i, cdr(f"text {i}"))
        if i == 4:
            writer.flush()
    return writer


def read_texts(path, **options):
    with Bag(path, **options) as bag:
        return [(message.log_ns, bag.deserialize(message).data) for message in bag.messages(["/task"])]


def test_complete_bag_is_read_by_our_reader_and_by_others(bag):
    bag.close({"episode": "3"})
    bag.close()
    expected = [(1000 + i, f"text {i}") for i in range(10)]
    assert read_texts(bag.folder) == expected
    with open(bag.folder / "bag_0.mcap", "rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary.statistics.message_count == 10
        assert [index.message_start_time for index in summary.chunk_indexes] == [1000, 1005]
        found = [(channel.topic, schema.name, message.log_time) for schema, channel, message in reader.iter_messages()]
    assert found == [("/task", "std_msgs/msg/String", 1000 + i) for i in range(10)]


def test_rosbags_finds_every_message_and_the_offered_qos(bag):
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import QosDurability

    bag.close()
    with AnyReader([bag.folder]) as reader:
        connection = reader.connections[0]
        assert connection.msgcount == 10
        assert connection.ext.offered_qos_profiles[0].durability is QosDurability.TRANSIENT_LOCAL
        texts = [reader.deserialize(raw, connection.msgtype).data for connection, _, raw in reader.messages()]
    assert texts == [f"text {i}" for i in range(10)]


def test_bag_of_a_killed_process_keeps_what_was_flushed(bag, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(bag.folder / "bag_0.mcap", cut)  # neither closed nor flushed since the fifth message
    assert read_texts(cut, allow_partial=True) == [(1000 + i, f"text {i}") for i in range(5)]


def test_existing_folder_is_refused(bag, tmp_path):
    with pytest.raises(DatasetError, match="exists already"):
        BagWriter(tmp_path / "bag")
