# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import logging
import math

import pytest

from gr00t_policy_node.limits import JointLimit
from gr00t_policy_node.urdf import limits_from_urdf
from gr00t_training.errors import ConfigError

ROBOT = """<?xml version="1.0"?>
<robot name="arm">
  <link name="base"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/>
    <limit lower="-1.5" upper="1.5" velocity="2.0" effort="30"/>
  </joint>
  <joint name="rail" type="prismatic"><limit lower="0" upper="0.4" velocity="0.25" effort="1"/></joint>
  <joint name="wheel" type="continuous"><limit velocity="6" effort="1"/></joint>
  <joint name="soft" type="revolute">
    <limit lower="-3" upper="3" velocity="1" effort="1"/>
    <safety_controller soft_lower_limit="-2.5" soft_upper_limit="4" k_velocity="1"/>
  </joint>
  <joint name="camera" type="fixed"/>
  <joint name="free" type="floating"/>
  <joint name="loose" type="continuous"/>
  <joint name="slack" type="revolute"><limit lower="-1" upper="1" velocity="0" effort="1"/></joint>
</robot>"""


def joint(name: str, inside: str, kind: str = "revolute") -> str:
    return f'<joint name="{name}" type="{kind}">{inside}</joint>'


def robot(*joints: str) -> str:
    return f"<robot>{''.join(joints)}</robot>"


LIMIT = '<limit lower="-1" upper="1" velocity="2" effort="0"/>'


def test_joints_that_move_have_their_limits_and_others_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        limits = limits_from_urdf(ROBOT)
    assert limits == {
        "shoulder": JointLimit(min=-1.5, max=1.5, max_velocity=2.0),
        "rail": JointLimit(min=0.0, max=0.4, max_velocity=0.25),
        "wheel": JointLimit(min=-math.inf, max=math.inf, max_velocity=6.0, endless=True),
        "soft": JointLimit(min=-2.5, max=3.0, max_velocity=1.0),
    }
    assert "'loose' has no velocity limit" in caplog.text
    assert "'slack' has no velocity limit" in caplog.text


def test_joint_that_is_mimicked_keeps_the_others_within_their_limits() -> None:
    mimic = '<mimic joint="left" multiplier="-2" offset="0.5"/><limit lower="-0.5" upper="1" velocity="2" effort="0"/>'
    limits = limits_from_urdf(robot(joint("right", mimic), joint("left", LIMIT)))
    # right = -2 left + 0.5: left between -0.25 and 0.5, at half the speed
    assert limits["left"] == JointLimit(min=-0.25, max=0.5, max_velocity=1.0)
    assert limits["right"] == JointLimit(min=-0.5, max=1.0, max_velocity=2.0)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<robot>", "not valid XML"),
        ("<sdf/>", "outermost element is <sdf>"),
        ('<!DOCTYPE r [<!ENTITY a "b">]><robot/>', "document type or entities"),
        (robot(joint("a", '<limit lower="${-pi}" upper="1" velocity="1"/>')), r"joint 'a': limit lower is '\$\{-pi\}'"),
        (robot(joint("a", '<limit lower="nan" upper="1" velocity="1"/>')), "joint 'a': limit lower is 'nan'"),
        (robot(joint("a", LIMIT), joint("a", LIMIT)), "'a' stands twice"),
        (robot(joint("", LIMIT)), "a revolute joint has no name"),
        (robot(joint("a", LIMIT + "<mimic/>")), "joint 'a': its mimic names no joint"),
        (robot(joint("a", LIMIT + '<mimic joint="b"/>')), "'a' mimics 'b', which is no moving joint"),
        (
            robot(joint("a", LIMIT + '<mimic joint="b" offset="5"/>'), joint("b", LIMIT)),
            "'b' may be -1 to 1, but 'a', which mimics it, allows -6 to -4 only",
        ),
    ],
)
def test_wrong_urdf_is_refused_with_the_joint(xml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        limits_from_urdf(xml)
