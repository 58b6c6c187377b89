# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated scene as MuJoCo XML: the arm, a table, three cubes, an open bin and two cameras.

Uses only boxes, capsules and cylinders, to avoid downloads. Sizes of the arm come from
`kinematics`, which thereby stays the one source of its geometry. Contacts: the arm touches table, bin and cubes but
not itself. Everything is meters, kilograms and radians in the arm's base frame.
"""

from __future__ import annotations

import numpy as np

from gr00t_bringup.sim.kinematics import (
    FOREARM_M,
    GRIPPER_JOINT,
    JOINT_LIMITS_RAD,
    SHOULDER_FORWARD_M,
    SHOULDER_HEIGHT_M,
    TOOL_M,
    UPPER_ARM_M,
)

CAMERAS = ("front", "wrist")
IMAGE_HEIGHT = 240
IMAGE_WIDTH = 320

FRONT_EYE_M = (0.58, 0.05, 0.40)
FRONT_TARGET_M = (0.12, 0.0, 0.095)

CUBES = {"red": "0.85 0.10 0.10 1", "green": "0.10 0.65 0.20 1", "blue": "0.10 0.25 0.85 1"}
CUBE_M = 0.028  # edge

BIN_XY_M = (0.085, -0.182)
BIN_INNER_M = 0.110  # edge of the square opening
BIN_HEIGHT_M = 0.045

TIMESTEP_S = 0.002  # largest at which the grasp holds without slip

# gripper geometry, from the wrist_flex axis along the tool's x and from its axis along y
JAW_PIVOT_XY_M = (0.062, 0.026)
JAW_PARALLEL_RAD = 0.345  # joint position at which both jaws are parallel, one cube edge apart
FIXED_JAW_FACE_M = -0.016
MOVING_JAW_FACE_M = FIXED_JAW_FACE_M + CUBE_M
JAW_TIP_M = TOOL_M + 0.012  # the jaws reach a little past the tool point

_WALL_M = 0.004
_FINGER_M = 0.007  # thickness of a jaw
_ORANGE, _DARK, _PALE = "0.95 0.55 0.12 1", "0.13 0.13 0.15 1", "0.88 0.88 0.90 1"


def scene_xml() -> str:
    """Return the scene as MJCF text."""
    x, y, z = FRONT_EYE_M
    return f"""
<mujoco model="sim_arm">
  <compiler angle="radian" autolimits="true"/>
  <!-- an elliptic cone and a stiff friction constraint (impratio) keep a grasped cube from creeping out -->
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="{IMAGE_WIDTH}" offheight="{IMAGE_HEIGHT}"/>
    <quality offsamples="0" shadowsize="0" numslices="16" numstacks="8" numquads="1"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
    <map znear="0.02" zfar="5"/>
  </visual>
  <statistic extent="1" center="0.15 0 0.1"/>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.75 0.80 0.86" rgb2="0.52 0.56 0.62" width="16" height="96"/>
  </asset>
  <default>
    <geom contype="0" conaffinity="0"/>
    <joint type="hinge" armature="0.01" damping="0.2"/>
    <position kp="45" dampratio="1" forcerange="-3 3"/>
    <default class="link"><geom contype="2" conaffinity="1" rgba="{_ORANGE}"/></default>
    <default class="motor"><geom type="box" rgba="{_DARK}" mass="0"/></default>
    <default class="jaw">
      <geom type="box" contype="2" conaffinity="1" condim="4" friction="1.5 0.02 0.0001" rgba="{_PALE}"/>
    </default>
    <default class="fixed"><geom type="box" contype="1" conaffinity="1" condim="4" friction="1 0.01 0.0001"/></default>
  </default>
  <worldbody>
    <light pos="0.5 0.5 1.2" dir="-0.35 -0.4 -1" castshadow="false" diffuse="0.7 0.7 0.7" specular="0.1 0.1 0.1"/>
    <camera name="front" pos="{x} {y} {z}" xyaxes="{_look(FRONT_EYE_M, FRONT_TARGET_M)}" fovy="42"/>
    <geom name="table" class="fixed" pos="0.18 0 -0.02" size="0.45 0.6 0.02" rgba="0.86 0.82 0.74 1"/>
{_arm()}
{_bin()}
{_cubes()}
  </worldbody>
  <actuator>
{_actuators()}
  </actuator>
</mujoco>
"""


def _arm() -> str:
    limits = {name: f'range="{low} {high}"' for name, (low, high) in JOINT_LIMITS_RAD.items()}
    column = SHOULDER_HEIGHT_M
    palm = JAW_PIVOT_XY_M[0]
    finger_half = (JAW_TIP_M - palm) / 2
    fixed_y = FIXED_JAW_FACE_M - _FINGER_M / 2
    # the moving finger in its own frame, which is parallel to the tool's at JAW_PARALLEL_RAD
    moving_y = MOVING_JAW_FACE_M + _FINGER_M / 2 - JAW_PIVOT_XY_M[1]
    eye, target = (0.045, 0.0, 0.062), (TOOL_M, 0.004, 0.0)
    # gravcomp: the servos of such arms hold their position without droop
    return f"""
    <geom class="link" type="box" pos="-0.015 0 0.022" size="0.05 0.042 0.022" rgba="{_DARK}"/>
    <body name="shoulder" gravcomp="1">
      <joint name="shoulder_pan" axis="0 0 1" {limits["shoulder_pan"]}/>
      <geom class="link" type="cylinder" pos="0 0 {0.044 + 0.028}" size="0.030 0.028" mass="0.1"/>
      <geom class="motor" pos="{SHOULDER_FORWARD_M} 0 {column}" size="0.017 0.024 0.017"/>
      <body name="upper_arm" pos="{SHOULDER_FORWARD_M} 0 {column}" gravcomp="1">
        <joint name="shoulder_lift" axis="0 1 0" {limits["shoulder_lift"]}/>
        <geom class="link" type="capsule" fromto="0 0 0 0 0 {UPPER_ARM_M}" size="0.016" mass="0.12"/>
        <body name="forearm" pos="0 0 {UPPER_ARM_M}" gravcomp="1">
          <joint name="elbow_flex" axis="0 1 0" {limits["elbow_flex"]}/>
          <geom class="motor" size="0.017 0.022 0.017"/>
          <geom class="link" type="capsule" fromto="0 0 0 {FOREARM_M} 0 0" size="0.014" mass="0.10"/>
          <body name="wrist" pos="{FOREARM_M} 0 0" gravcomp="1">
            <joint name="wrist_flex" axis="0 1 0" {limits["wrist_flex"]}/>
            <geom class="motor" size="0.015 0.020 0.015"/>
            <geom class="link" type="capsule" fromto="0 0 0 0.03 0 0" size="0.014" mass="0.06"/>
            <body name="gripper" gravcomp="1">
              <joint name="wrist_roll" axis="1 0 0" {limits["wrist_roll"]} armature="0.003"/>
              <geom class="link" type="box" pos="{palm - 0.012} 0.004 0" size="0.012 0.030 0.013" mass="0.06"/>
              <geom class="jaw" pos="{palm + finger_half} {fixed_y} 0" size="{finger_half} {_FINGER_M / 2} 0.009"
                    mass="0.02"/>
              <geom class="motor" pos="{eye[0] - 0.008} 0 {eye[2] - 0.006}" size="0.007 0.012 0.010"/>
              <geom class="motor" pos="{eye[0] - 0.008} 0 0.032" size="0.004 0.004 0.022"/>
              <camera name="wrist" pos="{eye[0]} {eye[1]} {eye[2]}" xyaxes="{_look(eye, target, up=(0, 0, 1))}"
                      fovy="66"/>
              <site name="tool" pos="{TOOL_M} 0 0" size="0.003" group="4"/>
              <body name="jaw" pos="{JAW_PIVOT_XY_M[0]} {JAW_PIVOT_XY_M[1]} 0" euler="0 0 {-JAW_PARALLEL_RAD}"
                    gravcomp="1">
                <joint name="{GRIPPER_JOINT}" axis="0 0 1" {limits[GRIPPER_JOINT]} armature="0.002"/>
                <geom class="motor" type="cylinder" size="0.010 0.014"/>
                <geom class="jaw" pos="{finger_half} {moving_y} 0" size="{finger_half} {_FINGER_M / 2} 0.009"
                      mass="0.02"/>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _bin() -> str:
    x, y = BIN_XY_M
    reach = BIN_INNER_M / 2 + _WALL_M / 2
    up = BIN_HEIGHT_M / 2
    along_x, along_y = f"{reach + _WALL_M / 2} {_WALL_M / 2} {up}", f"{_WALL_M / 2} {reach + _WALL_M / 2} {up}"
    parts = [
        (f"{x} {y} 0.001", f"{BIN_INNER_M / 2} {BIN_INNER_M / 2} 0.001"),
        (f"{x} {y + reach} {up}", along_x),
        (f"{x} {y - reach} {up}", along_x),
        (f"{x + reach} {y} {up}", along_y),
        (f"{x - reach} {y} {up}", along_y),
    ]
    return "\n".join(
        f'    <geom class="fixed" pos="{pos}" size="{size}" rgba="0.30 0.36 0.48 1"/>' for pos, size in parts
    )


def _cubes() -> str:
    half = CUBE_M / 2
    return "\n".join(
        f'    <body name="{color}_cube" pos="0.2 {0.06 * i} {half}"><freejoint name="{color}_cube"/>'
        f'<geom name="{color}_cube" class="fixed" size="{half} {half} {half}" mass="0.02" rgba="{rgba}"/></body>'
        for i, (color, rgba) in enumerate(CUBES.items())
    )


def _actuators() -> str:
    lines = []
    for name, (low, high) in JOINT_LIMITS_RAD.items():
        # about 10 N at the finger tips
        force = 'kp="8" forcerange="-0.9 0.9"' if name == GRIPPER_JOINT else ""
        lines.append(f'    <position name="{name}" joint="{name}" ctrlrange="{low} {high}" {force}/>')
    return "\n".join(lines)


def _look(eye: tuple[float, ...], target: tuple[float, ...], up: tuple[float, ...] = (0, 0, 1)) -> str:
    """Return MuJoCo's `xyaxes` (image right, image up) of a camera at `eye` that looks at `target`."""
    forward = np.subtract(target, eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    above = np.cross(right, forward)
    above /= np.linalg.norm(above)
    return " ".join(f"{value:.6f}" for value in (*right, *above))
