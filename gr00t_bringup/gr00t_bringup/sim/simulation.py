# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a simulator must offer to be a ROS 2 robot of `ros/simulation_node.py`; without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np


class Simulation(Protocol):
    """A robot in its scene. Methods may be called from any thread; images come from one thread only."""

    @property
    def joints(self) -> Sequence[str]:
        """Names of what can be commanded, in the order of the positions."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the cameras."""
        ...

    @property
    def task(self) -> str:
        """Instruction of the current episode."""
        ...

    def reset(self, seed: int, task: str = "") -> None:
        """Start an episode: equal seeds and tasks give equal scenes; an empty task is chosen by the seed.

        Raises:
            ValueError: there is no such task.
        """
        ...

    def command(self, targets: Mapping[str, float], /) -> None:
        """Set targets of joints by name; those not named keep theirs."""
        ...

    def step(self, duration_s: float) -> None:
        """Advance by a tick."""
        ...

    def joint_positions(self) -> np.ndarray:
        """Return positions `(D,)` in the order of `joints`."""
        ...

    def joint_velocities(self) -> np.ndarray:
        """Return velocities `(D,)` per second."""
        ...

    def success(self) -> bool:
        """Return whether the task is done."""
        ...

    def freeze(self) -> Any:
        """Return a copy of the present state to render from, valid until the next call."""
        ...

    def images(self, frozen: Any = None) -> dict[str, np.ndarray]:
        """Return what every camera sees, `(H, W, 3)` uint8 RGB by name: now, or at the time of `freeze`."""
        ...

    def close(self) -> None:
        """Free the cameras; on the thread that rendered."""
        ...
