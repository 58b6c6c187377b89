# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportAttributeAccessIssue=false
# (MuJoCo is a compiled module without type stubs.)
"""The simulated arm, its cubes and its task, without ROS.

Physics runs where `step` is called. Every method may be called from any thread, except that images come from an OpenGL
context that belongs to the first thread that asks for one. MuJoCo releases the interpreter lock while it computes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from gr00t_bringup.sim.cameras import CameraRenderer
from gr00t_bringup.sim.kinematics import JOINTS, home_positions
from gr00t_bringup.sim.scene import (
    BIN_HEIGHT_M,
    BIN_INNER_M,
    BIN_XY_M,
    CAMERAS,
    CUBE_M,
    CUBES,
    TIMESTEP_S,
    scene_xml,
)
from gr00t_bringup.sim.task import CubePose, asked_colour, task_text

HOME_NOISE_RAD = 0.03

# where cubes are put: reachable with the gripper pointing down, and clear of the bin
CUBE_RADIUS_M = (0.160, 0.245)
CUBE_DIRECTION_RAD = (-0.45, 1.15)
CUBE_DISTANCE_M = 0.075  # between centers: room for an open jaw


class SimRobot:
    """The arm in its scene."""

    joints, cameras = JOINTS, CAMERAS

    def __init__(self, seed: int = 0, task: str = "") -> None:
        """Build the scene and `reset` it."""
        self._lock = threading.Lock()
        self._model = mujoco.MjModel.from_xml_string(scene_xml())
        self._state = mujoco.MjData(self._model)
        self._frozen = mujoco.MjData(self._model)
        self._renderer: CameraRenderer | None = None
        self._joint_qpos = [self._model.joint(name).qposadr[0] for name in JOINTS]
        self._joint_dof = [self._model.joint(name).dofadr[0] for name in JOINTS]
        self._cube_qpos = {color: self._model.joint(f"{color}_cube").qposadr[0] for color in CUBES}
        self._camera_positions = {camera: self._model.camera(camera).pos.copy() for camera in CAMERAS}
        headlight = self._model.vis.headlight
        self._lights = [
            (each, each.copy()) for each in (headlight.ambient, headlight.diffuse, self._model.light_diffuse)
        ]
        self._color = ""
        self.reset(seed, task)

    @property
    def task(self) -> str:
        """Instruction of the current episode."""
        return task_text(self._color)

    def reset(self, seed: int, task: str = "") -> None:
        """Start an episode: cubes at random places without overlap, the arm near its home pose.

        Args:
            seed: chooses places, noise and the asked cube; equal seeds give equal scenes.
            task: names the color of the requested cube; empty: chosen by the seed.

        Raises:
            ValueError: it names no cube, or several.
        """
        color = asked_colour(task) if task else ""
        rng = np.random.default_rng(seed)
        drawn = str(rng.choice(list(CUBES)))
        positions = home_positions() + rng.uniform(-HOME_NOISE_RAD, HOME_NOISE_RAD, len(JOINTS))
        places = _draw_places(rng, len(CUBES))
        with self._lock:
            self._color = color or drawn
            mujoco.mj_resetData(self._model, self._state)
            self._state.qpos[self._joint_qpos] = positions
            self._state.ctrl[:] = positions
            for start, (x, y, yaw) in zip(self._cube_qpos.values(), places, strict=True):
                pose = [x, y, CUBE_M / 2, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
                self._state.qpos[start : start + 7] = pose
            mujoco.mj_forward(self._model, self._state)

    def shift_camera(self, camera: str, shift_m: Sequence[float]) -> None:
        """Move a camera by (x, y, z) in the frame of its body, from where it was built; its direction stays.

        Raises:
            ValueError: there is no such camera, or not three finite numbers.
        """
        shift = np.asarray(shift_m, dtype=np.float64)
        if camera not in CAMERAS or shift.shape != (3,) or not np.isfinite(shift).all():
            raise ValueError(
                f"camera '{camera}' by {list(shift_m)}: expected one of {', '.join(CAMERAS)} and 3 numbers"
            )
        with self._lock:
            self._model.camera(camera).pos[:] = self._camera_positions[camera] + shift
            mujoco.mj_forward(self._model, self._state)

    def set_light(self, brightness: float) -> None:
        """Set the brightness of all lights, relative to how the scene was built.

        Raises:
            ValueError: it is negative, or no finite number.
        """
        if not 0.0 <= brightness < math.inf:
            raise ValueError(f"light is {brightness:g}, expected a brightness of 0 or more")
        with self._lock:
            for light, built in self._lights:
                light[:] = built * brightness

    def command(self, targets_rad: Mapping[str, float]) -> None:
        """Set joint targets; joints not named keep theirs, values beyond a joint's limits are clipped.

        Raises:
            ValueError: unknown joint, or not finite; nothing is set then.
        """
        for name, value in targets_rad.items():
            if name not in JOINTS:
                raise ValueError(f"command: unknown joint '{name}', expected some of {', '.join(JOINTS)}")
            if not math.isfinite(value):
                raise ValueError(f"command: target of joint '{name}' is {value}, expected a finite angle [rad]")
        with self._lock:
            for name, value in targets_rad.items():
                # the scene lists its actuators in the order of JOINTS
                self._state.ctrl[JOINTS.index(name)] = value

    def step(self, duration_s: float) -> None:
        """Advance the physics by `duration_s`, rounded to whole time steps, at least one."""
        with self._lock:
            mujoco.mj_step(self._model, self._state, max(1, round(duration_s / TIMESTEP_S)))

    def joint_positions(self) -> np.ndarray:
        """Return positions `(6,)`, radians, in the order of `JOINTS`."""
        with self._lock:
            return self._state.qpos[self._joint_qpos].copy()

    def joint_velocities(self) -> np.ndarray:
        """Return velocities `(6,)`, rad/s, in the order of `JOINTS`."""
        with self._lock:
            return self._state.qvel[self._joint_dof].copy()

    def cube_poses(self) -> dict[str, CubePose]:
        """Return the pose of every cube by color."""
        with self._lock:
            poses = {color: self._state.qpos[at : at + 7].copy() for color, at in self._cube_qpos.items()}
        return {color: CubePose(pose[:3], pose[[4, 5, 6, 3]]) for color, pose in poses.items()}

    def success(self) -> bool:
        """Return whether the requested cube is in the bin and released by the gripper."""
        with self._lock:
            at = self._cube_qpos[self._color]
            x, y, z = self._state.qpos[at : at + 3]
            is_inside = max(abs(x - BIN_XY_M[0]), abs(y - BIN_XY_M[1])) < BIN_INNER_M / 2 and z < BIN_HEIGHT_M
            return bool(is_inside and not self._is_held())

    def freeze(self) -> mujoco.MjData:
        """Return a copy of the present state to render from, valid until the next call."""
        with self._lock:
            mujoco.mj_copyData(self._frozen, self._model, self._state)
        return self._frozen

    def render(self, camera: str, frozen: mujoco.MjData | None = None) -> np.ndarray:
        """Return what a camera sees, `(240, 320, 3)` uint8 RGB: now, or at the time of `freeze`.

        Raises:
            ConfigError: no OpenGL library can render off screen; names the system packages to install.
            ValueError: there is no such camera.
        """
        if self._renderer is None:
            self._renderer = CameraRenderer(self._model)
        return self._renderer.render(self.freeze() if frozen is None else frozen, camera)

    def images(self, frozen: mujoco.MjData | None = None) -> dict[str, np.ndarray]:
        """Return what every camera sees at one instant, by name; otherwise as `render`."""
        if frozen is None:
            frozen = self.freeze()
        return {camera: self.render(camera, frozen) for camera in CAMERAS}

    def close(self) -> None:
        """Free the cameras; on the thread that rendered."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _is_held(self) -> bool:
        cube = self._model.geom(f"{self._color}_cube").id
        hand = {self._model.body(name).id for name in ("gripper", "jaw")}
        for contact in self._state.contact:
            if cube in contact.geom and hand & {int(self._model.geom_bodyid[geom]) for geom in contact.geom}:
                return True
        return False


def _draw_places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Draw (x, y, yaw) of `count` cubes, `CUBE_DISTANCE_M` apart; repeated if they do not fit."""
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(count):
            radius, direction = rng.uniform(*CUBE_RADIUS_M), rng.uniform(*CUBE_DIRECTION_RAD)
            yaw = rng.uniform(-math.pi, math.pi)
            places.append((radius * math.cos(direction), radius * math.sin(direction), yaw))
        if all(math.dist(a[:2], b[:2]) >= CUBE_DISTANCE_M for i, a in enumerate(places) for b in places[:i]):
            return places
