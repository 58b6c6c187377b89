# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep commands finite and within position, velocity, acceleration and jerk limits, whatever the policy says.

Every commanded joint needs a limit: what is not allowed by name is refused at configure.

What holds for every command x_k, whatever is asked for and however late it is asked (dt_k is the time since the command
before, at most one control period; v_k = (x_k - x_{k-1}) / dt_k):

    finite        no NaN, no infinity
    position      min <= x_k <= max; where the robot stood outside at the start: never further out than before
    velocity      |v_k| <= max_velocity, in real time as well as per period: a late command does not make up for it
    acceleration  |v_k - v_{k-1}| <= max_acceleration * (dt_k + dt_{k-1}) / 2
    jerk          |third divided difference of x over the times of its commands| <= max_jerk / 6
    start         x_0 is the measured pose, at rest
    stop          `brake` ends at rest within the same limits, and stays there

The first four follow from one rule that is kept from command to command: from where the robot is and as fast as it is,
braking with max_acceleration ends before the position limit. A robot that had no command for more than `MAX_LATE_TICKS`
periods stands, so it starts again from rest.

A channel may be a rate (m/s, rad/s) instead of a position: min and max are then rates, max_velocity is its greatest
change per second. At rest it is zero, so it starts there, and `brake` leads it there; what is said above holds as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from gr00t_policy_node.jerk import JerkFilter
from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting

# Limits of what has none: far beyond any joint, near enough that no product of two overflows.
_FAR, _ANY_ACCELERATION = 1e9, 1e18
_NO_TIME_S = 1e-6  # a difference of positions over less is mostly rounding
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class JointLimit:
    """What one joint may do; for a rate (m/s, rad/s) the position is the rate, and its velocity is how it changes."""

    min: float = setting(description="Smallest position [unit of the action channel]; -.inf where endless.")
    max: float = setting(description="Largest position [unit of the action channel]; .inf where endless.")
    max_velocity: float = setting(
        description="Largest speed [unit of the action channel per second]; .inf: steps go through.", ge=1e-6
    )
    max_acceleration: float | None = setting(
        None, "Largest acceleration [unit of the action channel per second squared]; absent: any.", ge=1e-6
    )
    max_jerk: float | None = setting(
        None, "Largest jerk [unit of the action channel per second cubed]; absent: any.", ge=1e-6
    )
    endless: bool = setting(False, "Whether the joint turns without end: angles go the short way round.")

    def __post_init__(self) -> None:
        if not self.min < self.max:
            raise ValueError(f"min {self.min} is not below max {self.max}")
        if self.endless and (self.min, self.max) != (-math.inf, math.inf):
            raise ValueError(f"endless, but min is {self.min} and max {self.max}; expected -.inf and .inf")
        if self.max_jerk is not None and (self.max_acceleration is None or math.isinf(self.max_velocity)):
            raise ValueError("max_jerk needs max_acceleration and a finite max_velocity")


@dataclass(frozen=True)
class LimitsFile:
    """Content of `limits.yaml`."""

    joints: Mapping[str, JointLimit] = setting(
        default_factory=dict, description="Limits by action channel name; they replace those of a URDF."
    )
    acceleration_per_velocity: float | None = setting(
        None, "Acceleration limit of joints without one: this many times their max_velocity [1/s].", ge=1e-3, le=1e6
    )
    safe_pose: Mapping[str, float] = setting(
        default_factory=dict,
        description="Positions by channel that a latched stop leads to, within limits; other channels stand still.",
    )

    def limits(self, urdf: Mapping[str, JointLimit] | None = None) -> dict[str, JointLimit]:
        """Return the limits by joint, of this file and of a URDF (`limits_from_urdf`)."""
        joints = {**(urdf or {}), **self.joints}
        factor = self.acceleration_per_velocity
        if factor is None:
            return joints
        return {name: _with_acceleration(limit, factor) for name, limit in joints.items()}


class LimitKind(str, Enum):
    """Which limit changed a command."""

    POSITION = "position"
    VELOCITY = "velocity"
    ACCELERATION = "acceleration"
    JERK = "jerk"


@dataclass(frozen=True)
class GuardedCommand:
    """A command that is safe to send."""

    positions: np.ndarray  # (N,) in the guard's joint order
    limited: tuple[str, ...] = ()  # joints whose target was changed
    kinds: frozenset[LimitKind] = frozenset()  # limits that changed them
    violations: tuple[str, ...] = ()  # joints that were told a position or, between two targets, a speed beyond limits


class MotionGuard:
    """Turns targets into commands within limits."""

    # A late control tick must not be repaid with one large step; after this many periods the robot stands.
    MAX_LATE_TICKS = 2.0

    def __init__(
        self, names: Sequence[str], limits: Mapping[str, JointLimit], period_s: float, rates: Collection[str] = ()
    ) -> None:
        """Guard `names`, in this order, at a control period of `period_s`; `rates` are those that are zero at rest.

        Raises:
            ConfigError: a joint has no limit, or a rate has one that does not let it come to zero.
        """
        missing = [name for name in names if name not in limits]
        if missing:
            raise ConfigError(
                f"limits: joint '{missing[0]}' has no entry; every commanded joint needs min, max and max_velocity "
                f"(found {', '.join(limits) or 'none'})"
            )
        self.names = tuple(names)
        own = [limits[name] for name in names]
        for name, limit in zip(names, own, strict=True):
            if name in rates:
                _check_rate(name, limit)
        self._is_rate = np.array([name in rates for name in names], dtype=bool)
        self.endless = tuple(name for name, limit in zip(names, own, strict=True) if limit.endless)
        self.warnings = tuple(
            f"joint '{name}' has no max_acceleration: it starts and stops at any rate"
            for name, limit in zip(names, own, strict=True)
            if limit.max_acceleration is None and name not in rates
        )
        self._low = np.maximum([limit.min for limit in own], -_FAR)
        self._high = np.minimum([limit.max for limit in own], _FAR)
        self._speed = np.array([limit.max_velocity for limit in own])
        self._acceleration = np.array(
            [_ANY_ACCELERATION if limit.max_acceleration is None else limit.max_acceleration for limit in own]
        )
        self._has_jerk = np.array([limit.max_jerk is not None for limit in own], dtype=bool)
        self._jerk_filter = self._make_jerk_filter(own)
        self._period_s = period_s
        self._last: np.ndarray | None = None
        self._forget_motion()

    @property
    def last(self) -> np.ndarray | None:
        """The last command (N,), or the pose the guard was started at."""
        return self._last

    @property
    def velocity(self) -> np.ndarray:
        """Velocity (N,) of the last command, per second."""
        return self._velocity

    @property
    def must_brake(self) -> bool:
        """Whether a joint moves that may not stop at once."""
        is_moving = (self._velocity != 0.0) & (self._acceleration < _ANY_ACCELERATION)
        if self._last is not None:
            is_moving |= self._is_rate & (self._last != 0.0)
        return bool(is_moving.any()) or (self._jerk_filter is not None and not self._jerk_filter.is_at_rest)

    def start_at(self, positions: np.ndarray) -> None:
        """Begin at the measured pose (N,), zero for rates, at rest. Non-finite values are a bug of the caller."""
        assert np.isfinite(positions).all() and positions.shape == self._low.shape
        self._last = positions.astype(np.float64)
        self._forget_motion()
        if self._jerk_filter is not None:
            self._jerk_filter.rest_at(self._last[self._has_jerk])

    def forget(self) -> None:
        """Require a new measured pose before the next command."""
        self._last = None
        self._forget_motion()

    def apply(self, target: np.ndarray, elapsed_s: float) -> GuardedCommand:
        """Return the command nearest to `target` (N,) that is allowed `elapsed_s` after the last one.

        The last command is repeated where no time has passed. A pose outside the position limits is left inwards.

        Raises:
            ValueError: the target is not finite; nothing changes.
        """
        last = self._last
        assert last is not None, "start_at() was not called"
        if target.shape != self._low.shape or not np.isfinite(target).all():
            raise ValueError(f"target {target} is not {len(self.names)} finite values")
        if not elapsed_s > _NO_TIME_S:
            return GuardedCommand(last)
        dt = self._begin_slice(elapsed_s)
        inside = np.minimum(np.maximum(target, self._low), self._high)  # np.clip takes three times as long
        aim = np.zeros_like(inside) if self._target is None else (inside - self._target) / elapsed_s
        violations = (np.abs(target - inside) > _ROUNDING * np.abs(target)) | (np.abs(aim) > self._speed * (1 + 1e-6))
        aim = np.minimum(np.maximum(aim, -self._speed), self._speed)
        wanted = self._wanted_velocity(inside - last, aim, dt)
        goal = inside
        if self._jerk_filter is not None:
            # within the other limits already; what follows only keeps it there whatever the filter does
            goal = inside.copy()
            chosen = self._has_jerk
            goal[chosen] = self._jerk_filter.follow(inside[chosen], aim[chosen], dt)
            wanted[chosen] = (goal[chosen] - last[chosen]) / dt
        self._target = inside
        positions = self._step(wanted, goal, dt)
        limited = positions != target
        if self._jerk_filter is not None:
            chosen = self._has_jerk
            limited[chosen] &= np.abs(positions - target)[chosen] > self._jerk_filter.resolution * dt**3
        names = self._names_of(limited)
        kinds = self._kinds(target, inside, last, limited, dt) if names else frozenset()
        return GuardedCommand(positions, names, kinds, self._names_of(violations))

    def brake(self, elapsed_s: float) -> np.ndarray:
        """Return the next command (N,) on the shortest way to rest; at rest it is repeated.

        Joints without an acceleration limit stop at once. Rates go to zero.
        """
        last = self._last
        assert last is not None, "start_at() was not called"
        self._target = None
        if not elapsed_s > _NO_TIME_S:
            return last
        dt = self._begin_slice(elapsed_s)
        goal = np.where(self._is_rate, 0.0, last)
        wanted = self._wanted_velocity(goal - last, np.zeros_like(last), dt)
        if self._jerk_filter is not None:
            chosen = self._has_jerk
            goal[chosen] = self._jerk_filter.brake(dt)
            wanted[chosen] = (goal[chosen] - last[chosen]) / dt
        return self._step(wanted, goal, dt)

    def braking(self) -> Iterator[np.ndarray]:
        """Yield the commands (N,), a control period apart, until the robot is at rest; none if it may stop at once."""
        while self._last is not None and self.must_brake:
            yield self.brake(self._period_s)

    def _make_jerk_filter(self, limits: Sequence[JointLimit]) -> JerkFilter | None:
        jerks = [limit.max_jerk for limit in limits if limit.max_jerk is not None]
        if not jerks:
            return None
        chosen = self._has_jerk
        return JerkFilter(
            self._low[chosen], self._high[chosen], self._speed[chosen], self._acceleration[chosen], np.array(jerks)
        )

    def _forget_motion(self) -> None:
        self._velocity = np.zeros_like(self._low)
        self._dt_before = 0.0
        self._target: np.ndarray | None = None

    def _begin_slice(self, elapsed_s: float) -> float:
        """Return the time that the next command may use."""
        if elapsed_s > self.MAX_LATE_TICKS * self._period_s:
            assert self._last is not None
            self.start_at(self._last)
        return min(elapsed_s, self._period_s)

    def _wanted_velocity(self, way: np.ndarray, aim: np.ndarray, dt: float) -> np.ndarray:
        """Return the velocity that reaches a target which moves on with `aim`, and has that velocity there."""
        excess = way - aim * dt
        return aim + np.sign(excess) * approach_speed(np.abs(excess), self._acceleration, dt)

    def _step(self, wanted: np.ndarray, goal: np.ndarray, dt: float) -> np.ndarray:
        """Go on with the velocity closest to `wanted` that is allowed; end at `goal` exactly where that is reached."""
        last = self._last
        assert last is not None
        # a trace more than exact: rounding must not leave a trace of speed, which would take one tick more to lose
        change = self._acceleration * (0.5 * (1 + 1e-9) * (dt + self._dt_before))
        ahead = approach_speed(np.maximum(self._high - last, 0.0), self._acceleration, dt)
        behind = approach_speed(np.maximum(last - self._low, 0.0), self._acceleration, dt)
        fastest = np.minimum(np.minimum(self._speed, self._velocity + change), ahead)
        slowest = np.maximum(np.maximum(-self._speed, self._velocity - change), -behind)
        velocity = np.minimum(np.maximum(wanted, slowest), fastest)
        positions = last + velocity * dt
        reached = np.abs(positions - goal) <= _ROUNDING * np.maximum(np.abs(goal), np.abs(last))
        positions = np.where(reached, goal, positions)
        # where the robot started outside, its own position is the limit; elsewhere this takes away rounding alone
        positions = np.minimum(np.maximum(positions, np.minimum(self._low, last)), np.maximum(self._high, last))
        positions.flags.writeable = False  # it is the state of the guard too
        self._velocity, self._dt_before, self._last = velocity, dt, positions
        return positions

    def _kinds(
        self, target: np.ndarray, inside: np.ndarray, last: np.ndarray, limited: np.ndarray, dt: float
    ) -> frozenset[LimitKind]:
        kinds = set()
        if (limited & (target != inside)).any():
            kinds.add(LimitKind.POSITION)
        is_fast = np.abs(inside - last) > self._speed * dt * (1 + 1e-9)
        if (limited & is_fast).any():
            kinds.add(LimitKind.VELOCITY)
        lagging = limited & ~is_fast & (self._last != inside)
        if (lagging & ~self._has_jerk).any():
            kinds.add(LimitKind.ACCELERATION)
        if (lagging & self._has_jerk).any():
            kinds.add(LimitKind.JERK)
        return frozenset(kinds)

    def _names_of(self, chosen: np.ndarray) -> tuple[str, ...]:
        return tuple(self.names[i] for i in chosen.nonzero()[0]) if chosen.any() else ()


def approach_speed(distance: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """Return the largest velocity of a step of `dt` after which braking still ends within `distance` (>= 0).

    A step with v uses v dt. Braking from then on, the velocity falls along a line through v in the middle of the step,
    so it needs at most (v - a dt / 2)^2 / (2 a) more, however long the steps that follow are.
    """
    near = distance / dt
    far = np.sqrt(2.0 * acceleration * distance) - 0.5 * acceleration * dt
    return np.where(distance <= 0.5 * acceleration * dt * dt, near, far)


def _check_rate(name: str, limit: JointLimit) -> None:
    if not limit.min <= 0.0 <= limit.max:
        raise ConfigError(
            f"limits: '{name}' is a rate, its limits {limit.min} to {limit.max} do not let it come to rest; "
            "have 0 inside"
        )
    if limit.max_jerk is not None or limit.endless:
        raise ConfigError(f"limits: '{name}' is a rate, for which neither max_jerk nor endless is; leave them out")


def _with_acceleration(limit: JointLimit, factor: float) -> JointLimit:
    if limit.max_acceleration is not None or math.isinf(limit.max_velocity):
        return limit
    return replace(limit, max_acceleration=factor * limit.max_velocity)
