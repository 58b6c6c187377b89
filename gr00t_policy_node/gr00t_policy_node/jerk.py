# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Follow a target with bounded jerk.

Each joint moves with constant jerk from tick to tick. A jerk is chosen only when the quickest stop from the state that
it leads to stays within position and velocity limits; where none is, the stop that was found a tick before is carried
out. So there is always a way to rest within all limits, for ticks of any length.

Letters in shapes: M joints, K jerks to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Two rounds of so many jerks each: the finest difference is 1/256 of max_jerk. An odd number has zero among them.
_CHOICES = np.linspace(-1.0, 1.0, 33)
_ROUNDING = 1e-9

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # position, velocity, acceleration; (M,) or (M, K) each


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
    """State of all joints with a jerk limit."""

    def __init__(
        self, low: np.ndarray, high: np.ndarray, speed: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
    ) -> None:
        """Limits per joint, (M,) each; all but the positions finite."""
        self._low, self._high = low, high
        self._speed, self._acceleration, self._jerk = speed, acceleration, jerk
        self.rest_at(np.zeros_like(low))

    @property
    def is_at_rest(self) -> bool:
        """Whether no joint moves."""
        return not (self._v.any() or self._a.any())

    def rest_at(self, positions: np.ndarray) -> None:
        """Begin at rest at `positions` (M,)."""
        self._x = positions.astype(np.float64)
        self._v, self._a = np.zeros_like(self._x), np.zeros_like(self._x)

    def follow(self, target: np.ndarray, aim: np.ndarray, dt: float) -> np.ndarray:
        """Return the positions (M,) after `dt` on the way to `target` (M,), which moves on with velocity `aim` (M,)."""
        glide = self._glide(aim, dt)
        coarse = self._jerk[:, None] * _CHOICES
        missed = self._missed(coarse, glide, target, aim, dt)
        glide_missed, missed = missed[:, -1], missed[:, :-1]
        every = np.arange(len(missed))
        fine = coarse[every, missed.argmin(1), None] + coarse / 16
        fine = np.minimum(np.maximum(fine, -self._jerk[:, None]), self._jerk[:, None])
        missed = self._missed(fine, glide, target, aim, dt)[:, :-1]
        choice = missed.argmin(1)
        state = self._after(fine[every, choice], dt)
        # a joint that would end on its target is let there undisturbed; constant jerk per tick can only come close
        close = np.maximum(missed.min(1), self.resolution * dt**3)
        state = _where(glide_missed <= close, glide, state)
        has_none = ~np.isfinite(np.minimum(missed.min(1), glide_missed))
        if has_none.any():
            way, v, a = self._stopped(np.zeros_like(aim), dt)
            state = _where(has_none, (self._x + way, v, a), state)
        self._x, self._v, self._a = state
        return self._x

    def brake(self, dt: float) -> np.ndarray:
        """Return the positions (M,) after `dt` on the quickest way to rest."""
        way, self._v, self._a = self._stopped(np.zeros_like(self._v), dt)
        self._x = self._x + way
        return self._x

    @property
    def resolution(self) -> np.ndarray:
        """How far from its target (M,) a joint may end, per cubed tick [s^3]."""
        return 0.02 * self._jerk

    def _glide(self, aim: np.ndarray, dt: float) -> State:
        """Return the state after `dt` of the quickest way to the velocity `aim`."""
        way, v, a = self._stopped(aim, dt)
        return self._x + aim * dt + way, aim + v, a

    def _stopped(self, aim: np.ndarray, dt: float) -> State:
        """Return displacement, velocity and acceleration relative to one that moves with `aim`, after `dt`."""
        stop = quickest_stop(self._v - aim, self._a, self._acceleration, self._jerk)
        way, v, a = np.zeros_like(aim), stop.sign * (self._v - aim), stop.sign * self._a
        left = np.full_like(v, dt)
        for time, rate in zip(stop.times, (-self._jerk, 0.0 * self._jerk, self._jerk), strict=True):
            t = np.minimum(time, left)
            way = way + v * t + a * t**2 / 2 + rate * t**3 / 6
            v, a = v + a * t + rate * t**2 / 2, a + rate * t
            left = left - t
        # rounding must not leave a joint creeping
        is_over = stop.times[0] + stop.times[1] + stop.times[2] <= dt
        at_rest = (stop.end, np.zeros_like(v), np.zeros_like(v))
        return _where(is_over, at_rest, (stop.sign * way, stop.sign * v, stop.sign * a))

    def _after(self, jerks: np.ndarray, dt: float) -> State:
        x, v, a = self._x, self._v, self._a
        if jerks.ndim == 2:
            x, v, a = x[:, None], v[:, None], a[:, None]
        return (
            x + v * dt + a * (dt**2 / 2) + jerks * (dt**3 / 6),
            v + a * dt + jerks * (dt**2 / 2),
            a + jerks * dt,
        )

    def _missed(self, jerks: np.ndarray, glide: State, target: np.ndarray, aim: np.ndarray, dt: float) -> np.ndarray:
        """Return how far from the target, moving with it, each jerk (M, K) and the glide let the joint end.

        Returns:
            (M, K + 1), infinity for what is not allowed.
        """
        x, v, a = (
            np.concatenate([each, last[:, None]], 1) for each, last in zip(self._after(jerks, dt), glide, strict=True)
        )
        stop = quickest_stop(
            np.stack([v, v - aim[:, None]]), a, self._acceleration[:, None], self._jerk[:, None]
        )  # (2, M, K + 1): to rest, and to moving with the target
        # with a constant jerk the velocity has its extreme inside the tick where the acceleration passes zero
        before = self._a[:, None]
        passes = before * a[:, :-1] < 0.0
        turn = self._v[:, None] - before**2 / (2 * np.where(passes, jerks, 1.0))
        fastest = stop.peak_speed[0]
        fastest[:, :-1] = np.maximum(fastest[:, :-1], np.abs(turn) * passes)
        # where the robot started outside, its own position is the limit
        high, low = np.maximum(self._high, self._x)[:, None], np.minimum(self._low, self._x)[:, None]
        allowed = (np.abs(a) <= self._acceleration[:, None] * (1 + _ROUNDING)) & (
            fastest <= self._speed[:, None] * (1 + _ROUNDING)
        )
        allowed &= (x + stop.farthest[0] <= high) & (x + stop.least[0] >= low)
        return np.where(allowed, np.abs(x + stop.end[1] - target[:, None]), np.inf)


def quickest_stop(v: np.ndarray, a: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray) -> Stop:
    """Return the way to rest from velocity `v` and acceleration `a`, within `acceleration` and `jerk`."""
    # velocity when the acceleration has been taken away tells which way to brake
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


def _where(chosen: np.ndarray, first: State, second: State) -> State:
    x, v, a = (np.where(chosen, one, other) for one, other in zip(first, second, strict=True))
    return x, v, a
