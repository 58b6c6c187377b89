# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""An attempt under a policy that a person corrects, recorded live and from the bag beside it."""

import pytest

pytest.importorskip("rclpy")

import pyarrow.parquet as pq
from gr00t_msgs.msg import CommandSource, ErrorCode

from gr00t_recorder.bag.convert_cli import main as convert
from gr00t_test_support.waiting import eventually
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.types import Commander

pytest_plugins = ("recorder_robot",)


class Commands:
    """Says at 50 Hz who commands, as policy_node does at its control ticks."""

    def __init__(self, node):
        self.source = CommandSource.POLICY
        self._node = node
        self._publisher = node.create_publisher(CommandSource, "/policy/command_source", 10)
        self._timer = node.create_timer(0.02, self._publish)

    def _publish(self):
        message = CommandSource(source=self.source)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def test_codes_are_those_of_the_message():
    assert {name: getattr(CommandSource, name) for name in Commander.__members__} == dict(Commander.__members__)


def test_live_rows_and_those_of_the_bag_say_the_same_who_commanded(launch, tmp_path, topics):
    topics.write_text(
        topics.read_text().replace(
            "  events: {",
            "  source: {topic: policy/command_source, type: gr00t_msgs/msg/CommandSource, max_age_s: 2.0}\n  events: {",
        )
        + "command_source: {stream: source}\n"
    )
    # a row that is taken before its samples have come cannot be equal: wait for them on a loaded machine
    _, recorder, node = launch(autostart=True, bag="configured", max_lag_s=8.0)
    recorder.wait_until_ready()
    refused = recorder.start()
    assert refused.error_code != ErrorCode.NONE
    assert "stream 'source' (policy/command_source) is waiting" in refused.error_msg, refused
    commands = Commands(node)
    recorder.wait(lambda status: status.streams and all(not s.reason for s in status.streams[:4]), "ready")
    assert recorder.start("lift").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 4, "rows of the policy")
    commands.source = CommandSource.PERSON
    recorder.wait(lambda status: status.frames >= 10, "rows of the person")
    commands.source = CommandSource.HOLD
    recorder.wait(lambda status: status.frames >= 14, "rows of a hold")
    answer = recorder.stop()
    live = EpisodeDataset(tmp_path / "dataset")
    found = live.column(0, "command_source").tolist()
    assert found == sorted(found) != [] and set(found) >= {Commander.POLICY, Commander.PERSON}
    assert live.interventions(0).tolist() == [code == Commander.PERSON for code in found]

    def is_complete():
        return [bag for bag in (tmp_path / "dataset/.bags").iterdir() if (bag / "metadata.yaml").exists()]

    (bag,) = eventually(is_complete, "bag is complete")
    assert convert([str(bag), "--topics", str(topics), "--output", str(tmp_path / "converted")]) == 0
    file = "data/chunk-000/episode_000000.parquet"
    tables = [pq.read_table(folder / file) for folder in (tmp_path / "dataset", tmp_path / "converted")]
    assert tables[0].num_rows == answer.frames
    assert tables[1].equals(tables[0])
