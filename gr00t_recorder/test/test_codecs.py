# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.topics.bindings import VectorBinding, VideoBinding
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.image_codec import ImageCodec
from gr00t_recorder.topics.vector_codec import VectorCodec
from gr00t_training.embodiment import VectorKey, VideoKey
from gr00t_training.errors import ConfigError, ObservationError

ARM = VectorKey(names=("j0", "j1", "j2"))
JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"

# 2 rows, 3 columns: red green blue / black gray white
PICTURE = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [128, 128, 128], [255, 255, 255]]], dtype=np.uint8
)


def vector_codec(message_type, **binding):
    return VectorCodec("state.arm", message_type, VectorBinding(stream="s", **binding), ARM)


def joint_state(names, position):
    return SimpleNamespace(name=list(names), position=position)


def image(encoding, pixels, *, padding=0):
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding,
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=padded.shape[1],
        is_bigendian=0,
        data=padded.tobytes(),
    )


def test_joints_are_taken_by_name_whatever_their_order():
    channels = vector_codec(JOINT_STATE).decode(joint_state(["x", "j2", "j0", "j1"], [9.0, 2.0, 0.0, 1.0]))
    assert channels is not None
    assert channels.indices == (0, 1, 2)
    np.testing.assert_array_equal(channels.values, [0.0, 1.0, 2.0])


def test_a_publisher_of_some_joints_gives_those():
    channels = vector_codec(JOINT_STATE).decode(joint_state(["j2", "x"], [2.5, 9.0]))
    assert channels is not None
    assert channels.indices == (2,)
    np.testing.assert_array_equal(channels.values, [2.5])


def test_a_message_without_any_of_the_names_is_not_meant():
    codec = vector_codec(JOINT_STATE)
    assert codec.decode(joint_state(["x", "y"], [1.0, 2.0])) is None
    assert codec.names_seen == ("x", "y")


def test_selected_names_stand_for_the_embodiments():
    codec = vector_codec(JOINT_STATE, select=("a", "b", "c"), scale=2.0, offset=1.0)
    channels = codec.decode(joint_state(["c", "b", "a"], [3.0, 2.0, 1.0]))
    assert channels is not None
    np.testing.assert_array_equal(channels.values, [3.0, 5.0, 7.0])


def test_trajectory_gives_its_first_point():
    points = [SimpleNamespace(positions=[1.0, 2.0, 3.0]), SimpleNamespace(positions=[7.0, 8.0, 9.0])]
    message = SimpleNamespace(joint_names=["j0", "j1", "j2"], points=points)
    channels = vector_codec(TRAJECTORY).decode(message)
    assert channels is not None
    np.testing.assert_array_equal(channels.values, [1.0, 2.0, 3.0])


def test_array_without_names_is_taken_from_the_start_index():
    codec = vector_codec(ARRAY, start=1)
    channels = codec.decode(SimpleNamespace(data=[9.0, 1.0, 2.0, 3.0, 9.0]))
    assert channels is not None
    np.testing.assert_array_equal(channels.values, [1.0, 2.0, 3.0])
    with pytest.raises(ObservationError, match="data has 3 values, expected at least 4"):
        codec.decode(SimpleNamespace(data=[1.0, 2.0, 3.0]))


def test_custom_type_needs_its_fields_and_then_works():
    with pytest.raises(ConfigError, match=r"no default field for my_msgs/msg/Arm; set 'field'"):
        vector_codec("my_msgs/msg/Arm")
    message = SimpleNamespace(inner=SimpleNamespace(ids=["j1", "j0", "j2"], q=np.array([1.0, 0.0, 2.0])))
    channels = vector_codec("my_msgs/msg/Arm", field="inner.q", names_field="inner.ids").decode(message)
    assert channels is not None
    np.testing.assert_array_equal(channels.values, [0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (joint_state(["j0", "j1", "j2"], [0.0, float("nan"), 0.0]), "position of 'j1' is not finite"),
        (joint_state(["j0", "j1", "j2"], [0.0, 0.0, float("inf")]), "position of 'j2' is not finite"),
        (joint_state(["j0", "j1", "j2"], []), "position has 0 values for 3 names"),
        (joint_state(["j0", "j1", "j0"], [0.0, 0.0, 0.0]), "duplicate name 'j0'"),
        (SimpleNamespace(name=["j0"]), "no field 'position'"),
    ],
)
def test_unusable_vectors_are_refused_with_the_reason(message, reason):
    with pytest.raises(ObservationError, match=reason):
        vector_codec(JOINT_STATE).decode(message)


def test_empty_trajectory_is_refused():
    with pytest.raises(ObservationError, match=r"no field 'points.0.positions' \('0' is missing\)"):
        vector_codec(TRAJECTORY).decode(SimpleNamespace(joint_names=["j0"], points=[]))


def test_wrong_size_is_refused_naming_both_unless_resize_is_asked_for():
    message = image("rgb8", np.kron(PICTURE, np.ones((4, 4, 1), np.uint8)))
    video = VideoKey(height=2, width=4)
    with pytest.raises(ObservationError, match="image is 12x8, the embodiment expects 4x2"):
        ImageCodec("video.front", "sensor_msgs/msg/Image", VideoBinding(stream="s"), video).check(message)
    codec = ImageCodec("video.front", "sensor_msgs/msg/Image", VideoBinding(stream="s", resize=True), video)
    decoded = codec.decode(message)
    assert decoded.shape == (2, 4, 3)
    assert decoded.flags.c_contiguous
    assert codec.decode(message) is decoded


def test_so_many_decoded_images_are_kept_as_asked_for():
    video = VideoKey(height=2, width=2)
    codec = ImageCodec("video.front", "sensor_msgs/msg/Image", VideoBinding(stream="s", resize=True), video, num_kept=2)
    messages = [image("rgb8", PICTURE) for _ in range(3)]
    decoded = [codec.decode(message) for message in messages]
    assert codec.decode(messages[2]) is decoded[2]
    assert codec.decode(messages[1]) is decoded[1]
    assert codec.decode(messages[0]) is not decoded[0]


def test_stamp_is_read_from_the_header():
    stamp = SimpleNamespace(sec=3, nanosec=7)
    assert stamp_of(SimpleNamespace(header=SimpleNamespace(stamp=stamp))) == 3_000_000_007
    assert stamp_of(SimpleNamespace(data=1.0)) is None
