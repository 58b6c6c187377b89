# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Guard rates (m/s, rad/s): they start at zero, and a brake leads them to zero.

The limits of a rate are those of its value: min and max are rates, max_velocity is its greatest change per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gr00t_policy_node.safety.bounds import ANY_ACCELERATION, Bounds, Followed, Motion
from gr00t_policy_node.safety.limits import JointLimit, LimitKind
from gr00t_training.errors import ConfigError


class RateGuard:
    """Limits of N rates."""

    def __init__(self, limits: Mapping[str, JointLimit]) -> None:
        """Guard the rates of `limits`, in its order; ConfigError if one does not include zero."""
        for name, limit in limits.items():
            _check(name, limit)
        self._bounds = Bounds.of(list(limits.values()))

    def start_at(self, rates: np.ndarray) -> Motion:
        """Return the motion that begins with `rates` (N,), unchanging."""
        return Motion(rates, np.zeros_like(rates))

    def must_brake(self, motion: Motion) -> bool:
        """Whether a rate is not zero, or changes and may not stop that at once."""
        is_changing = (motion.velocity != 0.0) & (self._bounds.acceleration < ANY_ACCELERATION)
        return bool((is_changing | (motion.last != 0.0)).any())

    def follow(self, motion: Motion, target: np.ndarray, elapsed_s: float, dt: float) -> Followed:
        """Command the allowed rates nearest to `target` (N,); arguments as of `PositionGuard.follow`."""
        bounds = self._bounds
        aim = bounds.aim_at(target, motion, elapsed_s)
        wanted = bounds.wanted_velocity(aim.inside - motion.last, aim.velocity, dt)
        after = replace(bounds.advance(motion, wanted, aim.inside, dt), target=aim.inside)
        limited = after.last != target
        if not limited.any():
            return Followed(after, limited, frozenset(), aim.violations)
        kinds, lagging = bounds.reached_limits(target, aim, motion, after, limited, dt)
        if lagging.any():
            kinds.add(LimitKind.ACCELERATION)
        return Followed(after, limited, frozenset(kinds), aim.violations)

    def brake(self, motion: Motion, dt: float) -> Motion:
        """Return the motion `dt` later on the shortest way to zero."""
        zero = np.zeros_like(motion.last)
        wanted = self._bounds.wanted_velocity(zero - motion.last, zero, dt)
        return self._bounds.advance(motion, wanted, zero, dt)


def _check(name: str, limit: JointLimit) -> None:
    if not limit.min <= 0.0 <= limit.max:
        raise ConfigError(f"limits: rate '{name}' is limited to {limit.min} to {limit.max} and cannot stop; include 0")
    if limit.max_jerk is not None or limit.endless:
        raise ConfigError(f"limits: rate '{name}' has max_jerk or endless, which are for positions; leave them out")
