# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep commands finite and within position, velocity, acceleration and jerk limits, whatever the policy asks for.

What holds for every command x_k, whatever is asked for and however late it is asked (dt_k is the time since the command
before, at most one control period; v_k = (x_k - x_{k-1}) / dt_k):

    finite        no NaN, no infinity
    position      min <= x_k <= max; where the robot was outside at the start: never further out than before
    velocity      |v_k| <= max_velocity, in real time as well as per period: a late command does not make up for it
    acceleration  |v_k - v_{k-1}| <= max_acceleration * (dt_k + dt_{k-1}) / 2
    jerk          |third divided difference of x over the times of its commands| <= max_jerk / 6
    start         x_0 is the measured pose, at rest; of a rate it is zero
    stop          `brake` ends at rest within the same limits, and stays there; a rate ends at zero

A robot that had no command for more than `MAX_LATE_TICKS` periods is at rest, so it starts again from rest.

Positions and rates have a guard each; this one takes a command apart and joins what they allow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gr00t_policy_node.safety.bounds import Motion
from gr00t_policy_node.safety.limits import JointLimit, LimitKind
from gr00t_policy_node.safety.position_guard import PositionGuard
from gr00t_policy_node.safety.rate_guard import RateGuard
from gr00t_training.errors import ConfigError

_NO_TIME_S = 1e-6  # a difference of positions over less is mostly rounding


@dataclass(frozen=True)
class GuardState:
    """What the guard remembers of its last command."""

    last: np.ndarray  # (N,) the command, or the pose it started at; not to be written to
    motions: tuple[Motion, ...]  # of its parts


@dataclass(frozen=True)
class GuardedCommand:
    """A command that is safe to send."""

    positions: np.ndarray  # (N,) in the guard's joint order
    limited: tuple[str, ...] = ()  # joints with a changed target
    kinds: frozenset[LimitKind] = frozenset()  # limits that changed them
    violations: tuple[str, ...] = ()  # joints with a target, or a speed between two targets, beyond limits


class MotionGuard:
    """Turns targets into commands within limits; its state is passed in and out."""

    # A late control tick must not cause one large step; after this many periods the robot is at rest.
    MAX_LATE_TICKS = 2.0

    def __init__(
        self, names: Sequence[str], limits: Mapping[str, JointLimit], period_s: float, rates: Collection[str] = ()
    ) -> None:
        """Guard `names`, in this order, at a control period of `period_s`; `rates` are those that are zero at rest.

        Raises:
            ConfigError: a joint has no limit, or the limits of a rate do not include zero.
        """
        missing = [name for name in names if name not in limits]
        if missing:
            raise ConfigError(
                f"limits: joint '{missing[0]}' has no entry; every commanded joint needs min, max and max_velocity "
                f"(found {', '.join(limits) or 'none'})"
            )
        self.names = tuple(names)
        self._period_s = period_s
        positions = {name: limits[name] for name in names if name not in rates}
        changing = {name: limits[name] for name in names if name in rates}
        rate_guard, position_guard = RateGuard(changing), PositionGuard(positions)
        self.endless, self.warnings = position_guard.endless, position_guard.warnings
        self._parts: list[tuple[list[int] | slice, PositionGuard | RateGuard]] = []
        for own, guard in ((positions, position_guard), (changing, rate_guard)):
            if own:
                is_all = len(own) == len(names)
                self._parts.append((slice(None) if is_all else [names.index(name) for name in own], guard))

    def start_at(self, positions: np.ndarray) -> GuardState:
        """Begin at the measured pose (N,), zero for rates, at rest. Non-finite values are a bug of the caller."""
        assert np.isfinite(positions).all() and positions.shape == (len(self.names),)
        last = positions.astype(np.float64)
        return GuardState(last, tuple(guard.start_at(last[places]) for places, guard in self._parts))

    def must_brake(self, state: GuardState) -> bool:
        """Whether a joint moves that may not stop at once, or a rate is not zero."""
        return any(guard.must_brake(motion) for (_, guard), motion in zip(self._parts, state.motions, strict=True))

    def retargeted(self, state: GuardState) -> GuardState:
        """Return the state that does not know how its target moved: the next one comes from somebody else."""
        return replace(state, motions=tuple(replace(motion, target=None) for motion in state.motions))

    def apply(self, state: GuardState, target: np.ndarray, elapsed_s: float) -> tuple[GuardState, GuardedCommand]:
        """Return the command nearest to `target` (N,) that is allowed `elapsed_s` after the last one.

        The last command is repeated where no time has passed. A pose outside the position limits is left inwards.

        Raises:
            ValueError: the target is not finite.
        """
        if target.shape != (len(self.names),) or not np.isfinite(target).all():
            raise ValueError(f"target {target} is not {len(self.names)} finite values")
        if not elapsed_s > _NO_TIME_S:
            return state, GuardedCommand(state.last)
        state, dt = self._resume(state, elapsed_s)
        found = [
            guard.follow(motion, target[places], elapsed_s, dt)
            for (places, guard), motion in zip(self._parts, state.motions, strict=True)
        ]
        state = self._joined(tuple(each.motion for each in found))
        return state, GuardedCommand(
            state.last,
            self._names_of([each.limited for each in found]),
            frozenset().union(*(each.kinds for each in found)),
            self._names_of([each.violations for each in found]),
        )

    def brake(self, state: GuardState, elapsed_s: float) -> GuardState:
        """Return the state after the next command on the shortest way to rest; at rest the command is repeated."""
        if not elapsed_s > _NO_TIME_S:
            return self.retargeted(state)
        state, dt = self._resume(state, elapsed_s)
        parts = zip(self._parts, state.motions, strict=True)
        return self._joined(tuple(guard.brake(motion, dt) for (_, guard), motion in parts))

    def braking(self, state: GuardState) -> Iterator[GuardState]:
        """Yield the states, a control period apart, until the robot is at rest; none if it may stop at once."""
        while self.must_brake(state):
            state = self.brake(state, self._period_s)
            yield state

    def _resume(self, state: GuardState, elapsed_s: float) -> tuple[GuardState, float]:
        """Return the state, at rest after a pause, and the time that the next command may use."""
        if elapsed_s > self.MAX_LATE_TICKS * self._period_s:
            state = self.start_at(state.last)
        return state, min(elapsed_s, self._period_s)

    def _joined(self, motions: tuple[Motion, ...]) -> GuardState:
        last = np.empty(len(self.names))
        for (places, _), motion in zip(self._parts, motions, strict=True):
            last[places] = motion.last
        last.flags.writeable = False  # a command, and the state of the guard
        return GuardState(last, motions)

    def _names_of(self, chosen: Sequence[np.ndarray]) -> tuple[str, ...]:
        """Return the channels that the masks of the parts choose, in the order of the guard."""
        if not any(part.any() for part in chosen):
            return ()
        mask = np.empty(len(self.names), dtype=bool)
        for (places, _), part in zip(self._parts, chosen, strict=True):
            mask[places] = part
        return tuple(self.names[i] for i in mask.nonzero()[0])
