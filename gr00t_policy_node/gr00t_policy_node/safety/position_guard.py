# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Guard positions: joints start at the measured pose, and after a brake they stay where they stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gr00t_policy_node.safety.bounds import ANY_ACCELERATION, Bounds, Followed, Motion
from gr00t_policy_node.safety.jerk import JerkFilter
from gr00t_policy_node.safety.limits import JointLimit, LimitKind


class PositionGuard:
    """Limits of N joints; all of them may have a jerk limit, too."""

    def __init__(self, limits: Mapping[str, JointLimit]) -> None:
        """Guard the joints of `limits`, in its order."""
        own = list(limits.values())
        self.endless = tuple(name for name, limit in limits.items() if limit.endless)
        free = [f"'{name}'" for name, limit in limits.items() if limit.max_acceleration is None]
        self.warnings = (f"no max_acceleration, start and stop at any rate: {', '.join(free)}",) if free else ()
        self._bounds = Bounds.of(own)
        self._has_jerk = np.array([limit.max_jerk is not None for limit in own], dtype=bool)
        self._filter = self._jerk_filter([limit.max_jerk for limit in own if limit.max_jerk is not None])

    def start_at(self, positions: np.ndarray) -> Motion:
        """Return the motion that begins at `positions` (N,), at rest."""
        jerk = self._filter.rest_at(positions[self._has_jerk]) if self._filter is not None else None
        return Motion(positions, np.zeros_like(positions), jerk=jerk)

    def must_brake(self, motion: Motion) -> bool:
        """Whether a joint moves that may not stop at once."""
        is_moving = (motion.velocity != 0.0) & (self._bounds.acceleration < ANY_ACCELERATION)
        return bool(is_moving.any()) or (motion.jerk is not None and not motion.jerk.is_at_rest)

    def follow(self, motion: Motion, target: np.ndarray, elapsed_s: float, dt: float) -> Followed:
        """Command the allowed positions nearest to `target` (N,).

        Args:
            motion: so far.
            target: finite.
            elapsed_s: time since the last command.
            dt: the part of it that may be used.
        """
        bounds = self._bounds
        aim = bounds.aim_at(target, motion, elapsed_s)
        wanted = bounds.wanted_velocity(aim.inside - motion.last, aim.velocity, dt)
        goal, jerk = aim.inside, motion.jerk
        chosen = self._has_jerk
        if self._filter is not None and jerk is not None:
            # within the other limits already; `advance` only keeps it there whatever the filter does
            jerk = self._filter.follow(jerk, aim.inside[chosen], aim.velocity[chosen], dt)
            goal = aim.inside.copy()
            goal[chosen] = jerk.position
            wanted[chosen] = (goal[chosen] - motion.last[chosen]) / dt
        after = replace(bounds.advance(motion, wanted, goal, dt), target=aim.inside, jerk=jerk)
        limited = after.last != target
        if self._filter is not None:
            limited[chosen] &= np.abs(after.last - target)[chosen] > self._filter.resolution * dt**3
        if not limited.any():
            return Followed(after, limited, frozenset(), aim.violations)
        kinds, lagging = bounds.reached_limits(target, aim, motion, after, limited, dt)
        if (lagging & ~chosen).any():
            kinds.add(LimitKind.ACCELERATION)
        if (lagging & chosen).any():
            kinds.add(LimitKind.JERK)
        return Followed(after, limited, frozenset(kinds), aim.violations)

    def brake(self, motion: Motion, dt: float) -> Motion:
        """Return the motion `dt` later on the shortest way to rest; without an acceleration limit that is at once."""
        goal, jerk = motion.last.copy(), motion.jerk
        wanted = self._bounds.wanted_velocity(np.zeros_like(goal), np.zeros_like(goal), dt)
        if self._filter is not None and jerk is not None:
            chosen = self._has_jerk
            jerk = self._filter.brake(jerk, dt)
            goal[chosen] = jerk.position
            wanted[chosen] = (goal[chosen] - motion.last[chosen]) / dt
        return replace(self._bounds.advance(motion, wanted, goal, dt), jerk=jerk)

    def _jerk_filter(self, jerks: list[float]) -> JerkFilter | None:
        if not jerks:
            return None
        chosen, bounds = self._has_jerk, self._bounds
        return JerkFilter(
            bounds.low[chosen], bounds.high[chosen], bounds.speed[chosen], bounds.acceleration[chosen], np.array(jerks)
        )
