# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (MuJoCo is a compiled module without type stubs; Meta-World is in an environment of its own.)
"""Meta-World tasks as one robot; without ROS. The scenes of all tasks are kept, and a reset changes between them."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is first imported

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
from metaworld_tasks import CAMERAS, JOINTS, STEP_HZ, TASKS, hand_action, task_name

CORNER_POSITION_M = (0.75, 0.075, 0.7)  # nearer to the table than Meta-World has it
IMAGE_SIZE = 168  # [px] both ways


@dataclass
class Scene:
    """One task's simulator."""

    env: Any
    frozen: mujoco.MjData | None = None
    renderer: mujoco.Renderer | None = None


class MetaworldRobot:
    """The hand in the scene of one of the tasks."""

    joints, cameras = JOINTS, tuple(CAMERAS)

    def __init__(self) -> None:
        """Start in the scene of seed 0."""
        self._scenes = {name: _make_scene(name) for name in TASKS.values()}
        self.reset(0)

    @property
    def task(self) -> str:
        """Instruction of the current episode."""
        return self._task

    @property
    def observation(self) -> np.ndarray:
        """What Meta-World gives its own policies, with the places of object and goal: `(39,)`."""
        return self._observation

    @property
    def hand_target_m(self) -> np.ndarray:
        """Where the hand is commanded to, `(3,)`."""
        return self._scene.env.data.mocap_pos[0].copy()

    def reset(self, seed: int, task: str = "") -> None:
        """Start an episode; an empty task: they follow one another with the seed."""
        self._task = task or list(TASKS)[seed % len(TASKS)]
        self._scene = self._scenes[task_name(self._task)]
        env = self._scene.env
        env.seed(seed)
        env.reset()
        mujoco.mj_forward(env.model, env.data)  # a reset moves the drawer, but only a step would show it
        self._observation = env._get_obs()
        for site in env._target_site_config:
            env._set_pos_site(*site)  # a step does so, a reset does not: the goal would be seen where the last one was
        self._is_done = False
        self._targets: dict[str, float] = dict(zip(JOINTS, np.append(self.hand_target_m, 1.0).tolist(), strict=True))
        self._velocities = np.zeros(len(JOINTS))

    def command(self, targets: Mapping[str, float], /) -> None:
        """Set targets; those not named keep theirs."""
        self._targets.update(targets)

    def step(self, duration_s: float = 1 / STEP_HZ) -> None:
        """Make one step of Meta-World."""
        before, env = self.joint_positions(), self._scene.env
        target = np.array([self._targets[name] for name in JOINTS])
        env.curr_path_length = 0  # the length of an episode is not the robot's business
        self._observation, _, _, _, info = env.step(hand_action(self.hand_target_m, target))
        self._is_done = bool(info["success"])
        self._velocities = (self.joint_positions() - before) / duration_s

    def joint_positions(self) -> np.ndarray:
        """Return position of the hand and opening of the gripper, `(4,)`."""
        return self._observation[:4].copy()

    def joint_velocities(self) -> np.ndarray:
        """Return velocities of the last step, `(4,)` per second."""
        return self._velocities

    def success(self) -> bool:
        """Return whether Meta-World says that the task is done after the last step."""
        return self._is_done

    def freeze(self) -> Scene:
        """Return the scene with a copy of its present state."""
        self._scene.frozen = copy.copy(self._scene.env.data)  # with the goal, which is in no state of MuJoCo
        return self._scene

    def images(self, frozen: Scene | None = None) -> dict[str, np.ndarray]:
        """Return what every camera sees, without shadows: most of the time in software."""
        scene = self.freeze() if frozen is None else frozen
        if scene.renderer is None:
            scene.renderer = _make_renderer(scene.env.model)
        shown = {}
        for camera, name in CAMERAS.items():
            scene.renderer.update_scene(scene.frozen, name)
            pixels = scene.renderer.render()
            shown[camera] = pixels[::-1, ::-1].copy() if name == "corner2" else pixels  # it hangs upside down
        return shown

    def close(self) -> None:
        """Free the cameras."""
        for scene in self._scenes.values():
            if scene.renderer is not None:
                scene.renderer.close()
                scene.renderer = None


def _make_scene(name: str) -> Scene:
    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-goal-observable"]()
    env._freeze_rand_vec, env.seeded_rand_vec = False, True  # a scene for each seed
    model = env.model
    model.cam_pos[model.camera("corner2").id] = CORNER_POSITION_M
    model.cam_fovy[model.camera("corner2").id] = 40
    return Scene(env)


def _make_renderer(model: mujoco.MjModel) -> mujoco.Renderer:
    model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = IMAGE_SIZE
    renderer = mujoco.Renderer(model, IMAGE_SIZE, IMAGE_SIZE)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX):
        renderer.scene.flags[flag] = 0
    return renderer
