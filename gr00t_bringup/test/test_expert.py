# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from gr00t_bringup.sim.expert import plan_demonstration
from gr00t_bringup.sim.kinematics import JOINTS, ToolPose, forward, home_positions, inverse
from gr00t_bringup.sim.robot import SimRobot
from gr00t_bringup.sim.scene import BIN_XY_M
from gr00t_bringup.sim.task import asked_colour

STEP_S = 0.02


def _samples(plan):
    return np.array([plan.sample(time_s) for time_s in np.arange(0.0, plan.duration_s, STEP_S)])


@pytest.fixture(scope="module")
def plan():
    return plan_demonstration(home_positions(), (0.18, 0.08), 0.3, seed=3)


def test_it_puts_the_asked_cube_in_the_bin():
    robot = SimRobot()
    failed = []
    for seed in range(8):
        robot.reset(seed)
        cube = robot.cube_poses()[asked_colour(robot.task)]
        x, y, _ = cube.position_m
        plan = plan_demonstration(robot.joint_positions(), (x, y), cube.yaw_rad, seed)
        assert 6.0 < plan.duration_s < 9.0
        for positions in _samples(plan):
            robot.command(dict(zip(JOINTS, positions, strict=True)))
            robot.step(STEP_S)
        if not robot.success():
            failed.append(seed)
    assert failed == []


def test_the_movement_begins_where_the_arm_is_and_ends_at_home(plan):
    np.testing.assert_allclose(plan.sample(0.0), home_positions(), atol=1e-9)
    np.testing.assert_allclose(plan.sample(-1.0), home_positions(), atol=1e-9)
    np.testing.assert_allclose(plan.sample(plan.duration_s), home_positions(), atol=1e-9)
    np.testing.assert_allclose(plan.sample(99.0), home_positions(), atol=1e-9)


def test_the_movement_is_smooth(plan):
    velocities = np.diff(_samples(plan), axis=0) / STEP_S
    accelerations = np.diff(velocities, axis=0) / STEP_S
    assert np.max(np.abs(velocities)) < 3.5  # rad/s, below the 5 rad/s of such servos
    assert np.max(np.abs(accelerations)) < 30.0


def test_descending_is_straight_down(plan):
    start_s = plan.way_points[0].duration_s
    times_s = np.linspace(start_s, start_s + plan.way_points[1].duration_s, 20)
    path = np.array([forward(plan.sample(time_s)[:5])[0] for time_s in times_s])
    np.testing.assert_allclose(path[:, :2], path[:1, :2].repeat(20, axis=0), atol=1e-9)
    assert np.all(np.diff(path[:, 2]) < 0)
    assert path[-1, 2] == pytest.approx(0.017)


def test_the_jaws_close_on_the_cube_s_faces():
    for yaw in np.linspace(-3.0, 3.0, 13):
        plan = plan_demonstration(home_positions(), (0.18, 0.08), float(yaw), seed=0)
        grasp_s = plan.way_points[0].duration_s + plan.way_points[1].duration_s
        assert plan.phase(grasp_s + 0.01) == "grasp"
        position, rotation = forward(plan.sample(grasp_s)[:5])
        np.testing.assert_allclose(position[:2], (0.18, 0.08), atol=0.003)
        jaw_yaw = math.atan2(rotation[1, 1], rotation[0, 1])  # the tool's y axis, along which the jaws close
        assert abs(math.remainder(jaw_yaw - yaw, math.pi / 2)) < 0.05


def test_it_lets_go_above_the_bin(plan):
    release_s = plan.duration_s - sum(point.duration_s for point in plan.way_points[-2:])
    assert plan.phase(release_s + 0.01) == "release"
    position, _ = forward(plan.sample(release_s)[:5])
    np.testing.assert_allclose(position[:2], BIN_XY_M, atol=0.02)
    assert position[2] > 0.045 + 0.012  # jaw tips, 12 mm beyond the tool point, clear the rim


def test_equal_seeds_give_equal_demonstrations_and_others_vary():
    arguments = (home_positions(), (0.18, 0.08), 0.3)
    plans = [plan_demonstration(*arguments, seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].duration_s != plans[2].duration_s
    assert plans[0].way_points[1].tool != plans[2].way_points[1].tool


def test_a_cube_out_of_reach_is_reported_when_the_movement_gets_there():
    plan = plan_demonstration(home_positions(), (0.40, 0.0), 0.0, seed=0)
    with pytest.raises(ValueError, match="the arm reaches"):
        _samples(plan)


def test_a_tool_between_the_cubes_opens_and_rises_before_it_turns():
    low = home_positions()
    low[:5] = inverse(ToolPose(0.3, 0.2, 0.02, math.pi / 2, 0.0))
    plan = plan_demonstration(low, (0.18, -0.04), 0.0, seed=0)
    assert [point.phase for point in plan.way_points][:3] == ["rise", "approach", "descend"]
    rise_s = plan.way_points[0].duration_s
    np.testing.assert_allclose(plan.sample(rise_s / 2)[0], 0.3, atol=1e-9)  # pan
    position, _ = forward(plan.sample(rise_s)[:5])
    assert position[2] > 0.07
    assert plan.sample(rise_s)[5] > 0.6  # jaws
