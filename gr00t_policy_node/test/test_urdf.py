# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import logging
import math

import pytest

from gr00t_policy_node.safety.limits import JointLimit
from gr00t_policy_node.urdf import MAX_CHARACTERS, limits_from_urdf, read_urdf
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
    assert [record.message for record in caplog.records] == [
        "URDF: no usable limits for 'loose' (it has no velocity limit), 'slack' (it has no velocity limit)"
    ]


def test_joint_that_is_mimicked_keeps_the_others_within_their_limits() -> None:
    mimic = '<mimic joint="left" multiplier="-2" offset="0.5"/><limit lower="-0.5" upper="1" velocity="2" effort="0"/>'
    limits = limits_from_urdf(robot(joint("right", mimic), joint("left", LIMIT)))
    # right = -2 left + 0.5: left between -0.25 and 0.5, at half the speed
    assert limits["left"] == JointLimit(min=-0.25, max=0.5, max_velocity=1.0)
    assert limits["right"] == JointLimit(min=-0.5, max=1.0, max_velocity=2.0)


@pytest.mark.parametrize(
    ("name", "joints", "reason"),
    [
        ("a", [joint("a", '<limit lower="${-pi}" upper="1" velocity="1"/>')], "lower is '${-pi}', expected a number"),
        ("a", [joint("a", '<limit lower="nan" upper="1" velocity="1"/>')], "lower is 'nan'"),
        ("a", [joint("a", '<limit lower="-1" upper="inf" velocity="1"/>')], "upper is 'inf'"),
        ("a", [joint("a", '<limit lower="-1" upper="1" velocity="1,5"/>')], "velocity is '1,5'"),
        ("a", [joint("a", LIMIT), joint("a", LIMIT)], "defined more than once"),
        ("a", [joint("a", LIMIT), joint("a", "<limit/>")], "defined more than once"),
        ("a", [joint("a", "")], "no velocity limit"),
        ("a", [joint("a", '<limit lower="-1" upper="1" effort="1"/>')], "no velocity limit"),
        ("a", [joint("a", '<limit velocity="1"/>')], "lower 0 is not below upper 0"),
        ("a", [joint("a", '<limit lower="1" upper="-1" velocity="1"/>')], "lower 1 is not below upper -1"),
        ("a", [joint("a", '<limit lower="-170" upper="170" velocity="3"/>')], "too wide; expected rad, not degrees"),
        ("a", [joint("a", '<limit lower="-1" upper="1" velocity="180"/>')], "velocity 180 is too high"),
        ("a", [joint("a", '<limit lower="0" upper="400" velocity="1"/>', "prismatic")], "expected m, not mm"),
        ("a", [joint("a", '<limit lower="-1e16" upper="1e16" velocity="1"/>')], "too wide"),
        ("a", [joint("a", LIMIT + "<mimic/>")], "its mimic names no joint"),
        ("a", [joint("a", LIMIT + '<mimic joint="other_file"/>')], "'other_file', which is not in this URDF"),
        ("a", [joint("a", LIMIT + '<mimic joint="f"/>'), joint("f", "", "fixed")], "'f', which cannot be used or does"),
        ("a", [joint("a", LIMIT + '<mimic joint="f"/>'), joint("f", "<limit/>")], "'f', which cannot be used or does"),
        ("a", [joint("a", LIMIT + '<mimic joint="a"/>')], "it mimics 'a', which mimics it"),
        ("a", [joint("a", LIMIT + '<mimic joint="b"/>'), joint("b", LIMIT + '<mimic joint="a"/>')], "mimics it"),
        ("a", [joint("a", LIMIT + '<mimic joint="b" multiplier="x"/>'), joint("b", LIMIT)], "multiplier is 'x'"),
        (
            "a",
            [joint("a", LIMIT + '<mimic joint="b" offset="5"/>'), joint("b", LIMIT)],
            "it mimics 'b', which may be -1 to 1, but allows -6 to -4 only",
        ),
        (
            "a",  # as Robotiq's grippers have it
            [
                joint("b", '<limit lower="0" upper="0.8" velocity="2"/>'),
                joint("a", '<limit lower="0" upper="0.88" velocity="2"/><mimic joint="b" multiplier="-1"/>'),
            ],
            "it mimics 'b', which may be 0 to 0.8, but allows -0.88 to 0 only",
        ),
    ],
)
def test_a_joint_that_is_not_commanded_does_not_matter(name: str, joints: list[str], reason: str) -> None:
    found = read_urdf(robot(joint("", LIMIT), *joints, joint("shoulder", LIMIT), joint("lift", LIMIT, "unknown")))
    assert reason in found.unusable[name] and name not in found.limits
    assert found.limits["shoulder"] == JointLimit(min=-1.0, max=1.0, max_velocity=2.0)
    found.refuse_unusable(["shoulder"], found.limits)
    own = {name: JointLimit(min=0.0, max=1.0, max_velocity=1.0)}  # of limits.yaml
    found.refuse_unusable([name], own)
    with pytest.raises(ConfigError, match=f"joint '{name}' has no usable limits in the URDF"):
        found.refuse_unusable([name], found.limits)


def test_a_chain_of_mimics_limits_the_first_joint() -> None:
    chain = robot(
        joint("c", '<limit lower="-0.4" upper="0.4" velocity="2"/><mimic joint="b" multiplier="2"/>'),
        joint("b", LIMIT + '<mimic joint="a" multiplier="-1" offset="0.1"/>'),
        joint("a", LIMIT),
    )
    # c = 2 b = -2 a + 0.2
    limit = read_urdf(chain).limits["a"]
    assert (limit.min, limit.max, limit.max_velocity) == pytest.approx((-0.1, 0.3, 1.0))


def test_limits_of_a_continuous_joint_are_kept() -> None:
    limits = read_urdf(robot(joint("a", '<limit lower="-3" upper="3" velocity="1"/>', "continuous"))).limits
    assert limits == {"a": JointLimit(min=-3.0, max=3.0, max_velocity=1.0)}


def test_joints_inside_other_elements_are_no_joints() -> None:
    inside = f"<transmission>{joint('a', LIMIT)}</transmission><gazebo>{joint('b', LIMIT)}</gazebo>"
    nested = joint("c", f"<dynamics>{LIMIT}</dynamics>{LIMIT.replace('velocity=', 'other=')}")
    found = read_urdf(f"<robot>{inside}{nested}<!-- <!ENTITY x 'y'> -->{joint('d', LIMIT)}</robot>")
    assert list(found.limits) == ["d"] and list(found.unusable) == ["c"]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not valid XML"),
        ("<robot>", "not valid XML"),
        ("<sdf/>", "outermost element is <sdf>"),
        ('<!DOCTYPE r [<!ENTITY a "b">]><robot/>', "has entities"),
        ('<!DOCTYPE r [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><robot/>', "has entities"),
        ("<robot>" + " " * MAX_CHARACTERS + "</robot>", "characters"),
        ("<a>" * 1_000_000, "outermost element is <a>"),
        ("<robot>" + "<a>" * 1_000_000, "not valid XML"),
    ],
)
def test_a_text_that_is_no_urdf_is_refused(xml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_urdf(xml)


def test_texts_as_found_in_public_are_read() -> None:
    body = robot(joint("a", LIMIT))
    for xml in (
        body,
        f"\ufeff{body}",
        f"\n <!-- made by a tool --><!DOCTYPE robot>\n{body}",
        f'<?xml version="1.0" encoding="utf-16"?>{body}',  # the text is no longer bytes
    ):
        assert list(read_urdf(xml).limits) == ["a"]
