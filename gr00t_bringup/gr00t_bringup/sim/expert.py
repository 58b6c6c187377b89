# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A scripted demonstrator that picks a cube and drops it in the bin; it replaces a person at a leader arm.

It gets the pose of the cube, plans once and is then sampled open loop. Way points are tool poses; between them the
tool moves in the arm's cylindrical coordinates (direction, radius, height, pitch, roll) with minimum jerk, so that
descending and lifting are straight. Knows neither ROS nor MuJoCo.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import numpy as np

from gr00t_bringup.sim.kinematics import ARM_JOINTS, HOME_GRIPPER_RAD, HOME_TOOL, ToolPose, inverse, tool_pose
from gr00t_bringup.sim.scene import BIN_XY_M

DOWN_RAD = math.pi / 2
OPEN_RAD = 0.70
SQUEEZE_RAD = 0.10  # beyond the cube (0.345): the servo presses
ABOVE_HEIGHT_M = 0.075
GRASP_HEIGHT_M = 0.017  # jaw tips 5 mm above the table
LOW_HEIGHT_M = 0.06  # below it the jaws would push cubes aside
CARRY_HEIGHT_M = 0.115
CARRY_RADIUS_M = 0.200  # lifting pulls in: the full reach shrinks with height
DROP_HEIGHT_M = 0.068  # jaw tips just above the rim of the bin


@dataclass(frozen=True)
class WayPoint:
    """A pose to reach, how long to take and what it is for."""

    phase: str
    tool: ToolPose
    gripper_rad: float
    duration_s: float


@dataclass(frozen=True)
class Demonstration:
    """A planned pick and place, to be sampled from time 0 to `duration_s`."""

    start: WayPoint
    way_points: tuple[WayPoint, ...]

    @property
    def duration_s(self) -> float:
        """Time the whole movement takes."""
        return sum(point.duration_s for point in self.way_points)

    def phase(self, time_s: float) -> str:
        """Return what the movement is about at `time_s`."""
        return self._segment(time_s)[1].phase

    def sample(self, time_s: float) -> np.ndarray:
        """Return the joint positions `(6,)` to command at `time_s`, radians, in the order of `JOINTS`.

        Raises:
            ValueError: the tool would be out of reach there.
        """
        before, after, progress = self._segment(time_s)
        share = 10 * progress**3 - 15 * progress**4 + 6 * progress**5  # minimum jerk between two rests
        tool = (a + (b - a) * share for a, b in zip(astuple(before.tool), astuple(after.tool), strict=True))
        gripper = before.gripper_rad + (after.gripper_rad - before.gripper_rad) * share
        return np.append(inverse(ToolPose(*tool)), gripper)

    def _segment(self, time_s: float) -> tuple[WayPoint, WayPoint, float]:
        """Return the way points around `time_s` and the share of the time between them that has passed."""
        before = self.start
        for after in self.way_points:
            if time_s < after.duration_s:
                return before, after, max(time_s, 0.0) / after.duration_s
            time_s -= after.duration_s
            before = after
        return before, before, 1.0


def plan_demonstration(
    positions_rad: np.ndarray, cube_xy_m: tuple[float, float], cube_yaw_rad: float, seed: int
) -> Demonstration:
    """Plan to put the cube at `cube_xy_m` in the bin, from the joint positions `(6,)` in the order of `JOINTS`.

    A tool between the cubes, as after a failed grasp, opens and rises first.

    Args:
        positions_rad: where the arm is.
        cube_xy_m: the cube's center in the base frame.
        cube_yaw_rad: the cube's direction about z; quarter turns do not matter.
        seed: varies tempo, heights and aim a little, as a person would.
    """
    rng = np.random.default_rng(seed)
    above = _over(cube_xy_m, ABOVE_HEIGHT_M + rng.uniform(0.0, 0.015))
    above = replace(
        above,
        radius_m=above.radius_m + rng.uniform(-0.002, 0.002),
        roll_rad=_grasp_roll(above.pan_rad, cube_yaw_rad) + rng.uniform(-0.04, 0.04),
    )
    grasp = replace(above, height_m=GRASP_HEIGHT_M)
    carry_height = CARRY_HEIGHT_M + rng.uniform(0.0, 0.01)
    lift = replace(grasp, height_m=carry_height, radius_m=min(grasp.radius_m, CARRY_RADIUS_M))
    bin_x, bin_y = BIN_XY_M
    drop = _over((bin_x + rng.uniform(-0.01, 0.01), bin_y + rng.uniform(-0.01, 0.01)), DROP_HEIGHT_M)
    arm = np.asarray(positions_rad, dtype=np.float64)
    start = WayPoint("start", tool_pose(arm[: len(ARM_JOINTS)]), float(arm[len(ARM_JOINTS)]), 0.0)
    is_low = start.tool.height_m < LOW_HEIGHT_M
    rise = (("rise", replace(start.tool, height_m=above.height_m), OPEN_RAD, 0.7),) if is_low else ()
    script = (
        *rise,
        ("approach", above, OPEN_RAD, 1.5),
        ("descend", grasp, OPEN_RAD, 0.9),
        ("grasp", grasp, SQUEEZE_RAD, 0.5),
        ("lift", lift, SQUEEZE_RAD, 0.8),
        ("carry", replace(drop, height_m=carry_height), SQUEEZE_RAD, 1.5),
        ("lower", drop, SQUEEZE_RAD, 0.6),
        ("release", drop, OPEN_RAD, 0.5),
        ("home", HOME_TOOL, HOME_GRIPPER_RAD, 1.3),
    )
    way_points = tuple(
        WayPoint(phase, tool, gripper, duration * rng.uniform(0.9, 1.1)) for phase, tool, gripper, duration in script
    )
    return Demonstration(start, way_points)


def _over(xy_m: tuple[float, float], height_m: float) -> ToolPose:
    x, y = xy_m
    return ToolPose(math.atan2(y, x), math.hypot(x, y), height_m, DOWN_RAD, 0.0)


def _grasp_roll(pan_rad: float, cube_yaw_rad: float) -> float:
    """Return the smallest roll at which the jaws close on two faces of the cube.

    With the gripper pointing down, rolling by r turns the jaws by -r about z, on top of the pan.
    """
    return math.remainder(pan_rad - cube_yaw_rad, math.pi / 2)
