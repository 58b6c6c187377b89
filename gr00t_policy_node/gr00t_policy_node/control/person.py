# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a person's device asks for, and the rules by which the person takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from gr00t_training.settings import setting


class TeleopMode(str, Enum):
    """When a person may command."""

    NEVER = "never"
    TASK = "task"  # while a task runs
    ALWAYS = "always"  # also without a task, to give demonstrations


class Engage(str, Enum):
    """What happens when a person engages whose target is far from the robot."""

    APPROACH = "approach"  # the robot goes there slowly, then follows
    ALIGN = "align"  # the robot waits until the person's device is near, then follows


@dataclass(frozen=True)
class TakeoverRules:
    """Who may take over, how control passes, and when a person's link is dead."""

    mode: TeleopMode = setting(TeleopMode.TASK, "When a person may command: never, task or always.")
    engage: Engage = setting(Engage.APPROACH, "Far from a person's target: approach it slowly, or wait for it.")
    link_timeout_s: float = setting(0.1, "A silent device of a person in control holds the robot after this time [s].")
    align_s: float = setting(0.05, "A target that a joint reaches in this time at full speed is near [s].")
    approach_speed: float = setting(0.2, "Speed of the approach, as a share of max_velocity.")


@dataclass(frozen=True)
class Request:
    """What the device of one person asks for."""

    names: Sequence[str] = ()
    positions: Sequence[float] = ()  # by `names`
    rate_names: Sequence[str] = ()
    rates: Sequence[float] = ()  # by `rate_names`, per second


@dataclass(frozen=True)
class Person:
    """An engaged device and its newest request."""

    target: np.ndarray  # (N,) NaN where the channel is not named
    rates: np.ndarray  # (N,) per second, of channels that move on from the last command; zero elsewhere
    at_ns: int | None  # of the newest request, node clock; None: the clock was set back since
    must_release: bool = False  # a stop, a reset or a deactivation came: it must disengage before it may command

    def is_live(self, now_ns: int, timeout_s: float) -> bool:
        """Return whether the newest request is young enough."""
        return self.at_ns is not None and now_ns - self.at_ns <= round(timeout_s * 1e9)
