# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import math

import mujoco
import numpy as np
import pytest

from gr00t_bringup.sim.kinematics import (
    ARM_JOINTS,
    GRIPPER_JOINT,
    HOME_TOOL,
    JOINT_LIMITS_RAD,
    JOINTS,
    ToolPose,
    forward,
    home_positions,
    inverse,
    tool_pose,
)
from gr00t_bringup.sim.scene import CUBE_M, JAW_PARALLEL_RAD, scene_xml
from gr00t_training.embodiment import load_embodiment


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(scene_xml())


def _random_arms(count):
    rng = np.random.default_rng(5)
    low, high = np.array([JOINT_LIMITS_RAD[name] for name in ARM_JOINTS]).T
    return rng.uniform(low, high, (count, len(ARM_JOINTS)))


def test_joints_are_those_of_the_embodiment_in_order():
    embodiment = load_embodiment("sim_arm")
    assert embodiment.state["single_arm"].names + embodiment.state["gripper"].names == JOINTS
    assert embodiment.action["single_arm"].names + embodiment.action["gripper"].names == JOINTS


@pytest.mark.parametrize(
    ("arm", "position"),
    [
        # upper arm (0.115 m) up from the shoulder at (0.03, 0, 0.115), forearm (0.135 m) and tool (0.14 m) forward
        ([0, 0, 0, 0, 0], [0.03 + 0.135 + 0.14, 0, 0.115 + 0.115]),
        # leaning forward a quarter turn: upper arm forward, the rest down
        ([0, math.pi / 2, 0, 0, 0], [0.03 + 0.115, 0, 0.115 - 0.135 - 0.14]),
        # forearm and tool pitch down on their own
        ([0, 0, math.pi / 2, 0, 0], [0.03, 0, 0.115 + 0.115 - 0.135 - 0.14]),
        ([0, 0, 0, math.pi / 2, 0], [0.03 + 0.135, 0, 0.115 + 0.115 - 0.14]),
        # a quarter turn of the pan axis is to the left
        ([math.pi / 2, 0, 0, 0, 0], [0, 0.03 + 0.135 + 0.14, 0.115 + 0.115]),
        # rolling moves nothing
        ([0, 0, 0, 0, 1.0], [0.03 + 0.135 + 0.14, 0, 0.115 + 0.115]),
    ],
)
def test_forward_by_hand(arm, position):
    np.testing.assert_allclose(forward(np.array(arm, float))[0], position, atol=1e-12)


def test_forward_agrees_with_mujoco(model):
    state = mujoco.MjData(model)
    for arm in _random_arms(200):
        for name, value in zip(ARM_JOINTS, arm, strict=True):
            state.joint(name).qpos = value
        mujoco.mj_kinematics(model, state)
        position, rotation = forward(arm)
        np.testing.assert_allclose(position, state.site("tool").xpos, atol=1e-9)
        np.testing.assert_allclose(rotation, state.site("tool").xmat.reshape(3, 3), atol=1e-9)


def test_inverse_returns_the_joints_of_every_pose_with_the_elbow_up():
    arms = [arm for arm in _random_arms(300) if abs(arm[ARM_JOINTS.index("elbow_flex")]) < math.pi / 2]
    assert len(arms) > 250
    for arm in arms:
        np.testing.assert_allclose(inverse(tool_pose(arm)), arm, atol=1e-6)
        np.testing.assert_allclose(forward(inverse(tool_pose(arm)))[0], forward(arm)[0], atol=1e-9)


def test_home_is_where_it_says():
    pose = tool_pose(home_positions()[: len(ARM_JOINTS)])
    np.testing.assert_allclose([pose.radius_m, pose.height_m, pose.pitch_rad], [0.15, 0.13, 1.2], atol=1e-12)
    assert pose.pan_rad == HOME_TOOL.pan_rad


def test_a_pose_out_of_reach_is_refused_with_the_distances():
    # pointing down the wrist is at (0.37, 0.165) of (0.03, 0.115): 0.3437 m away
    with pytest.raises(ValueError, match=r"0\.344 m from the shoulder, the arm reaches 0\.020 to 0\.250 m"):
        inverse(ToolPose(0.0, 0.37, 0.025, math.pi / 2, 0.0))


@pytest.mark.parametrize(
    ("pose", "joint"),
    [
        (ToolPose(2.0, 0.2, 0.05, math.pi / 2, 0.0), "shoulder_pan"),
        (ToolPose(0.0, 0.2, 0.05, math.pi / 2, 3.0), "wrist_roll"),
        (tool_pose(np.array([0.0, -0.5, 0.2, 2.1, 0.0])), "wrist_flex"),
    ],
)
def test_a_pose_beyond_a_joint_limit_is_refused_by_name(pose, joint):
    with pytest.raises(ValueError, match=f"{joint} would be"):
        inverse(pose)


def test_gripper_zero_is_closed_and_a_cube_fits_between_parallel_jaws(model):
    state = mujoco.MjData(model)
    fixed, moving = (
        next(g for g in range(model.ngeom) if model.geom_bodyid[g] == model.body(body).id and model.geom_condim[g] == 4)
        for body in ("gripper", "jaw")
    )

    def gap():
        """Distance of the jaws' surfaces at their nearest; negative: overlap."""
        mujoco.mj_kinematics(model, state)
        return mujoco.mj_geomDistance(model, state, fixed, moving, 1.0, np.zeros(6))

    state.joint(GRIPPER_JOINT).qpos = 0.0
    assert abs(gap()) < 0.002
    state.joint(GRIPPER_JOINT).qpos = JAW_PARALLEL_RAD
    assert gap() == pytest.approx(CUBE_M, abs=1e-6)
    state.joint(GRIPPER_JOINT).qpos = JAW_PARALLEL_RAD + 0.3
    assert gap() >= CUBE_M
