# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Follow a target with bounded jerk.

Each joint moves with constant jerk from tick to tick. A jerk is chosen only when the quickest stop from the state that
it leads to stays within position and velocity limits; where there is none, the stop that was found a tick before is
executed. So there is always a way to rest within all limits, for ticks of any length.

Letters in shapes: M joints, K jerks to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Two rounds of so many jerks each: the finest difference is 1/256 of max_jerk. An odd number has zero among them.
_CHOICES = np.linspace(-1.0, 1.0, 33)
_ROUNDING = 1e-9


class JerkState(NamedTuple):
    """State of the joints, (M,) each, or (M, K)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @property
    def is_at_rest(self) -> bool:
        """Whether no joint moves."""
        return not (self.velocity.any() or self.acceleration.any())


@dataclass(frozen=True)
class Stop:
    """The quickest way to rest; displacements count from where it begins."""

    sign: np.ndarray  # the way is that of `times` and `peak` for +1, mirrored for -1
    times: tuple[np.ndarray, np.ndarray, np.ndarray]  # with jerk -J, 0 and +J [s]
    end: np.ndarray  # displacement at rest
    farthest: np.ndarray  # greatest displacement
    least: np.ndarray  # smallest displacement
    peak_speed: np.ndarray


class JerkFilter:
    """Limits of all joints with a jerk limit; their state is passed in and out."""

    def __init__(
        self, low: np.ndarray, high: np.ndarray, speed: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
    ) -> None:
        """Limits per joint, (M,) each; all but the positions finite."""
        self._low, self._high = low, high
        self._speed, self._acceleration, self._jerk = speed, acceleration, jerk

    def rest_at(self, positions: np.ndarray) -> JerkState:
        """Return the state at rest at `positions` (M,)."""
        return JerkState(positions.astype(np.float64), np.zeros(positions.shape), np.zeros(positions.shape))

    def follow(self, now: JerkState, target: np.ndarray, aim: np.ndarray, dt: float) -> JerkState:
        """Return the state after `dt` on the way to `target` (M,), which moves on with velocity `aim` (M,)."""
        glide = self._glide(now, aim, dt)
        coarse = self._jerk[:, None] * _CHOICES
        missed = self._missed(now, coarse, glide, target, aim, dt)
        glide_missed, missed = missed[:, -1], missed[:, :-1]
        every = np.arange(len(missed))
        fine = coarse[every, missed.argmin(1), None] + coarse / 16
        fine = np.minimum(np.maximum(fine, -self._jerk[:, None]), self._jerk[:, None])
        missed = self._missed(now, fine, glide, target, aim, dt)[:, :-1]
        choice = missed.argmin(1)
        state = self._after(now, fine[every, choice], dt)
        # a joint that would end on its target is left to do so; constant jerk per tick can only come close
        close = np.maximum(missed.min(1), self.resolution * dt**3)
        state = _where(glide_missed <= close, glide, state)
        has_none = ~np.isfinite(np.minimum(missed.min(1), glide_missed))
        if has_none.any():
            state = _where(has_none, self.brake(now, dt), state)
        return state

    def brake(self, now: JerkState, dt: float) -> JerkState:
        """Return the state after `dt` on the quickest way to rest."""
        way, v, a = self._stopped(now, np.zeros_like(now.velocity), dt)
        return JerkState(now.position + way, v, a)

    @property
    def resolution(self) -> np.ndarray:
        """How far from its target (M,) a joint may end, per cubed tick [s^3]."""
        return 0.02 * self._jerk

    def _glide(self, now: JerkState, aim: np.ndarray, dt: float) -> JerkState:
        """Return the state after `dt` of the quickest way to the velocity `aim`."""
        way, v, a = self._stopped(now, aim, dt)
        return JerkState(now.position + aim * dt + way, aim + v, a)

    def _stopped(self, now: JerkState, aim: np.ndarray, dt: float) -> JerkState:
        """Return displacement, velocity and acceleration relative to one that moves with `aim`, after `dt`."""
        stop = quickest_stop(now.velocity - aim, now.acceleration, self._acceleration, self._jerk)
        way, v, a = np.zeros_like(aim), stop.sign * (now.velocity - aim), stop.sign * now.acceleration
        left = np.full_like(v, dt)
        for time, rate in zip(stop.times, (-self._jerk, 0.0 * self._jerk, self._jerk), strict=True):
            t = np.minimum(time, left)
            way = way + v * t + a * t**2 / 2 + rate * t**3 / 6
            v, a = v + a * t + rate * t**2 / 2, a + rate * t
            left = left - t
        # rounding must not leave a joint creeping
        is_over = stop.times[0] + stop.times[1] + stop.times[2] <= dt
        at_rest = JerkState(stop.end, np.zeros_like(v), np.zeros_like(v))
        return _where(is_over, at_rest, JerkState(stop.sign * way, stop.sign * v, stop.sign * a))

    def _after(self, now: JerkState, jerks: np.ndarray, dt: float) -> JerkState:
        x, v, a = now
        if jerks.ndim == 2:
            x, v, a = x[:, None], v[:, None], a[:, None]
        return JerkState(
            x + v * dt + a * (dt**2 / 2) + jerks * (dt**3 / 6),
            v + a * dt + jerks * (dt**2 / 2),
            a + jerks * dt,
        )

    def _missed(
        self, now: JerkState, jerks: np.ndarray, glide: JerkState, target: np.ndarray, aim: np.ndarray, dt: float
    ) -> np.ndarray:
        """Return how far from the target, moving with it, each jerk (M, K) and the glide let the joint end.

        Returns:
            (M, K + 1), infinity for what is not allowed.
        """
        after = zip(self._after(now, jerks, dt), glide, strict=True)
        x, v, a = (np.concatenate([each, last[:, None]], 1) for each, last in after)
        stop = quickest_stop(
            np.stack([v, v - aim[:, None]]), a, self._acceleration[:, None], self._jerk[:, None]
        )  # (2, M, K + 1): to rest, and to moving with the target
        # with a constant jerk the velocity has its extreme inside the tick where the acceleration passes zero
        before = now.acceleration[:, None]
        passes = before * a[:, :-1] < 0.0
        turn = now.velocity[:, None] - before**2 / (2 * np.where(passes, jerks, 1.0))
        fastest = stop.peak_speed[0]
        fastest[:, :-1] = np.maximum(fastest[:, :-1], np.abs(turn) * passes)
        # where the robot started outside, its own position is the limit
        high, low = np.maximum(self._high, now.position)[:, None], np.minimum(self._low, now.position)[:, None]
        allowed = (np.abs(a) <= self._acceleration[:, None] * (1 + _ROUNDING)) & (
            fastest <= self._speed[:, None] * (1 + _ROUNDING)
        )
        allowed &= (x + stop.farthest[0] <= high) & (x + stop.least[0] >= low)
        return np.where(allowed, np.abs(x + stop.end[1] - target[:, None]), np.inf)


def quickest_stop(v: np.ndarray, a: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray) -> Stop:
    """Return the way to rest from velocity `v` and acceleration `a`, within `acceleration` and `jerk`."""
    # the velocity after the acceleration is reduced to zero gives the direction of braking
    sign = np.where(v + a * np.abs(a) / (2 * jerk) < 0.0, -1.0, 1.0)
    v, a = sign * v, sign * a
    # a -> -peak -> (stays) -> 0
    to_lose = np.maximum(jerk * v + a * a / 2, 0.0)
    peak = np.minimum(np.sqrt(to_lose), acceleration)
    peak = np.maximum(peak, -a)  # rounding
    t1 = (a + peak) / jerk
    t2 = np.maximum(to_lose - peak * peak, 0.0) / (jerk * np.where(peak > 0.0, peak, 1.0))
    t3 = peak / jerk
    v1 = v + (a * a - peak * peak) / (2 * jerk)
    v2 = v1 - peak * t2
    end = v * t1 + a * t1**2 / 2 - jerk * t1**3 / 6 + v1 * t2 - peak * t2**2 / 2 + v2 * t3 - peak * t3**2 / 3
    # a joint that moves the other way yet turns back first
    is_turning = v < 0.0
    t0 = np.where(is_turning, (a - np.sqrt(np.maximum(a * a + 2 * jerk * v, 0.0))) / jerk, 0.0)
    back = np.where(is_turning, v * t0 + a * t0**2 / 2 - jerk * t0**3 / 6, 0.0)
    forth = np.maximum(end, 0.0)
    peak_speed = np.maximum(np.abs(v), np.where(a > 0.0, v + a * a / (2 * jerk), 0.0))
    is_up = sign > 0.0
    return Stop(
        sign,
        (t1, t2, t3),
        sign * end,
        np.where(is_up, forth, -back),
        np.where(is_up, back, -forth),
        peak_speed,
    )


def _where(chosen: np.ndarray, first: JerkState, second: JerkState) -> JerkState:
    return JerkState(*(np.where(chosen, one, other) for one, other in zip(first, second, strict=True)))
