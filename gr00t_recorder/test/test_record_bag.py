# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.ros.testing import NodeProcess, eventually, next_domain, spinning_node

MODULE = "gr00t_recorder.ros.record_bag"


def test_all_topics_are_written_as_their_publishers_offer_them(tmp_path):
    domain, path = next_domain(), tmp_path / "bag"
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    with spinning_node("robot", domain) as node, NodeProcess(MODULE, path, domain=domain) as recorder:
        node.create_publisher(String, "/task", latched).publish(String(data="lift"))
        publisher = node.create_publisher(String, "/noise", best_effort)
        eventually(lambda: publisher.get_subscription_count() == 1, lambda: f"subscribed; {recorder.output}")
        for number in range(5):
            publisher.publish(String(data=str(number)))
        eventually(lambda: node.count_subscribers("/task") == 1, "task is subscribed to")
        node.create_publisher(String, "/last", latched).publish(String(data="end"))
        eventually(lambda: node.count_subscribers("/last") == 1, "the last topic is subscribed to")
        assert recorder.stop() == 0
        assert "0 dropped" in recorder.output
    with Bag(path) as bag:
        texts = {name: [bag.deserialize(m).data for m in bag.messages([name])] for name in ("/task", "/noise")}
        assert texts == {"/task": ["lift"], "/noise": list("01234")}
        assert bag.topics["/task"].definition.startswith("#")
    assert "transient_local" in (path / "metadata.yaml").read_text()
    with NodeProcess(MODULE, path, domain=domain) as again:
        assert again.wait() == 2
        assert "exists already" in again.output
