# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep commands finite and within position and velocity limits, whatever the policy says.

Every commanded joint needs a limit: what is not allowed by name is refused at configure. The first command starts at
the measured pose, so the first chunk can never make the robot jump.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting


@dataclass(frozen=True)
class JointLimit:
    """What one joint may do."""

    min: float = setting(description="Smallest position [unit of the action channel].")
    max: float = setting(description="Largest position [unit of the action channel].")
    max_velocity: float = setting(description="Largest speed [unit of the action channel per second].", ge=1e-6)

    def __post_init__(self) -> None:
        if not self.min < self.max:
            raise ValueError(f"min {self.min} is not below max {self.max}")


@dataclass(frozen=True)
class LimitsFile:
    """Content of `limits.yaml`."""

    joints: Mapping[str, JointLimit] = setting(description="Limits by action channel name.")


@dataclass(frozen=True)
class GuardedCommand:
    """A command that is safe to send."""

    positions: np.ndarray  # (N,) in the guard's joint order
    limited: tuple[str, ...]  # joints whose target was changed


class MotionGuard:
    """Clips targets to position limits and the step from the last command to the velocity limit."""

    # A late control tick must not be repaid with one large step.
    MAX_LATE_TICKS = 2.0

    def __init__(self, names: Sequence[str], limits: Mapping[str, JointLimit], period_s: float) -> None:
        """Guard `names`, in this order, at a control period of `period_s`.

        Raises:
            ConfigError: a joint has no limit.
        """
        missing = [name for name in names if name not in limits]
        if missing:
            raise ConfigError(
                f"limits: joint '{missing[0]}' has no entry; every commanded joint needs min, max and max_velocity "
                f"(found {', '.join(limits) or 'none'})"
            )
        self.names = tuple(names)
        self._low = np.array([limits[name].min for name in names])
        self._high = np.array([limits[name].max for name in names])
        self._speed = np.array([limits[name].max_velocity for name in names])
        self._period_s = period_s
        self._last: np.ndarray | None = None

    @property
    def last(self) -> np.ndarray | None:
        """The last command (N,), or the pose the guard was started at."""
        return self._last

    def start_at(self, positions: np.ndarray) -> None:
        """Begin at the measured pose (N,). Non-finite values are a bug of the caller."""
        assert np.isfinite(positions).all() and positions.shape == self._low.shape
        self._last = positions.astype(np.float64)

    def forget(self) -> None:
        """Require a new measured pose before the next command."""
        self._last = None

    def apply(self, target: np.ndarray, elapsed_s: float) -> GuardedCommand:
        """Return the command nearest to `target` (N,) that is allowed `elapsed_s` after the last one.

        A pose outside the position limits is left at the velocity limit, without a jump.

        Raises:
            ValueError: the target is not finite; nothing changes.
        """
        assert self._last is not None, "start_at() was not called"
        if target.shape != self._low.shape or not np.isfinite(target).all():
            raise ValueError(f"target {target} is not {len(self.names)} finite values")
        reach = self._speed * min(max(elapsed_s, 0.0), self.MAX_LATE_TICKS * self._period_s)
        inside = np.clip(target, self._low, self._high)
        positions = np.clip(inside, self._last - reach, self._last + reach)
        limited = tuple(np.array(self.names)[positions != target].tolist())
        self._last = positions
        return GuardedCommand(positions, limited)
