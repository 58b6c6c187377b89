# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The fuzz of `bench/fuzz_guard.py`, short; and that its checks find a guard that is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from gr00t_policy_node.safety import bounds
from gr00t_policy_node.safety.bounds import Bounds
from gr00t_policy_node.safety.guard import GuardState, MotionGuard
from gr00t_policy_node.safety.jerk import JerkFilter
from gr00t_policy_node.safety.limits import JointLimit

fuzz = pytest.importorskip("bench.fuzz_guard", reason="the benches are not part of an installed package")

pytestmark = pytest.mark.slow


def test_no_command_is_outside_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--actions", "4000", "--seed", "7"]) == 0
    assert "breaches of limits, NaN, gaps, motion after a stop: 0" in capsys.readouterr().out


def faster(monkeypatch: pytest.MonkeyPatch, name: str, factor: float) -> None:
    """Let guards believe in a greater limit than they were given."""
    make = Bounds.of

    def wrong(limits: Sequence[JointLimit]) -> Bounds:
        found = make(limits)
        return dataclasses.replace(found, **{name: getattr(found, name) * factor})

    monkeypatch.setattr(Bounds, "of", wrong)


def no_braking(distance: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    return distance / dt


def repaying(self: MotionGuard, state: GuardState, elapsed_s: float) -> tuple[GuardState, float]:
    return state, elapsed_s


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda m: faster(m, "speed", 1.01), "velocity"),
        (lambda m: faster(m, "acceleration", 1.01), "acceleration"),
        (lambda m: faster(m, "high", 1.001), "position"),
        (lambda m: m.setattr(bounds, "approach_speed", no_braking), "acceleration"),
        (lambda m: m.setattr(MotionGuard, "_resume", repaying), "velocity"),
        (lambda m: m.setattr(JerkFilter, "_missed", lambda self, now, jerks, *_: np.zeros((len(jerks), 34))), "jerk"),
    ],
)
def test_a_guard_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch, spoil, found: str) -> None:
    spoil(monkeypatch)
    result = fuzz.Result()
    for episode in range(60):
        fuzz.try_guard(np.random.default_rng(episode), result, "")
        if any(found in breach for breach in result.breaches):
            return
    pytest.fail(f"no {found} breach among {result.breaches[:5]}")
