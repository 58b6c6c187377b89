# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Vectors out of every message type, as deserialized from a bag; where rclpy is there, as its messages too."""

from types import SimpleNamespace as Message

import numpy as np
import pytest

from gr00t_recorder.topics.bindings import VectorBinding
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.vector_codec import VectorCodec
from gr00t_training.embodiment import Pose, Rotation, VectorKey
from gr00t_training.errors import ConfigError, ObservationError

HALF = np.sqrt(0.5)
# a quarter turn about z; a ROS message has it as x y z w, a dataset as w x y z
QUARTER = Message(x=0.0, y=0.0, z=HALF, w=HALF)
QUARTER_WXYZ = [HALF, 0, 0, HALF]
QUARTER_MATRIX = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
POSE = Message(position=Message(x=1.0, y=2.0, z=3.0), orientation=QUARTER)
STAMPED = Message(header=Message(stamp=Message(sec=1, nanosec=2), frame_id="base"), pose=POSE)
TWIST = Message(linear=Message(x=1.0, y=2.0, z=3.0), angular=Message(x=4.0, y=5.0, z=6.0))
JOY = Message(axes=[0.0, -0.5, 1.0], buttons=[1, 0])
POSE_TYPE = "geometry_msgs/msg/PoseStamped"


def key(dim, **settings):
    return VectorKey(names=tuple(f"c{i}" for i in range(dim)), **{"unit": "m", **settings})


def codec(message_type, vector, **binding):
    return VectorCodec("state.tool", message_type, VectorBinding(stream="s", **binding), vector)


def values(message_type, message, vector, **binding):
    channels = codec(message_type, vector, **binding).decode(message)
    assert channels is not None
    assert channels.indices == tuple(range(vector.dim))
    return channels.values


@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        (key(3), [1, 2, 3]),
        (key(7), [1, 2, 3, *QUARTER_WXYZ]),
        (key(4, rotation=Rotation.QUATERNION), QUARTER_WXYZ),
        (key(6, rotation=Rotation.ROTATION_6D), [0, -1, 0, 1, 0, 0]),
        (key(3, rotation=Rotation.AXIS_ANGLE), [0, 0, np.pi / 2]),
        (key(3, rotation=Rotation.EULER_RPY), [0, 0, np.pi / 2]),
        (key(9, rotation=Rotation.MATRIX), np.ravel(QUARTER_MATRIX)),
        (key(9, pose=Pose.XYZ_ROTATION_6D), [1, 2, 3, 0, -1, 0, 1, 0, 0]),
        (key(6, pose=Pose.XYZ_AXIS_ANGLE), [1, 2, 3, 0, 0, np.pi / 2]),
        (key(16, pose=Pose.MATRIX), [0, -1, 0, 1, 1, 0, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]),
    ],
)
def test_pose_comes_in_the_form_of_the_key(vector, expected):
    np.testing.assert_allclose(values(POSE_TYPE, STAMPED, vector), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("xyzw", "wxyz"),
    [
        ((0.5, 0.1, 0.7, -0.5), (0.5, -0.5, -0.1, -0.7)),
        ((0.5, 0.1, 0.7, 0.5), (0.5, 0.5, 0.1, 0.7)),
        ((0.8, 0.0, 0.6, -1e-9), (-1e-9, 0.8, 0.0, 0.6)),  # half a turn: noise of w changes nothing
        ((-0.8, 0.0, -0.6, -1e-9), (1e-9, 0.8, 0.0, 0.6)),
        ((0.0, 0.0, -1.0, 0.1), (-0.1, 0.0, 0.0, 1.0)),
    ],
)
def test_quaternion_is_reordered_and_gets_the_sign_of_its_first_large_component(xyzw, wxyz):
    length = np.linalg.norm(xyzw)
    message = Message(pose=Message(position=POSE.position, orientation=Message(**dict(zip("xyzw", xyzw, strict=True)))))
    for vector, start in ((key(4, rotation=Rotation.QUATERNION), 0), (key(7), 3)):
        found = values(POSE_TYPE, message, vector)[start:]
        np.testing.assert_allclose(found, np.array(wxyz) / length, atol=1e-9)


@pytest.mark.parametrize(
    ("message_type", "message"),
    [
        ("geometry_msgs/msg/Pose", POSE),
        ("geometry_msgs/msg/PoseWithCovarianceStamped", Message(pose=Message(pose=POSE, covariance=[0.0] * 36))),
        ("nav_msgs/msg/Odometry", Message(pose=Message(pose=POSE), twist=Message(twist=TWIST))),
        (
            "geometry_msgs/msg/TransformStamped",
            Message(child_frame_id="tool", transform=Message(translation=POSE.position, rotation=QUARTER)),
        ),
    ],
)
def test_other_poses_are_read_alike(message_type, message):
    np.testing.assert_allclose(values(message_type, message, key(7)), [1, 2, 3, *QUARTER_WXYZ])


def test_channels_of_a_pose_can_be_taken_apart():
    """Datasets with keys x, y, z, roll, pitch, yaw of one channel each."""
    np.testing.assert_array_equal(values(POSE_TYPE, STAMPED, key(1), field="pose.position.y"), [2])
    np.testing.assert_array_equal(values(POSE_TYPE, STAMPED, key(2), start=1), [2, 3])
    euler = {"rotation": Rotation.EULER_RPY}
    np.testing.assert_allclose(values(POSE_TYPE, STAMPED, key(1), start=5, **euler), [np.pi / 2])
    np.testing.assert_allclose(values(POSE_TYPE, STAMPED, key(6), **euler), [1, 2, 3, 0, 0, np.pi / 2])


@pytest.mark.parametrize(
    ("message_type", "vector", "binding", "reason"),
    [
        (POSE_TYPE, key(6), {}, "3 numbers and a rotation, the key's 6 channels .* cut its rotation as quaternion"),
        (POSE_TYPE, key(2), {"start": 4}, "cut its rotation"),
        (POSE_TYPE, key(8), {}, "7 channels with the rotation as quaternion, expected at least 8"),
        (POSE_TYPE, key(4, rotation=Rotation.QUATERNION), {"start": 3}, "'start' would cut the rotation"),
        ("geometry_msgs/msg/Twist", key(9, pose=Pose.XYZ_ROTATION_6D), {}, "has 6 values, expected at least 9"),
        ("geometry_msgs/msg/Point", key(4), {}, "has 3 values, expected at least 4"),
        ("geometry_msgs/msg/Quaternion", key(9, pose=Pose.XYZ_ROTATION_6D), {}, "the key is a pose"),
        ("sensor_msgs/msg/Imu", key(3), {}, "no default field for sensor_msgs/msg/Imu; set 'field' to orientation"),
        ("sensor_msgs/msg/Joy", key(3), {}, r"set 'field' to axes or buttons, or 'fields', like \[axes.1"),
        ("std_msgs/msg/String", key(1), {"field": "data"}, "a text is not a vector"),
        ("tf2_msgs/msg/TFMessage", key(7), {}, "set 'frames' to parent and child"),
        (POSE_TYPE, key(7), {"frames": ("a", "b")}, "'frames' is for tf2_msgs/msg/TFMessage and"),
        (POSE_TYPE, key(3), {"select": ("a", "b", "c")}, "'select' needs names"),
        ("std_msgs/msg/Float64", key(1, unit="rad"), {"unit": "mm"}, r"'mm' \(length\) cannot become 'rad' \(angle\)"),
        ("std_msgs/msg/Float64", key(1), {"unit": "inch"}, "unit 'inch' is not known; expected one of rad, deg"),
        ("std_msgs/msg/Float64", key(1), {"wrap": True}, "'wrap' is for angles, the key's unit is 'm'"),
    ],
)
def test_bindings_that_cannot_work_are_refused_at_once(message_type, vector, binding, reason):
    with pytest.raises(ConfigError, match=rf"^state.tool: .*{reason}"):
        codec(message_type, vector, **binding)


@pytest.mark.parametrize(
    ("message_type", "message", "vector", "binding", "expected"),
    [
        ("geometry_msgs/msg/Twist", TWIST, key(6), {}, [1, 2, 3, 4, 5, 6]),
        ("geometry_msgs/msg/TwistStamped", Message(twist=TWIST), key(6), {}, [1, 2, 3, 4, 5, 6]),
        ("geometry_msgs/msg/Twist", TWIST, key(2), {"fields": ("linear.x", "angular.z")}, [1, 6]),
        (
            "geometry_msgs/msg/WrenchStamped",
            Message(wrench=Message(force=TWIST.linear, torque=TWIST.angular)),
            key(6),
            {},
            [1, 2, 3, 4, 5, 6],
        ),
        ("geometry_msgs/msg/PointStamped", Message(point=TWIST.linear), key(3), {}, [1, 2, 3]),
        ("geometry_msgs/msg/Vector3Stamped", Message(vector=TWIST.linear), key(3), {}, [1, 2, 3]),
        ("geometry_msgs/msg/Pose2D", Message(x=1.0, y=2.0, theta=3.0), key(3), {}, [1, 2, 3]),
        (
            "nav_msgs/msg/Odometry",
            Message(pose=Message(pose=POSE), twist=Message(twist=TWIST)),
            key(6),
            {"field": "twist"},
            [1, 2, 3, 4, 5, 6],
        ),
        ("sensor_msgs/msg/Joy", JOY, key(2), {"field": "axes", "start": 1}, [-0.5, 1]),
        ("sensor_msgs/msg/Joy", JOY, key(3), {"fields": ("axes.2", "axes.0", "buttons.0")}, [1, 0, 1]),
        ("std_msgs/msg/Bool", Message(data=True), key(1), {}, [1]),
        ("std_msgs/msg/Float32", Message(data=0.5), key(1), {}, [0.5]),
        ("std_msgs/msg/Float64", Message(data=0.25), key(1), {}, [0.25]),
        ("std_msgs/msg/Int32", Message(data=-7), key(1), {}, [-7]),
        ("std_msgs/msg/UInt8", Message(data=7), key(1), {}, [7]),
        ("std_msgs/msg/Float32MultiArray", Message(data=np.arange(3, dtype=np.float32)), key(3), {}, [0, 1, 2]),
        ("std_msgs/msg/Int16MultiArray", Message(data=np.arange(3, dtype=np.int16)), key(2), {"start": 1}, [1, 2]),
    ],
)
def test_numbers_come_in_the_order_of_the_message_or_of_fields(message_type, message, vector, binding, expected):
    np.testing.assert_array_equal(values(message_type, message, vector, **binding), expected)


def test_imu_gives_what_its_field_says():
    imu = Message(orientation=QUARTER, angular_velocity=TWIST.angular, linear_acceleration=TWIST.linear)
    turn = key(3, rotation=Rotation.EULER_RPY, unit="rad")
    np.testing.assert_allclose(values("sensor_msgs/msg/Imu", imu, turn, field="orientation"), [0, 0, np.pi / 2])
    fields = ("orientation", "angular_velocity", "linear_acceleration")
    found = values("sensor_msgs/msg/Imu", imu, key(10), fields=fields)
    np.testing.assert_allclose(found, [*QUARTER_WXYZ, 4, 5, 6, 1, 2, 3])


def test_last_point_of_a_trajectory_and_a_controllers_feedback():
    points = [Message(positions=[1.0, 2.0]), Message(positions=[7.0, 8.0])]
    trajectory = Message(joint_names=["c1", "c0"], points=points)
    kind = "trajectory_msgs/msg/JointTrajectory"
    np.testing.assert_array_equal(values(kind, trajectory, key(2), field="points.-1.positions"), [8, 7])
    state = Message(joint_names=["c1", "c0"], feedback=Message(positions=np.array([3.0, 4.0])))
    kind = "control_msgs/msg/JointTrajectoryControllerState"
    np.testing.assert_array_equal(values(kind, state, key(2), field="feedback.positions"), [4, 3])
    with pytest.raises(ConfigError, match=r"set 'field' to feedback\.positions"):
        codec(kind, key(2))


def test_custom_types_are_read_by_path():
    message = Message(arm=Message(q=np.array([1.0, 2.0, 3.0])), grip=[Message(width=0.04)], tip=POSE)
    fields = ("arm.q.2", "grip.0.width", "tip.position")
    np.testing.assert_array_equal(values("my_msgs/msg/Arm", message, key(5), fields=fields), [3, 0.04, 1, 2, 3])
    vector = key(9, pose=Pose.XYZ_ROTATION_6D)
    np.testing.assert_allclose(
        values("my_msgs/msg/Arm", message, vector, field="tip"), [1, 2, 3, 0, -1, 0, 1, 0, 0], atol=1e-15
    )
    split = ("tip.position.x", "tip.position.y", "tip.position.z", "tip.orientation")
    np.testing.assert_allclose(values("my_msgs/msg/Arm", message, vector, fields=split)[:4], [1, 2, 3, 0], atol=1e-15)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("arm.p", r"no field 'arm.p' \('p' is missing\)"),
        ("arm.q.7", r"no field 'arm.q.7' \('7' is missing\)"),
        ("arm", "'arm' is SimpleNamespace, expected numbers; name a field inside"),
        ("label", "'label' is a text, expected numbers"),
        ("arm.q", "arm.q has 2 values, expected at least 3"),
        ("tip", "tip has 3 numbers and a rotation, the key's 5 channels"),
    ],
)
def test_paths_that_lead_nowhere_are_named(field, reason):
    message = Message(arm=Message(q=[1.0, 2.0]), label="x", tip=POSE)
    with pytest.raises(ObservationError, match=reason):
        values("my_msgs/msg/Arm", message, key(5 if field == "tip" else 3), field=field)


def test_rotation_without_length_is_refused_and_one_with_nan_is_not_finite():
    zero = Message(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(ObservationError, match="has no length"):
        values("geometry_msgs/msg/Quaternion", zero, key(4, rotation=Rotation.QUATERNION))
    with pytest.raises(ObservationError, match="of 'c0' is not finite"):
        values("geometry_msgs/msg/Quaternion", Message(x=0.0, y=np.nan, z=0.0, w=1.0), key(4))
    array = "std_msgs/msg/Float64MultiArray"
    with pytest.raises(ObservationError, match="has no length"):
        values(array, Message(data=[0.0] * 6), key(6, rotation=Rotation.ROTATION_6D))


def test_rotation_in_the_keys_own_form_is_taken_as_it_comes_but_for_the_sign_of_quaternions():
    array = "std_msgs/msg/Float64MultiArray"
    found = values(array, Message(data=[-1.0, 0.0, 0.0, -1.0]), key(4, rotation=Rotation.QUATERNION))
    np.testing.assert_allclose(found, [HALF, 0, 0, HALF])
    angles = [0.1, 1.7, -4.0]  # another triple would be the same rotation
    found = values(array, Message(data=angles), key(3, rotation=Rotation.EULER_RPY, unit="rad"))
    np.testing.assert_array_equal(found, angles)


@pytest.mark.parametrize(
    ("unit", "target", "raw", "expected"),
    [("deg", "rad", 90.0, np.pi / 2), ("mm", "m", 250.0, 0.25), ("rpm", "rad/s", 60.0, 2 * np.pi), ("%", "1", 40, 0.4)],
)
def test_units_are_converted_by_name(unit, target, raw, expected):
    found = values("std_msgs/msg/Float64", Message(data=raw), key(1, unit=target), unit=unit)
    np.testing.assert_allclose(found, [expected])


def test_unit_scale_and_offset_act_on_positions_and_leave_quaternions_alone():
    vector = key(6, pose=Pose.XYZ_AXIS_ANGLE, unit="rad")
    found = values(POSE_TYPE, STAMPED, vector, unit="mm", scale=2.0, offset=0.5)
    np.testing.assert_allclose(found, [0.502, 0.504, 0.506, 0, 0, np.pi / 2])
    degrees = key(3, rotation=Rotation.EULER_RPY, unit="rad")
    found = values("std_msgs/msg/Float64MultiArray", Message(data=[0, 0, 180]), degrees, unit="deg")
    np.testing.assert_allclose(found, [0, 0, np.pi])


def link(parent, child, position, rotation=QUARTER, stamp_s=5):
    header = Message(frame_id=parent, stamp=Message(sec=stamp_s, nanosec=0))
    transform = Message(translation=Message(**dict(zip("xyz", position, strict=True))), rotation=rotation)
    return Message(header=header, child_frame_id=child, transform=transform)


TF = "tf2_msgs/msg/TFMessage"


def test_transform_is_found_by_its_frames():
    message = Message(transforms=[link("base", "camera", (9, 9, 9)), link("/base", "tool", (1, 2, 3))])
    np.testing.assert_allclose(values(TF, message, key(7), frames=("base", "tool")), [1, 2, 3, *QUARTER_WXYZ])
    assert stamp_of(message) == 5_000_000_000
    single = link("base", "tool", (1, 2, 3))
    kind = "geometry_msgs/msg/TransformStamped"
    np.testing.assert_allclose(values(kind, single, key(3), frames=("base", "tool")), [1, 2, 3])


def test_links_of_one_message_are_joined():
    """Quarter turn about z after 1 m along x, and again: the second meter leads along y, half a turn in all."""
    message = Message(transforms=[link("elbow", "tool", (1, 0, 0)), link("base", "elbow", (1, 0, 0))])
    found = values(TF, message, key(7), frames=("base", "tool"))
    np.testing.assert_allclose(found, [1, 1, 0, 0, 0, 0, 1], atol=1e-12)


def test_transforms_of_other_frames_are_not_meant():
    vector = codec(TF, key(7), frames=("base", "tool"))
    loop = [link("a", "tool", (0, 0, 0)), link("tool", "a", (0, 0, 0))]
    for transforms in ([], [link("map", "base", (0, 0, 0))], loop):
        message = Message(transforms=transforms)
        assert not vector.matches(message)
        assert vector.decode(message) is None
    assert vector.carried == "a -> tool, tool -> a"
    assert vector.matches(Message(transforms=[link("base", "tool", (0, 0, 0))]))


def test_messages_of_rclpy_are_read_like_those_of_bags():
    geometry = pytest.importorskip("geometry_msgs.msg")
    standard = pytest.importorskip("std_msgs.msg")
    sensor = pytest.importorskip("sensor_msgs.msg")
    message = geometry.PoseStamped()
    message.pose.position.x, message.pose.orientation.z, message.pose.orientation.w = 1.0, HALF, HALF
    np.testing.assert_allclose(values(POSE_TYPE, message, key(7)), [1, 0, 0, *QUARTER_WXYZ])
    twist = geometry.TwistStamped()
    twist.twist.angular.z = 6.0
    np.testing.assert_array_equal(values("geometry_msgs/msg/TwistStamped", twist, key(6)), [0, 0, 0, 0, 0, 6])
    joy = sensor.Joy(axes=[0.0, -0.5], buttons=[1])
    np.testing.assert_array_equal(values("sensor_msgs/msg/Joy", joy, key(2), fields=("buttons.0", "axes.1")), [1, -0.5])
    np.testing.assert_array_equal(values("std_msgs/msg/Bool", standard.Bool(data=True), key(1)), [1])


def test_messages_of_rosbags_are_read_too():
    rosbags = pytest.importorskip("rosbags.typesys")
    types = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY).types
    stamp = types["builtin_interfaces/msg/Time"](sec=3, nanosec=7)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="base")
    point = types["geometry_msgs/msg/Vector3"](x=1.0, y=2.0, z=3.0)
    quaternion = types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=HALF, w=HALF)
    transform = types["geometry_msgs/msg/Transform"](translation=point, rotation=quaternion)
    stamped = types["geometry_msgs/msg/TransformStamped"](header=header, child_frame_id="tool", transform=transform)
    message = types[TF](transforms=[stamped])
    np.testing.assert_allclose(values(TF, message, key(7), frames=("base", "tool")), [1, 2, 3, *QUARTER_WXYZ])
    assert stamp_of(message) == 3_000_000_007
