# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Task of the simulated arm: the instruction, and where the cubes are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gr00t_bringup.sim.scene import CUBES

# Instructions of demonstrations; the first is that of the scene's own task, the one that the shipped policy knows. Its
# tokenizer cuts each into 8 tokens, with every color: N1 attends to the padding of shorter prompts in a batch, too.
# config/sim_arm/rollout.yaml lists them as well; a test compares.
PHRASES = (
    "put the {color} cube in the bin",
    "place the {color} cube in the bin",
    "drop the {color} cube in the bin",
    "put the {color} block into the bin",
    "move the {color} cube to the bin",
    "move the {color} block into the bin",
    "lift the {color} cube into the bin",
    "pick the {color} cube and bin it",
    "throw away the {color} cube",
)

_UPRIGHT = 0.7  # of the z part of an axis: the axis is closer to vertical than to horizontal


@dataclass(frozen=True)
class CubePose:
    """Pose of a cube in the arm's base frame."""

    position_m: np.ndarray  # (3,)
    quaternion: np.ndarray  # (4,) x y z w

    @property
    def yaw_rad(self) -> float:
        """Direction about z of a horizontal edge: of the cube's x axis, or of its y axis where x stands upright."""
        x, y, z, w = self.quaternion
        if abs(2 * (x * z - w * y)) < _UPRIGHT:
            return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return math.atan2(1 - 2 * (x * x + z * z), 2 * (x * y - w * z))


def task_text(color: str, phrase: int = 0) -> str:
    """Return an instruction to put the cube of this color in the bin; `phrase` selects one of `PHRASES`."""
    return PHRASES[phrase].format(color=color)


def asked_colour(task: str) -> str:
    """Return the cube color that an instruction names.

    Raises:
        ValueError: it names no color, or several.
    """
    named = [color for color in CUBES if color in task.lower().split()]
    if len(named) != 1:
        raise ValueError(f"task '{task}' names {len(named)} cubes, expected one of {', '.join(CUBES)}")
    return named[0]
