# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import importlib

import pytest

pytest.importorskip("rclpy")

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.ros.latched import latched_qos
from gr00t_recorder.ros.processes import next_domain, spinning_node
from gr00t_test_support.ros.nodes import ForkedNode
from gr00t_test_support.waiting import DEADLINE_S, eventually

MODULE = "gr00t_recorder.ros.record_bag"


def test_all_topics_are_written_as_their_publishers_offer_them(tmp_path):
    domain, path = next_domain(), tmp_path / "bag"
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    with spinning_node("robot", domain) as node, ForkedNode(MODULE, path, domain=domain) as recorder:
        keeper = node.create_publisher(String, "/task", latched)
        keeper.publish(String(data="lift"))
        publisher = node.create_publisher(String, "/noise", best_effort)
        eventually(lambda: publisher.get_subscription_count() == 1, lambda: f"subscribed; {recorder.output}")
        for number in range(5):
            publisher.publish(String(data=str(number)))
        _delivered(keeper)
        node.create_publisher(String, "/last", latched).publish(String(data="end"))
        eventually(lambda: node.count_subscribers("/last"), "the last topic is subscribed to")
        assert recorder.stop() == 0
        assert "0 dropped" in recorder.output
    with Bag(path) as bag:
        texts = {name: [bag.deserialize(m).data for m in bag.messages([name])] for name in ("/task", "/noise")}
        assert texts == {"/task": ["lift"], "/noise": list("01234")}
        assert bag.topics["/task"].definition.startswith("#")
    assert "transient_local" in (path / "metadata.yaml").read_text()
    with ForkedNode(MODULE, path, domain=domain) as again:
        assert again.wait() == 2
        assert "exists already" in again.output


def test_latched_and_volatile_publishers_of_one_topic_are_both_written(tmp_path):
    domain, path = next_domain(), tmp_path / "bag"
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with spinning_node("robot", domain) as node:
        keeper = node.create_publisher(String, "/task", latched)
        keeper.publish(String(data="lift"))
        volatile = node.create_publisher(String, "/task", 10)
        with ForkedNode(MODULE, path, domain=domain) as recorder:
            eventually(volatile.get_subscription_count, lambda: f"subscribed; {recorder.output}")
            volatile.publish(String(data="push"))
            _delivered(keeper)
            assert volatile.wait_for_all_acked(Duration(seconds=DEADLINE_S))
            assert recorder.stop() == 0
    with Bag(path) as bag:
        assert sorted(bag.deserialize(message).data for message in bag.messages(["/task"])) == ["lift", "push"]


def _delivered(latched):
    """Wait until all subscriptions to a latched topic have what its publisher keeps."""
    eventually(lambda: latched.get_subscription_count() == len(latched_qos(1)), "all subscriptions")
    assert latched.wait_for_all_acked(Duration(seconds=DEADLINE_S))


@pytest.mark.parametrize("module", ["record_bag", "play_bag", "terminal"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--loooop"], "unknown argument '--loooop'"),
        (["--ros-args", "--parms-file", "y"], "unknown argument '--parms-file'; did you mean '--params-file'?"),
        (["--help"], "usage: gr00t_"),
    ],
)
def test_commands_refuse_what_they_do_not_know(module, words, expected, capsys):
    main = importlib.import_module(f"gr00t_recorder.ros.{module}").main
    words = ["x", *words] if module != "terminal" and words != ["--help"] else words
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert code == (0 if words == ["--help"] else 2)
    assert expected in (shown.out if words == ["--help"] else shown.err)
    assert len(shown.err.splitlines()) <= 1


def test_terminated_recorder_completes_its_bag(tmp_path):
    domain, path = next_domain(), tmp_path / "bag"
    with spinning_node("robot", domain) as node, ForkedNode(MODULE, path, domain=domain) as recorder:
        publisher = node.create_publisher(String, "/noise", 10)
        eventually(lambda: publisher.get_subscription_count() == 1, lambda: f"subscribed; {recorder.output}")
        publisher.publish(String(data="x"))
        eventually(lambda: any(path.glob("*.mcap")), "file")
        recorder.process.terminate()
        assert recorder.wait() == 0, recorder.output
    with Bag(path) as bag:
        assert [bag.deserialize(message).data for message in bag.messages(["/noise"])] == ["x"]
    assert (path / "metadata.yaml").exists()
