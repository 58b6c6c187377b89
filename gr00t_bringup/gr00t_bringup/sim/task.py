# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Task of the simulated arm: the instruction, and where the cubes are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gr00t_bringup.sim.scene import CUBES


@dataclass(frozen=True)
class CubePose:
    """Pose of a cube in the arm's base frame."""

    position_m: np.ndarray  # (3,)
    quaternion: np.ndarray  # (4,) x y z w

    @property
    def yaw_rad(self) -> float:
        """Direction of the cube's x axis about z."""
        x, y, z, w = self.quaternion
        return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def task_text(color: str) -> str:
    """Return the instruction to put the cube of this color in the bin."""
    return f"put the {color} cube in the bin"


def asked_colour(task: str) -> str:
    """Return the cube color that an instruction names.

    Raises:
        ValueError: it names no color, or several.
    """
    named = [color for color in CUBES if color in task.lower().split()]
    if len(named) != 1:
        raise ValueError(f"task '{task}' names {len(named)} cubes, expected one of {', '.join(CUBES)}")
    return named[0]
