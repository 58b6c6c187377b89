# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tasks and units of the Meta-World robot; needs neither Meta-World nor ROS.

Meta-World moves its hand by up to a centimeter per axis and step, and knows no rate: here it makes STEP_HZ steps a
second, slow enough for cameras that are rendered in software.
"""

from __future__ import annotations

import numpy as np

# instruction -> Meta-World's name
TASKS = {
    "reach the red goal": "reach-v3",
    "push the puck to the green goal": "push-v3",
    "pick up the puck and bring it to the blue goal": "pick-place-v3",
    "open the drawer": "drawer-open-v3",
    "press the button from above": "button-press-topdown-v3",
}
STEP_HZ = 10
STEP_M = 0.01  # of the hand per axis, Meta-World's action 1
CAMERAS = {"corner2": "corner2", "wrist": "gripperPOV"}  # name of the topic -> Meta-World's
JOINTS = ("x", "y", "z", "gripper")  # [m]; the gripper's opening is 0 (closed) to 1


def task_name(task: str) -> str:
    """Return Meta-World's name for an instruction.

    Raises:
        ValueError: there is none.
    """
    if task not in TASKS:
        raise ValueError(f"task '{task}' does not exist, expected one of: {'; '.join(TASKS)}")
    return TASKS[task]


def hand_target(hand_m: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Return what a Meta-World action `(4,)` commands from a target of the hand `(3,)`, in the order of `JOINTS`."""
    bounded = np.clip(action, -1.0, 1.0)
    return np.append(hand_m + STEP_M * bounded[:3], (1.0 - bounded[3]) / 2)


def hand_action(hand_m: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the Meta-World action that leads from a target of the hand `(3,)` to `target` `(4,)`, within one step."""
    return np.clip(np.append((target[:3] - hand_m) / STEP_M, 1.0 - 2.0 * target[3]), -1.0, 1.0)
