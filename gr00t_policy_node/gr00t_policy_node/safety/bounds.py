# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One command within position, velocity and acceleration limits: the arithmetic that both guards share.

From where a channel is and as fast as it moves, braking with its acceleration ends before its position limit. That is
kept from command to command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gr00t_policy_node.safety.jerk import JerkState
from gr00t_policy_node.safety.limits import JointLimit, LimitKind

# Substitutes for absent limits: far beyond any joint, near enough that no product of two overflows.
_FAR, ANY_ACCELERATION = 1e9, 1e18
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Motion:
    """What a guard remembers of its last command."""

    last: np.ndarray  # (N,) the command, or the position it started at
    velocity: np.ndarray  # (N,) per second
    dt_before: float = 0.0  # [s]
    target: np.ndarray | None = None  # (N,) of the last command, within limits; None: it braked, or it is the first
    jerk: JerkState | None = None  # of the joints with a jerk limit


class Aim(NamedTuple):
    """A target and how it moves."""

    inside: np.ndarray  # (N,) the target within position limits
    velocity: np.ndarray  # (N,) of the target, within velocity limits
    violations: np.ndarray  # (N,) whether the target, or its speed, was beyond limits


class Followed(NamedTuple):
    """A command that follows a target."""

    motion: Motion
    limited: np.ndarray  # (N,) whether the command is not the target
    kinds: frozenset[LimitKind]  # limits that changed it
    violations: np.ndarray  # (N,)


@dataclass(frozen=True)
class Bounds:
    """Limits of N channels."""

    low: np.ndarray
    high: np.ndarray
    speed: np.ndarray  # per second
    acceleration: np.ndarray  # per second squared

    @classmethod
    def of(cls, limits: Sequence[JointLimit]) -> Bounds:
        """Return the limits as arrays, with finite substitutes for absent ones."""
        return cls(
            np.maximum([limit.min for limit in limits], -_FAR),
            np.minimum([limit.max for limit in limits], _FAR),
            np.array([limit.max_velocity for limit in limits]),
            np.array([ANY_ACCELERATION if each.max_acceleration is None else each.max_acceleration for each in limits]),
        )

    def aim_at(self, target: np.ndarray, motion: Motion, elapsed_s: float) -> Aim:
        """Return what of a target (N,) is within limits, `elapsed_s` after the last one."""
        inside = np.minimum(np.maximum(target, self.low), self.high)  # np.clip takes three times as long
        velocity = np.zeros_like(inside) if motion.target is None else (inside - motion.target) / elapsed_s
        is_outside = np.abs(target - inside) > _ROUNDING * np.abs(target)
        violations = is_outside | (np.abs(velocity) > self.speed * (1 + 1e-6))
        return Aim(inside, np.minimum(np.maximum(velocity, -self.speed), self.speed), violations)

    def wanted_velocity(self, way: np.ndarray, aim: np.ndarray, dt: float) -> np.ndarray:
        """Return the velocity that reaches a target which moves on with `aim`, and has that velocity there."""
        excess = way - aim * dt
        return aim + np.sign(excess) * approach_speed(np.abs(excess), self.acceleration, dt)

    def advance(self, motion: Motion, wanted: np.ndarray, goal: np.ndarray, dt: float) -> Motion:
        """Move with the allowed velocity closest to `wanted`; stop exactly at `goal` when it is reached."""
        last = motion.last
        # slightly more than exact: rounding must not leave a rest of speed, which would take one more tick to lose
        change = self.acceleration * (0.5 * (1 + 1e-9) * (dt + motion.dt_before))
        ahead = approach_speed(np.maximum(self.high - last, 0.0), self.acceleration, dt)
        behind = approach_speed(np.maximum(last - self.low, 0.0), self.acceleration, dt)
        fastest = np.minimum(np.minimum(self.speed, motion.velocity + change), ahead)
        slowest = np.maximum(np.maximum(-self.speed, motion.velocity - change), -behind)
        velocity = np.minimum(np.maximum(wanted, slowest), fastest)
        positions = last + velocity * dt
        reached = np.abs(positions - goal) <= _ROUNDING * np.maximum(np.abs(goal), np.abs(last))
        positions = np.where(reached, goal, positions)
        # where it started outside, its own position is the limit; elsewhere this removes rounding only
        positions = np.minimum(np.maximum(positions, np.minimum(self.low, last)), np.maximum(self.high, last))
        return Motion(positions, velocity, dt)

    def reached_limits(
        self, target: np.ndarray, aim: Aim, before: Motion, after: Motion, limited: np.ndarray, dt: float
    ) -> tuple[set[LimitKind], np.ndarray]:
        """Return which of the position and velocity limits changed a command, and which channels (N,) lag otherwise."""
        kinds = set()
        if (limited & (target != aim.inside)).any():
            kinds.add(LimitKind.POSITION)
        is_fast = np.abs(aim.inside - before.last) > self.speed * dt * (1 + 1e-9)
        if (limited & is_fast).any():
            kinds.add(LimitKind.VELOCITY)
        return kinds, limited & ~is_fast & (after.last != aim.inside)


def approach_speed(distance: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """Return the largest velocity of a step of `dt` after which braking still ends within `distance` (>= 0).

    A step with v uses v dt. Braking from then on, the velocity falls along a line through v in the middle of the step,
    so it needs at most (v - a dt / 2)^2 / (2 a) more, however long the steps that follow are.
    """
    near = distance / dt
    far = np.sqrt(2.0 * acceleration * distance) - 0.5 * acceleration * dt
    return np.where(distance <= 0.5 * acceleration * dt * dt, near, far)
