# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Stamps that a bag player moves to the present."""

import struct

import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseArray, Twist
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from gr00t_recorder.ros.play_bag import _moved, main

SHIFT_NS = 2_500_000_000


def test_stamp_of_a_header_is_moved_and_nothing_else() -> None:
    message = JointState(name=["a", "b"], position=[1.0, 2.0])
    message.header.stamp.sec, message.header.stamp.nanosec = 100, 700_000_000
    message.header.frame_id = "base"
    payload = bytes(serialize_message(message))
    moved = deserialize_message(_moved(payload, JointState, SHIFT_NS), JointState)
    assert (moved.header.stamp.sec, moved.header.stamp.nanosec) == (103, 200_000_000)
    moved.header.stamp = message.header.stamp
    assert moved == message


def test_big_endian_stamp_is_moved_in_its_own_order() -> None:
    payload = b"\x00\x00\x00\x00" + struct.pack(">iI", 100, 700_000_000) + bytes(16)
    moved = _moved(payload, PoseArray, SHIFT_NS)
    assert struct.unpack_from(">iI", moved, 4) == (103, 200_000_000)
    assert moved[12:] == payload[12:]


def test_no_stamp_stays_none() -> None:
    payload = bytes(serialize_message(JointState(name=["a"])))
    assert _moved(payload, JointState, SHIFT_NS) == payload
    payload = bytes(serialize_message(Twist()))
    assert _moved(payload, Twist, SHIFT_NS) == payload


def test_every_transform_is_moved() -> None:
    messages = pytest.importorskip("tf2_msgs.msg")
    from geometry_msgs.msg import TransformStamped

    transforms = [TransformStamped(), TransformStamped()]
    transforms[0].header.stamp.sec, transforms[1].header.stamp.sec = 5, 6
    payload = bytes(serialize_message(messages.TFMessage(transforms=transforms)))
    moved = deserialize_message(_moved(payload, messages.TFMessage, SHIFT_NS), messages.TFMessage)
    stamps = [(each.header.stamp.sec, each.header.stamp.nanosec) for each in moved.transforms]
    assert stamps == [(7, 500_000_000), (8, 500_000_000)]


def test_present_and_recorded_time_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bag", "--now", "--clock"])
    assert "choose one" in capsys.readouterr().err
