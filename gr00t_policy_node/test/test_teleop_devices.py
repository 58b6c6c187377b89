# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What leader arms, gamepads and keyboards ask for, and `teleop.yaml`."""

from __future__ import annotations

import numpy as np
import pytest

from gr00t_policy_node.control.person import Request
from gr00t_policy_node.teleop.devices import GamepadDevice, KeyboardDevice, LeaderDevice, PoseDevice, ToolPose
from gr00t_policy_node.teleop.engagement import Engagement
from gr00t_policy_node.teleop.teleop_file import (
    Axis,
    ButtonPair,
    EngageBy,
    Gamepad,
    Key,
    Keyboard,
    Leader,
    LeaderJoint,
    PoseTool,
    TeleopFile,
)
from gr00t_training.embodiment import Rotation
from gr00t_training.errors import ConfigError
from gr00t_training.settings import parse_settings

MS = 1_000_000


def test_a_leader_joint_is_scaled_shifted_and_free_of_noise() -> None:
    joints = {"j0": LeaderJoint(joint="m0", scale=-2.0, offset=0.5, deadband=0.1), "j1": LeaderJoint()}
    leader = LeaderDevice(Leader(joints=joints))
    request = leader.request(["j1", "m0", "other"], [0.25, 0.1, 9.0], 0)
    assert request is not None
    assert dict(zip(request.names, request.positions, strict=True)) == {"j0": 0.3, "j1": 0.25}
    for position, expected in ((0.14, 0.3), (0.06, 0.3), (0.2, 0.1)):
        request = leader.request(["m0", "j1"], [position, 0.25], MS)
        assert request is not None
        assert request.positions[0] == pytest.approx(expected)


def test_joints_of_a_leader_in_two_messages_belong_together_only_when_both_are_new() -> None:
    leader = LeaderDevice(Leader(joints={"j0": LeaderJoint(), "grip": LeaderJoint()}, max_age_s=0.05))
    with pytest.raises(ValueError, match="joint 'grip' of the leader is missing; it sends j0"):
        leader.request(["j0"], [0.1], 0)
    request = leader.request(["grip"], [0.5], 20 * MS)
    assert request is not None and list(request.positions) == [0.1, 0.5]
    with pytest.raises(ValueError, match=r"joint 'j0' of the leader is 0\.060 s old \(limit 0\.05 s\)"):
        leader.request(["grip"], [0.5], 60 * MS)
    assert leader.request(["wheel"], [0.5], 60 * MS) is None
    with pytest.raises(ValueError, match="the leader sends a, b, expected j0"):
        LeaderDevice(Leader(joints={"j0": LeaderJoint()})).request(["a", "b"], [0.0, 0.0], 0)


def test_two_leader_arms_with_the_same_names_are_told_apart_by_topic() -> None:
    joints = {
        "left": LeaderJoint(joint="waist", topic="leader_left"),
        "right": LeaderJoint(joint="waist", topic="leader_right", scale=-1.0),
    }
    settings = Leader(joints=joints, max_age_s=0.05)
    assert settings.topics == ("leader_left", "leader_right")
    leader = LeaderDevice(settings)
    with pytest.raises(ValueError, match="nothing of the leader has come on leader_right yet; check that arm"):
        leader.request(["waist"], [0.1], 0, "leader_left")
    request = leader.request(["waist"], [0.5], 20 * MS, "leader_right")
    assert request is not None
    assert dict(zip(request.names, request.positions, strict=True)) == {"left": 0.1, "right": -0.5}
    with pytest.raises(ValueError, match=r"joint 'waist' of the leader is 0\.080 s old"):  # the left arm fell silent
        leader.request(["waist"], [0.5], 80 * MS, "leader_right")


def test_a_stick_starts_at_zero_behind_its_deadband_and_buttons_move_back_and_forth() -> None:
    gamepad = GamepadDevice(
        Gamepad(
            axes={"j0": Axis(axis=1, rate=-2.0, deadband=0.2), "vx": Axis(axis=0, rate=0.5, is_velocity=True)},
            buttons={"grip": ButtonPair(rate=0.3, plus=0, minus=2)},
        )
    )
    for deflection, expected in ((0.0, 0.0), (0.2, 0.0), (-0.2, 0.0), (0.6, -1.0), (-1.0, 2.0)):
        request = gamepad.request([1.0, deflection], [0, 0, 0])
        assert dict(zip(request.names, request.positions, strict=True)) == {"vx": 0.5}
        assert dict(zip(request.rate_names, request.rates, strict=True))["j0"] == pytest.approx(expected)
    for buttons, rate in (([1, 0, 0], 0.3), ([0, 0, 1], -0.3), ([1, 0, 1], 0.0)):
        assert gamepad.request([0.0, 0.0], buttons).rates[-1] == rate
    with pytest.raises(ValueError, match="'j0' needs axis 1, the gamepad has 1"):
        gamepad.request([0.0], [0, 0, 0])
    with pytest.raises(ValueError, match="'grip' needs button 2, the gamepad has 1"):
        gamepad.request([0.0, 0.0], [0])


def test_a_key_moves_for_a_moment_and_two_keys_of_a_channel_cancel() -> None:
    keys = {"a": Key(channel="j0", rate=0.5), "d": Key(channel="j0", rate=-0.5), "w": Key(channel="j1", rate=1.0)}
    keyboard = KeyboardDevice(Keyboard(keys=keys, hold_s=0.1))
    assert keyboard.request(1.0).rates == [0.0, 0.0]
    keyboard.press("a", 1.0)
    keyboard.press("x", 1.0)
    assert keyboard.request(1.1 - 1e-9).rates == [0.5, 0.0]
    keyboard.press("d", 1.05)
    assert keyboard.request(1.08).rates == [0.0, 0.0]
    assert keyboard.request(1.12).rates == [-0.5, 0.0]
    assert keyboard.request(1.16).rates == [0.0, 0.0]


def test_a_button_toggles_or_is_held_and_nobody_is_engaged_before_they_say_so() -> None:
    toggle = Engagement(button=1)
    assert not toggle.is_known
    assert not toggle.press([0, 1], 0.0)  # down when the joystick appeared
    assert not toggle.press([0, 0], 0.1)
    assert toggle.press([0, 1], 0.2) and toggle.is_engaged
    assert not toggle.press([0, 1], 0.3)
    assert not toggle.press([0, 0], 0.4) and toggle.is_engaged
    assert toggle.press([0, 1], 0.5) and not toggle.is_engaged
    assert toggle.fault(99.0) == ""

    held = Engagement(button=0, by=EngageBy.HOLD)
    assert not held.press([0], 0.0) and not held.is_known  # as it was found
    assert held.press([1], 0.1) and held.is_engaged
    assert held.fault(0.3) == ""
    assert "silent for more than 0.3 s" in held.fault(0.5)  # unplugged with the button down
    assert held.press([0], 0.6) and not held.is_engaged
    assert held.fault(9.0) == ""

    by_word = Engagement()
    assert by_word.set(False) and not by_word.set(False) and by_word.set(True)


UP, TURNED = np.array([1.0, 0, 0, 0]), np.array([0.5**0.5, 0, 0, 0.5**0.5])  # w x y z; a quarter turn about z
POSITION, QUATERNION = ("x", "y", "z"), ("qw", "qx", "qy", "qz")


def test_poses_of_a_tool_are_where_the_robot_must_be() -> None:
    tool = PoseDevice(PoseTool(position=POSITION, rotation=("rx", "ry", "rz"), rotation_form=Rotation.AXIS_ANGLE))
    request = tool.request(ToolPose(np.array([0.1, 0.2, 0.3]), TURNED), None, is_engaged=True)
    assert request.names == ["x", "y", "z", "rx", "ry", "rz"]
    assert request.positions == pytest.approx([0.1, 0.2, 0.3, 0.0, 0.0, np.pi / 2])
    with pytest.raises(ValueError, match="a pose is not finite"):
        tool.request(ToolPose(np.array([np.nan, 0, 0]), UP), None, is_engaged=True)
    with pytest.raises(ValueError, match="has no length"):
        tool.request(ToolPose(np.zeros(3), np.zeros(4)), None, is_engaged=True)


def test_a_tool_moves_the_robot_from_where_both_were_when_the_person_engaged() -> None:
    settings = PoseTool(position=POSITION, rotation=QUATERNION, robot_topic="pose", scale=0.5)
    tool, robot = PoseDevice(settings), ToolPose(np.array([1.0, 0.0, 0.5]), UP)
    held = ToolPose(np.array([5.0, 5.0, 5.0]), TURNED)
    assert tool.request(held, robot, is_engaged=False) == Request()
    with pytest.raises(ValueError, match="the robot's pose on 'pose' is missing or old"):
        tool.request(held, None, is_engaged=True)
    assert tool.request(held, robot, is_engaged=True).positions == pytest.approx([1.0, 0.0, 0.5, 1, 0, 0, 0])
    moved = ToolPose(np.array([5.2, 5.0, 4.8]), UP)  # and turned back by a quarter turn
    expected = [1.1, 0.0, 0.4, 0.5**0.5, 0, 0, -(0.5**0.5)]
    # the robot's pose has changed since, which is what it was asked for
    elsewhere = ToolPose(np.array([9.0, 9.0, 9.0]), TURNED)
    assert tool.request(moved, elsewhere, is_engaged=True).positions == pytest.approx(expected)
    assert tool.request(moved, elsewhere, is_engaged=False) == Request()
    again = tool.request(moved, elsewhere, is_engaged=True).positions  # engaged again: nothing jumps
    assert again == pytest.approx([9.0, 9.0, 9.0, *TURNED])


LEADER = "name: leader\nleader: {joints: {j0: {}}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: leader\n", "found none of them, expected one of leader, gamepad, keyboard and pose"),
        (LEADER + "gamepad: {axes: {j0: {axis: 0, rate: 1.0}}}\n", "found leader, gamepad, expected one"),
        ("name: ' '\nleader: {joints: {j0: {}}}\n", "name is empty"),
        ("name: a\nleader: {joints: {}}\n", "'joints' is empty"),
        ("name: a\ngamepad: {}\n", "nothing would move"),
        (LEADER + "engage_button: 3\n", "there is no joystick; set engage_topic"),
        (LEADER + "engage_topic: joy\n", "engage_button is not; name the button"),
        ("name: a\nkeyboard: {keys: {ab: {channel: j0, rate: 1.0}}}\n", "found keys ['ab'], expected single"),
        ("name: a\nleader: {joints: {j0: {scal: 2.0}}}\n", "teleop.yaml:2: leader.joints.j0: unknown key 'scal'"),
        ("name: a\ngamepad: {axes: {j0: {axis: 0}}}\n", "missing key 'rate'"),
        ("name: a\npose: {position: [x, y]}\n", "'position' names 2 channels, expected 3, for x, y and z"),
        (
            "name: a\npose: {position: [x, y, z], rotation: [r]}\n",
            "names 1 channels, expected none, or 4 for quaternion",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(TeleopFile, text, "teleop.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("teleop.yaml:")
