# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import struct
from collections import Counter

import numpy as np
import pytest
from bag_truth import frame_number
from rosbags.rosbag1 import Reader

from gr00t_recorder.bag.convert_cli import main
from gr00t_recorder.bag.reader import Bag
from gr00t_test_support.bag_builder import ToyBag, write_toy_topics
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import DatasetError

COUNTS = {
    "/rosout": 10,
    "/tf": 2688,
    "/tf_static": 1,
    "/turtle1/cmd_vel": 357,
    "/turtle1/color_sensor": 1351,
    "/turtle1/pose": 1344,
    "/turtle2/cmd_vel": 208,
    "/turtle2/color_sensor": 1344,
    "/turtle2/pose": 1344,
}


@pytest.fixture
def example(bags_dir):
    return bags_dir / "ros1_suite/example.bag"


def counts_of(path, **options):
    with Bag(path, **options) as bag:
        return Counter(message.topic for message in bag.messages()), bag.complaints


def test_every_message_of_every_connection_is_read(example):
    with Bag(example) as bag:
        messages = list(bag.messages())
        poses = [bag.deserialize(message) for message in messages if message.topic == "/turtle1/pose"]
        links = [bag.deserialize(message) for message in messages if message.topic == "/tf"]
        assert {name: topic.num_messages for name, topic in bag.topics.items()} == COUNTS
    assert len(messages) == sum(COUNTS.values()) == 8647
    assert [message.log_ns for message in messages] == sorted(message.log_ns for message in messages)
    with Reader(example) as reader:  # an independent reader
        expected = Counter((c.topic, log_ns, bytes(payload)) for c, log_ns, payload in reader.messages())
    assert Counter((message.topic, message.log_ns, message.payload) for message in messages) == expected
    assert all(0 <= pose.x <= 11.1 and np.isfinite(pose.theta) for pose in poses)  # the turtles' pond
    assert {link.transforms[0].child_frame_id for link in links} == {"turtle1", "turtle2"}  # two publishers


def test_bag_left_open_by_a_killed_recorder_is_read_whole_on_request(example, tmp_path):
    content = bytearray(example.read_bytes())
    place = content.index(b"index_pos=") + len(b"index_pos=")
    (index_offset,) = struct.unpack_from("<Q", content, place)
    struct.pack_into("<Q", content, place, 0)
    path = tmp_path / "example.bag.active"
    path.write_bytes(content[:index_offset])
    with pytest.raises(DatasetError, match=r"has no index: its recorder was killed.*--allow-partial"):
        Bag(path)
    counts, complaints = counts_of(path, allow_partial=True)
    assert counts == COUNTS
    assert len(complaints) == 1


def test_cut_bag_keeps_the_messages_before_the_cut(example, tmp_path):
    path = tmp_path / "example.bag"
    path.write_bytes(example.read_bytes()[:400_000])
    with pytest.raises(DatasetError, match="truncated or damaged at byte"):
        Bag(path)
    counts, _ = counts_of(path, allow_partial=True)
    assert 1000 < sum(counts.values()) < 8647
    assert counts["/tf_static"] == 1


def test_bag_without_messages_is_refused_with_the_cause(bags_dir, tmp_path, capsys):
    topics = write_toy_topics(tmp_path)
    path = bags_dir / "ros1_suite/no-messages.bag"
    with Bag(path) as bag:
        assert (bag.topics, list(bag.messages()), bag.start_ns()) == ({}, [], None)
    assert main([str(path), "--topics", str(topics), "--output", str(tmp_path / "out")]) == 1
    assert "no-messages.bag: no messages" in capsys.readouterr().err


def test_other_versions_are_refused(tmp_path):
    (tmp_path / "x.bag").write_bytes(b"#ROSBAG V1.2\n" + bytes(100))
    with pytest.raises(DatasetError, match=r"expected a ROS 1 bag of format 2\.0"):
        Bag(tmp_path / "x.bag")


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_ros1_and_ros2_bags_of_the_same_recording_give_the_same_rows(tmp_path, compression, monkeypatch):
    topics = write_toy_topics(tmp_path)
    if compression:
        from gr00t_test_support.bag_builder import Ros1Writer

        opened = Ros1Writer.open
        kind = Ros1Writer.CompressionFormat[compression]
        monkeypatch.setattr(Ros1Writer, "open", lambda self: (self.set_compression(kind), opened(self))[1])
    datasets = []
    for is_ros1, name in ((True, "x.bag"), (False, "x.mcap")):
        path = ToyBag(is_ros1).text("/task", 0, "wave").steps(0, 12).write(tmp_path / name)
        output = tmp_path / name.replace(".", "_")
        assert main([str(path), "--topics", str(topics), "--output", str(output)]) == 0
        datasets.append(EpisodeDataset(output))
    for dataset in datasets:
        assert [episode.length for episode in dataset.episodes] == [13]
        assert dataset.task(0, 0) == "wave"
        np.testing.assert_allclose(dataset.state(0, "arm")[:, 0], np.arange(13) / 10, atol=1e-6)
        assert [frame_number(image) for image in dataset.images(0, "front", list(range(13)))] == list(range(13))
    np.testing.assert_array_equal(datasets[0].action(0, "arm"), datasets[1].action(0, "arm"))
