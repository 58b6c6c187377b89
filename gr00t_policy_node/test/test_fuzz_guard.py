# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The fuzz of `bench/fuzz_guard.py`, short; and that its checks find a guard that is wrong."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from gr00t_policy_node import limits
from gr00t_policy_node.jerk import JerkFilter
from gr00t_policy_node.limits import MotionGuard


@pytest.fixture(scope="module")
def fuzz(pytestconfig: pytest.Config) -> ModuleType:
    path = pytestconfig.rootpath / "bench" / "fuzz_guard.py"
    if not path.is_file():  # a colcon build tests the package alone
        pytest.skip(f"{path} does not exist")
    spec = importlib.util.spec_from_file_location("fuzz_guard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_no_command_is_outside_the_limits(fuzz: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--actions", "4000", "--seed", "7"]) == 0
    assert "breaches of limits, NaN, gaps, motion after a stop: 0" in capsys.readouterr().out


def faster(monkeypatch: pytest.MonkeyPatch, name: str, factor: float) -> None:
    """Let guards believe in a greater limit than they were given."""
    make = MotionGuard.__init__

    def wrong(self: MotionGuard, *arguments: object) -> None:
        make(self, *arguments)  # type: ignore[arg-type]
        setattr(self, name, getattr(self, name) * factor)

    monkeypatch.setattr(MotionGuard, "__init__", wrong)


def no_braking(distance: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    return distance / dt


def repaying(self: MotionGuard, elapsed_s: float) -> float:
    return elapsed_s


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda m: faster(m, "_speed", 1.01), "velocity"),
        (lambda m: faster(m, "_acceleration", 1.01), "acceleration"),
        (lambda m: faster(m, "_high", 1.001), "position"),
        (lambda m: m.setattr(limits, "approach_speed", no_braking), "acceleration"),
        (lambda m: m.setattr(MotionGuard, "_begin_slice", repaying), "velocity"),
        (lambda m: m.setattr(JerkFilter, "_missed", lambda self, jerks, *_: np.zeros((len(jerks), 34))), "jerk"),
    ],
)
def test_a_guard_that_is_wrong_is_found(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, spoil, found: str) -> None:
    spoil(monkeypatch)
    result = fuzz.Result()
    for episode in range(60):
        fuzz.try_guard(np.random.default_rng(episode), result, "")
        if any(found in breach for breach in result.breaches):
            return
    pytest.fail(f"no {found} breach among {result.breaches[:5]}")
