# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the ends of the arms are about to go: predicted chunks through the joints of a URDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_bringup.views.kinematics import UrdfTree
from gr00t_bringup.views.robot import ViewedRobot
from gr00t_recorder.topics.units import UNITS, si_factor
from gr00t_training.errors import ConfigError

POSITION_KINDS = ("angle", "length")


@dataclass(frozen=True)
class TipPath:
    """Positions of one link over the rows of a chunk."""

    tip: str
    points: np.ndarray  # (H, 3) [m] in the root's frame


class PathPlanner:
    """Computes the paths of some links from chunks and the measured joints."""

    def __init__(self, robot: ViewedRobot, xml: str, tips: Sequence[str] = ()) -> None:
        """Find the links.

        Args:
            robot: whose action is predicted.
            xml: URDF.
            tips: links to follow; empty: the end of each commanded arm.

        Raises:
            ConfigError: a link or URDF that cannot be used, or no channel of the action is a joint of the URDF.
        """
        self._tree = UrdfTree(xml)
        self.root = self._tree.root
        self._factors = {
            name: si_factor(unit)
            for name, unit in robot.units.items()
            if UNITS.get(unit, ("",))[0] in POSITION_KINDS  # rates and ratios are no positions of a joint
        }
        action = robot.embodiment.action
        self.tips = tuple(tips) or self._tree.hands(
            [name for name in action[key].names if name in self._factors] for key in robot.embodiment.action_keys
        )
        if not self.tips:
            raise ConfigError(
                "the action has no arm of the URDF (three joints in one chain with their names); name links with --tip"
            )
        self._needed = {tip: self._tree.moving(tip) for tip in self.tips}

    def paths(
        self, names: Sequence[str], rows: np.ndarray, measured: Mapping[str, float]
    ) -> tuple[list[TipPath], dict[str, str]]:
        """Compute the paths.

        Args:
            names: channels of the chunk.
            rows: (H, N) in their units.
            measured: positions of joints [rad or m], for those that the chunk does not command.

        Returns:
            The paths, and by tip without one the joint whose position is not known.
        """
        commanded = {name: rows[:, i] * self._factors[name] for i, name in enumerate(names) if name in self._factors}
        found, unknown = [], {}
        for tip, needed in self._needed.items():
            missing = [name for name in needed if name not in commanded and name not in measured]
            if missing:
                unknown[tip] = missing[0]
                continue
            positions = {
                name: commanded[name] if name in commanded else np.full(len(rows), measured[name]) for name in needed
            }
            points = self._tree.frames(tip, positions)[:, :3, 3]
            found.append(TipPath(tip, np.broadcast_to(points, (len(rows), 3))))
        return found, unknown
