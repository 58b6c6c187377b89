# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Geometry of the simulated arm and its forward and inverse kinematics in closed form.

The links are in one vertical plane that shoulder_pan turns, so a tool pose is given in that plane (`ToolPose`) and
the inverse is that of a planar two-link arm. With every joint at zero the upper arm points up, forearm and gripper
point forward; positive shoulder_lift, elbow_flex and wrist_flex pitch the arm down. The base frame has x forward,
y left, z up, its origin on the table under the pan axis. Does not know MuJoCo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ARM_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
GRIPPER_JOINT = "gripper"
JOINTS = (*ARM_JOINTS, GRIPPER_JOINT)

JOINT_LIMITS_RAD = {
    "shoulder_pan": (-1.92, 1.92),
    "shoulder_lift": (-1.75, 1.75),
    "elbow_flex": (-1.69, 1.69),
    "wrist_flex": (-1.66, 2.00),  # enough to point down with the forearm raised
    "wrist_roll": (-2.74, 2.74),
    GRIPPER_JOINT: (0.0, 1.4),  # 0: the tips touch
}

SHOULDER_FORWARD_M = 0.030  # pan axis to shoulder_lift axis
SHOULDER_HEIGHT_M = 0.115
UPPER_ARM_M = 0.115
FOREARM_M = 0.135
TOOL_M = 0.140  # wrist_flex axis to the point between the jaws

LIMIT_TOLERANCE_RAD = 1e-9  # rounding of a pose that was computed at a limit


@dataclass(frozen=True)
class ToolPose:
    """Pose of the point between the jaws, in the vertical plane that contains the arm."""

    pan_rad: float  # direction of the plane about z, 0 = forward, positive to the left
    radius_m: float  # horizontal distance from the pan axis
    height_m: float  # above the table
    pitch_rad: float  # 0 = gripper horizontal, pi/2 = pointing down
    roll_rad: float  # about the gripper's own axis


# folded, clear of the cubes and seen by the front camera
HOME_TOOL = ToolPose(pan_rad=0.0, radius_m=0.15, height_m=0.13, pitch_rad=1.2, roll_rad=0.0)
HOME_GRIPPER_RAD = 0.2


def forward(arm_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tool's position and orientation in the base frame.

    Args:
        arm_rad: `(5,)` positions in the order of `ARM_JOINTS`.

    Returns:
        Position `(3,)` in meters, and the rotation matrix `(3, 3)` from tool (x along the gripper, y towards the
        moving jaw) to base.
    """
    pose = tool_pose(arm_rad)
    position = np.array([pose.radius_m * math.cos(pose.pan_rad), pose.radius_m * math.sin(pose.pan_rad), pose.height_m])
    return position, _rot_z(pose.pan_rad) @ _rot_y(pose.pitch_rad) @ _rot_x(pose.roll_rad)


def tool_pose(arm_rad: np.ndarray) -> ToolPose:
    """Return the tool's pose in the arm's plane for `(5,)` positions in the order of `ARM_JOINTS`."""
    pan, lift, elbow, wrist, roll = (float(value) for value in arm_rad)
    forearm_pitch = lift + elbow
    pitch = forearm_pitch + wrist
    radius = SHOULDER_FORWARD_M + UPPER_ARM_M * math.sin(lift)
    radius += FOREARM_M * math.cos(forearm_pitch) + TOOL_M * math.cos(pitch)
    height = SHOULDER_HEIGHT_M + UPPER_ARM_M * math.cos(lift)
    height -= FOREARM_M * math.sin(forearm_pitch) + TOOL_M * math.sin(pitch)
    return ToolPose(pan, radius, height, pitch, roll)


def inverse(pose: ToolPose) -> np.ndarray:
    """Return the joint positions `(5,)` that bring the tool to `pose`, with the elbow up (|elbow_flex| <= pi/2).

    Raises:
        ValueError: the pose is out of reach or beyond a joint limit; names the pose and the limit.
    """
    # wrist_flex axis, seen from the shoulder_lift axis
    out = pose.radius_m - TOOL_M * math.cos(pose.pitch_rad) - SHOULDER_FORWARD_M
    up = pose.height_m + TOOL_M * math.sin(pose.pitch_rad) - SHOULDER_HEIGHT_M
    squared = out * out + up * up
    cosine = (squared - UPPER_ARM_M**2 - FOREARM_M**2) / (2 * UPPER_ARM_M * FOREARM_M)
    if not -1.0 <= cosine <= 1.0:
        nearest, farthest = abs(FOREARM_M - UPPER_ARM_M), FOREARM_M + UPPER_ARM_M
        raise ValueError(
            f"{_describe(pose)}: the wrist would be {math.sqrt(squared):.3f} m from the shoulder, "
            f"the arm reaches {nearest:.3f} to {farthest:.3f} m"
        )
    bend = math.acos(cosine)  # from the upper arm's direction down to the forearm's
    upper_arm_pitch = math.atan2(-up, out) - math.atan2(
        FOREARM_M * math.sin(bend), UPPER_ARM_M + FOREARM_M * math.cos(bend)
    )
    lift = _wrap(upper_arm_pitch + math.pi / 2)
    elbow = bend - math.pi / 2
    arm_rad = np.array([pose.pan_rad, lift, elbow, _wrap(pose.pitch_rad - lift - elbow), pose.roll_rad])
    for name, value in zip(ARM_JOINTS, arm_rad, strict=True):
        low, high = JOINT_LIMITS_RAD[name]
        if not low - LIMIT_TOLERANCE_RAD <= value <= high + LIMIT_TOLERANCE_RAD:
            raise ValueError(f"{_describe(pose)}: {name} would be {value:.3f} rad, its limits are {low} to {high} rad")
    return arm_rad


def home_positions() -> np.ndarray:
    """Return the home pose `(6,)`, radians, in the order of `JOINTS`."""
    positions = np.empty(len(JOINTS))
    positions[: len(ARM_JOINTS)] = inverse(HOME_TOOL)
    positions[JOINTS.index(GRIPPER_JOINT)] = HOME_GRIPPER_RAD
    return positions


def _describe(pose: ToolPose) -> str:
    return f"tool at radius {pose.radius_m:.3f} m, height {pose.height_m:.3f} m, pitch {pose.pitch_rad:.2f} rad"


def _wrap(angle_rad: float) -> float:
    return math.remainder(angle_rad, 2 * math.pi)


def _rot_x(angle_rad: float) -> np.ndarray:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _rot_y(angle_rad: float) -> np.ndarray:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _rot_z(angle_rad: float) -> np.ndarray:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
