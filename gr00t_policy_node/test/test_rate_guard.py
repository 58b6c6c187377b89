# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Rates in the guard: they start at zero, change within their limit, and a brake leads them to zero."""

from __future__ import annotations

import numpy as np
import pytest
from driving import DrivenGuard

from gr00t_policy_node.safety.limits import JointLimit, LimitKind
from gr00t_policy_node.safety.rate_guard import RateGuard

ARM = JointLimit(min=-2.0, max=2.0, max_velocity=1.0)
BASE = JointLimit(min=-1.0, max=1.0, max_velocity=2.5)  # 0.05 per tick of 20 ms
PERIOD_S = 0.02


def test_a_rate_changes_within_its_limit_and_the_reason_is_reported() -> None:
    guard = RateGuard({"v": BASE})
    motion = guard.start_at(np.zeros(1))
    assert not guard.must_brake(motion)
    followed = guard.follow(motion, np.array([0.5]), PERIOD_S, PERIOD_S)
    np.testing.assert_allclose(followed.motion.last, [0.05])
    assert (followed.limited.tolist(), followed.kinds) == ([True], {LimitKind.VELOCITY})
    assert guard.must_brake(followed.motion)


@pytest.mark.parametrize(("rate", "ticks"), [(0.05, 1), (0.5, 10), (-0.5, 10)])
def test_a_brake_leads_to_zero_and_stays_there(rate: float, ticks: int) -> None:
    guard = RateGuard({"v": BASE})
    motion = guard.start_at(np.array([rate]))
    for _ in range(ticks):
        assert guard.must_brake(motion)
        motion = guard.brake(motion, PERIOD_S)
    assert motion.last.tolist() == [0.0]
    assert not guard.must_brake(motion)
    assert guard.brake(motion, PERIOD_S).last.tolist() == [0.0]


def test_rates_and_positions_keep_their_places_in_a_command() -> None:
    guard = DrivenGuard(["j0", "v", "j1"], {"j0": ARM, "v": BASE, "j1": ARM}, PERIOD_S, ["v"])
    guard.start_at(np.array([0.5, 0.0, -0.5]))
    command = guard.apply(np.array([0.51, 1.0, -2.5]), PERIOD_S)
    np.testing.assert_allclose(command.positions, [0.51, 0.05, -0.52])
    assert command.limited == ("v", "j1")
    assert command.violations == ("j1",)
    assert command.kinds == {LimitKind.VELOCITY, LimitKind.POSITION}
    np.testing.assert_allclose(guard.brake(PERIOD_S), [0.51, 0.0, -0.52])


def test_random_rates_keep_their_limits_and_always_come_to_zero() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        speed, acceleration = rng.uniform(0.2, 20.0), rng.uniform(2.0, 200.0)
        limit = JointLimit(
            min=-rng.uniform(0.0, 2.0), max=rng.uniform(0.1, 2.0), max_velocity=speed, max_acceleration=acceleration
        )
        period_s = rng.choice([0.002, 0.01, 0.02])
        guard = DrivenGuard(["v", "j"], {"v": limit, "j": ARM}, period_s, ["v"])
        guard.start_at(np.zeros(2))
        times, commands = [period_s], [np.zeros(2)]
        for _ in range(100):
            times.append(period_s * rng.uniform(0.1, 1.0))
            commands.append(guard.apply(rng.normal(size=2) * 2, times[-1]).positions)
            if rng.random() < 0.1:
                times.append(period_s)
                commands.append(guard.brake(period_s))
        # from the farthest rate at the greatest change away from zero: turn round, go back, stop
        most_s = 2.0 / speed + 4.0 * speed / acceleration
        stop = list(guard.braking())
        assert len(stop) <= most_s / period_s + 5
        rates = np.array([*commands, *stop])[:, 0]
        spans = np.array([*times, *[period_s] * len(stop)])
        assert rates[-1] == 0.0
        assert rates.min() >= limit.min and rates.max() <= limit.max
        changes = np.diff(rates) / spans[1:]
        assert np.abs(changes).max() <= speed * (1 + 1e-9)
        second = np.diff(changes) / ((spans[2:] + spans[1:-1]) / 2)
        assert np.abs(second).max() <= acceleration * (1 + 1e-6)
        assert not guard.must_brake
        np.testing.assert_array_equal(guard.brake(period_s), stop[-1])
