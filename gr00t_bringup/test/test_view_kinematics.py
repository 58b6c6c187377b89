# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions of links compared with hand calculation and with MuJoCo; paths of chunks; without ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from viewed_robot import write_viewed_robot

from gr00t_bringup.views.kinematics import UrdfTree
from gr00t_bringup.views.path import PathPlanner
from gr00t_bringup.views.robot import ViewedRobot, load_viewed_robot
from gr00t_training.errors import ConfigError

# a planar arm: two links of 0.3 m and 0.2 m that turn about z at a height of 0.5 m, a slide along the tool, and a tool
PLANAR = """<robot name="planar">
  <joint name="lift" type="fixed"><parent link="world"/><child link="base"/><origin xyz="0 0 0.5"/></joint>
  <joint name="j0" type="revolute"><parent link="base"/><child link="upper"/><axis xyz="0 0 2"/></joint>
  <joint name="j1" type="revolute"><parent link="upper"/><child link="fore"/><origin xyz="0.3 0 0"/><axis xyz="0 0 1"/>
  </joint>
  <joint name="j2" type="prismatic"><parent link="fore"/><child link="slide"/><origin xyz="0.2 0 0"/></joint>
  <joint name="flange" type="fixed"><parent link="slide"/><child link="tool0"/><origin xyz="0.1 0 0"/></joint>
  <joint name="left" type="prismatic"><parent link="tool0"/><child link="left_finger"/><axis xyz="0 1 0"/></joint>
  <joint name="right" type="prismatic"><parent link="tool0"/><child link="right_finger"/><axis xyz="0 1 0"/>
    <mimic joint="left" multiplier="-1" offset="0.01"/></joint>
</robot>"""


def rows(*values: float) -> np.ndarray:
    return np.array(values)


def test_positions_of_a_planar_arm_are_those_by_hand() -> None:
    tree = UrdfTree(PLANAR)
    assert tree.root == "world"
    turn = np.pi / 2
    positions = {"j0": rows(0.0, turn, turn), "j1": rows(0.0, 0.0, -turn), "j2": rows(0.0, 0.0, 0.05)}
    found = tree.frames("tool0", positions)[:, :3, 3]
    expected = [
        [0.3 + 0.2 + 0.1, 0.0, 0.5],  # stretched along x
        [0.0, 0.6, 0.5],  # stretched along y
        [0.2 + 0.05 + 0.1, 0.3, 0.5],  # upper arm along y, forearm along x, slide out
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_mimic_joint_follows_its_leader() -> None:
    tree = UrdfTree(PLANAR)
    assert tree.moving("right_finger") == ("j0", "j1", "j2", "left")
    positions = {name: rows(0.0) for name in ("j0", "j1", "j2")} | {"left": rows(0.03)}
    np.testing.assert_allclose(tree.frames("right_finger", positions)[0, :3, 3], [0.6, 0.01 - 0.03, 0.5], atol=1e-12)


def test_frames_are_those_of_mujoco() -> None:
    mujoco = pytest.importorskip("mujoco")
    rng = np.random.default_rng(3)
    joints = []
    for i in range(6):
        xyz, rpy, axis = (" ".join(f"{x:.6f}" for x in rng.uniform(-1, 1, 3)) for _ in range(3))
        kind = "prismatic" if i == 2 else "revolute"
        joints.append(
            f'<joint name="j{i}" type="{kind}"><parent link="l{i}"/><child link="l{i + 1}"/>'
            f'<origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="{axis}"/><limit lower="-3" upper="3" velocity="1"/></joint>'
        )
    inertial = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
    links = "".join(f'<link name="l{i}">{inertial}</link>' for i in range(7))
    xml = f'<robot name="random">{links}{"".join(joints)}</robot>'
    model = mujoco.MjModel.from_xml_string(xml)
    state, tree = mujoco.MjData(model), UrdfTree(xml)
    for _ in range(5):
        state.qpos[:] = rng.uniform(-1.5, 1.5, model.nq)
        mujoco.mj_kinematics(model, state)
        body = state.body("l6")
        positions = {f"j{i}": rows(state.qpos[i]) for i in range(6)}
        frame = tree.frames("l6", positions)[0]
        np.testing.assert_allclose(frame[:3, 3], body.xpos, atol=1e-5)  # its axes come from six digits
        np.testing.assert_allclose(frame[:3, :3], body.xmat.reshape(3, 3), atol=1e-5)


@pytest.mark.parametrize(
    ("xml", "fault"),
    [
        ("<robot/>", "links without a parent are none"),
        (PLANAR.replace("0.3 0 0", "${length} 0 0"), "joint 'j1': .*run xacro first"),
        (PLANAR.replace('<axis xyz="0 0 2"/>', '<axis xyz="0 0 0"/>'), "joint 'j0': axis has no direction"),
        (PLANAR.replace('<parent link="world"/>', '<parent link="fore"/>'), "links without a parent"),
        (PLANAR.replace('<child link="base"/>', ""), "joint 'lift' needs a name, a parent link and a child link"),
    ],
)
def test_a_urdf_that_cannot_be_used_is_refused_by_joint(xml: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        UrdfTree(xml).chain("tool0")


@pytest.fixture
def robot(tmp_path: Path) -> ViewedRobot:
    return load_viewed_robot(write_viewed_robot(tmp_path))


def test_the_path_of_a_chunk_is_that_of_the_arms_end(robot: ViewedRobot) -> None:
    planner = PathPlanner(robot, PLANAR)
    assert (planner.root, planner.tips) == ("world", ("tool0",))  # not the fingers, which are no arm
    chunk = np.array([[0.0, 0.0, 0.0, 0.1], [np.pi / 2, 0.0, 0.1, 0.1]])
    (path,), unknown = planner.paths(["j0", "j1", "j2", "grip"], chunk, {})
    np.testing.assert_allclose(path.points, [[0.6, 0.0, 0.5], [0.0, 0.7, 0.5]], atol=1e-12)
    assert not unknown


def test_joints_that_no_chunk_has_are_where_they_were_measured_or_named(robot: ViewedRobot) -> None:
    planner = PathPlanner(robot, PLANAR, ["left_finger"])
    chunk = np.zeros((2, 3))
    paths, unknown = planner.paths(["j0", "j1", "j2"], chunk, {})
    assert (paths, unknown) == ([], {"left_finger": "left"})
    (path,), unknown = planner.paths(["j0", "j1", "j2"], chunk, {"left": 0.02, "j0": 9.0})
    np.testing.assert_allclose(path.points, [[0.6, 0.02, 0.5]] * 2, atol=1e-12)


def test_a_urdf_of_another_robot_is_refused(robot: ViewedRobot) -> None:
    with pytest.raises(ConfigError, match="no arm of the URDF"):
        PathPlanner(robot, PLANAR.replace('name="j', 'name="other'))
    with pytest.raises(ConfigError, match="link 'tool1' is no link"):
        PathPlanner(robot, PLANAR, ["tool1"])
