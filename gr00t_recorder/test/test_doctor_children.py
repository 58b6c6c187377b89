# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What `gr00t doctor` asks of ROS: stamps of a running graph, and whether the interfaces are those of the code."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState

from gr00t_recorder.ros import built_interfaces
from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import Peer
from gr00t_test_support.waiting import DEADLINE_S


def test_stamps_of_a_running_graph() -> None:
    """A camera that is an hour behind, and joints with the present time."""
    domain = next_domain()
    words = [sys.executable, "-m", "gr00t_recorder.ros.stamp_ages", "2"]
    found = {"ages_s": {}}
    with Peer(domain) as peer:
        images = peer.node.create_publisher(Image, "front/image_raw", qos_profile_sensor_data)
        joints = peer.node.create_publisher(JointState, "joint_states", 10)

        def publish() -> None:
            now = peer.node.get_clock().now().to_msg()
            joints.publish(_stamped(JointState(), now.sec, now.nanosec))
            images.publish(_stamped(Image(), now.sec - 3600, now.nanosec))

        timer = peer.node.create_timer(0.02, publish)
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        end_s = time.monotonic() + DEADLINE_S
        while len(found["ages_s"]) < 2 and time.monotonic() < end_s:  # a busy machine does not find all topics in time
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
                peer.until(lambda process=process: process.poll() is not None, "the answer")
                assert process.stdout
                found = json.loads(process.stdout.read().strip().splitlines()[-1])
        timer.cancel()
    assert found["is_simulated"] is False
    assert found["ages_s"]["/front/image_raw"] == pytest.approx(3600, abs=30)
    assert found["ages_s"]["/joint_states"] == pytest.approx(0, abs=30)


def _stamped(message: Image | JointState, sec: int, nanosec: int) -> Image | JointState:
    message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
    return message


def test_built_interfaces_are_those_of_the_sources() -> None:
    assert built_interfaces._sources()
    assert built_interfaces.differences().missing == []


def test_interfaces_of_other_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msg").mkdir()
    (tmp_path / "msg/New.msg").write_text("int32 value\n")
    (tmp_path / "msg/CommandSource.msg").write_text(
        "std_msgs/Header header\nuint8 POLICY=1 # x\nfloat64[<=3] added # [m]\n"
    )
    monkeypatch.setattr(built_interfaces, "_sources", lambda: sorted(tmp_path.glob("msg/*.msg")))
    found = built_interfaces.differences()
    assert found.missing == ["msg/CommandSource has no field 'added'", "msg/New is not built"]
    assert "msg/CommandSource has a field 'source' more" in found.further
    assert not any("POLICY" in each or "header" in each for each in found.further)


def test_fields_of_a_service() -> None:
    text = "# a comment\nstring<=10 name\nint32 MOST=3\n---\nbool ok # said yes\nstring text 'none'\n"
    assert built_interfaces.fields_of(text) == [["name"], ["ok", "text"]]
