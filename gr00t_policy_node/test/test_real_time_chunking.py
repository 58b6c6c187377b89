# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands at 100 Hz from a policy that takes 150 ms, in simulated time: no gap, no jump where chunks change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gr00t_policy_node.chunking import Execution, ExecutionMode
from gr00t_policy_node.controller import Controller
from gr00t_policy_node.jitter import BOUNDARY_JUMP, VELOCITY_COSINE
from gr00t_policy_node.limits import JointLimit
from gr00t_policy_node.motion import Curve
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey
from gr00t_training.rotations import to_absolute, to_relative
from gr00t_training.types import ActionChunk, Continuation, Observation

PERIOD_NS = 10_000_000
STEP_NS = 50_000_000
LATENCY_NS = 150_000_000
HORIZON = 16
NAMES = ("j0", "j1", "j2")
DURATION_NS = 8_000_000_000
NOISE_RAD = 0.02  # more than three steps of 10 ms at the reference's speed, anew in every chunk


def reference(times_ns: np.ndarray) -> np.ndarray:
    """Return a motion (T, 3) on a circle through the joints: its speed is the same at all times."""
    phases = times_ns[:, None] / 1e9 + np.array([0.0, 2.0, 4.0]) * np.pi / 3
    return 0.5 * np.sin(phases)


class SmoothPolicy:
    """The reference, seen wrongly in another way at every query, and continued as the flow-matching sampler does."""

    def __init__(self, *, is_relative: bool) -> None:
        self._is_relative = is_relative
        self._rng = np.random.default_rng(3)

    def infer(self, observation: Observation, continuation: Continuation | None) -> ActionChunk:
        times_ns = observation.stamp_ns + np.arange(HORIZON) * STEP_NS
        state = observation.state["arm"][-1]
        error = self._rng.normal(size=3) * NOISE_RAD
        if self._is_relative:
            # what it is to move by; a part of what it is away from the reference is taken back
            start = reference(times_ns[:1])[0]
            actions = reference(times_ns) - start - 0.2 * (state - start) + error
        else:
            actions = reference(times_ns) + error
        if continuation is not None:
            earlier = self._left_over(observation.stamp_ns, continuation)
            if self._is_relative:
                earlier = to_relative(earlier, state, None)
            overlap = len(earlier)
            frozen = min(continuation.frozen_steps, overlap)
            ramp = np.linspace(0, 1, overlap - frozen + 2)[1:-1]
            rate = continuation.ramp_rate
            share = np.concatenate([np.zeros(frozen), (1 - np.exp(-rate * ramp)) / (1 - np.exp(-rate))])[:, None]
            actions[:overlap] = share * actions[:overlap] + (1 - share) * earlier
        if self._is_relative:
            actions = to_absolute(actions, state, None)
        return ActionChunk({"arm": actions}, observation.stamp_ns, STEP_NS)

    def _left_over(self, stamp_ns: int, continuation: Continuation) -> np.ndarray:
        chunk = continuation.chunk
        times_ns = stamp_ns + np.arange(HORIZON) * STEP_NS
        times_ns = times_ns[times_ns <= chunk.end_ns]
        own_ns = chunk.start_ns + np.arange(chunk.horizon) * STEP_NS
        return np.stack([np.interp(times_ns, own_ns, chunk.actions["arm"][:, i]) for i in range(3)], axis=1)


@dataclass(frozen=True)
class Drive:
    """Commands of a simulated run."""

    controller: Controller
    commands: np.ndarray  # (K, 3), one per tick
    boundaries: np.ndarray  # ticks whose command is the first of a chunk

    def steps(self) -> np.ndarray:
        """Return the lengths of all steps."""
        return np.linalg.norm(np.diff(self.commands, axis=0), axis=1)

    def jumps(self) -> np.ndarray:
        """Return the steps into another chunk, in units of the steps inside the chunks before and after."""
        steps, at = self.steps(), self.boundaries[1:-1] - 1
        return steps[at] / (0.5 * (steps[at - 1] + steps[at + 1]))


def drive(mode: ExecutionMode, curve: Curve, *, is_relative: bool, shift_ns: int) -> Drive:
    """Run the controller and the policy beside it, with an observation every 50 ms from `shift_ns` on."""
    key = VectorKey(names=NAMES)
    embodiment = Embodiment(
        name="arm",
        tag="new_embodiment",
        fps=20,
        state={"arm": key},
        action={"arm": key},
        video={"front": VideoKey(height=32, width=32)},
        action_horizon=HORIZON,
    )
    limits = {name: JointLimit(min=-3.0, max=3.0, max_velocity=100.0) for name in NAMES}
    controller = Controller(embodiment, limits, PERIOD_NS / 1e9, execution=Execution(mode=mode, curve=curve))
    policy = SmoothPolicy(is_relative=is_relative)
    controller.start("go round")
    pose = reference(np.zeros(1))[0]
    commands, boundaries, latencies_s = [], [], []
    pending: tuple[int, ActionChunk] | None = None
    for now_ns in range(0, DURATION_NS, PERIOD_NS):
        is_new = False
        if pending is not None and pending[0] <= now_ns:
            chunk = pending[1]
            is_new = controller.offer(chunk, "go round", now_ns)
            latencies_s.append((now_ns - chunk.start_ns) / 1e9)
            pending = None
        if pending is None and now_ns >= shift_ns:
            stamp_ns = (now_ns - shift_ns) // STEP_NS * STEP_NS + shift_ns
            measured = commands[-1] if commands else pose
            observation = Observation({}, {"arm": measured[None]}, "go round", stamp_ns)
            expected_s = float(np.quantile(latencies_s, 0.95)) if latencies_s else 0.0
            continuation = controller.continuation(stamp_ns, expected_s)
            assert (continuation is not None) == (mode is ExecutionMode.REAL_TIME_CHUNKING and bool(latencies_s))
            pending = now_ns + LATENCY_NS, policy.infer(observation, continuation)
        command = controller.tick(now_ns, "", lambda: pose)
        if command is not None:
            if is_new and commands:
                boundaries.append(len(commands))
            commands.append(command)
        else:
            assert not commands, "a gap"
    return Drive(controller, np.array(commands), np.array(boundaries))


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("shift_ns", [0, 17_000_000])
def test_no_gap_and_no_jump_with_real_time_chunking(is_relative: bool, curve: Curve, shift_ns: int) -> None:
    found = drive(ExecutionMode.REAL_TIME_CHUNKING, curve, is_relative=is_relative, shift_ns=shift_ns)
    report = found.controller.report()
    assert len(found.commands) >= (DURATION_NS - 4 * LATENCY_NS) // PERIOD_NS
    assert len(found.boundaries) > 40
    assert (report.underruns, report.refused_chunks, report.stale_chunks) == (0, 0, 0)
    assert found.jumps().max() <= 1.2
    steps = found.steps()
    inside = np.delete(steps, found.boundaries - 1)
    assert np.median(steps[found.boundaries - 1]) <= 1.2 * np.median(inside)
    assert steps[found.boundaries - 1].max() <= 1.2 * np.quantile(inside, 0.95)
    told = found.controller.jitter.quantiles()
    assert told[BOUNDARY_JUMP][2] <= 1.2
    assert told[VELOCITY_COSINE][1] > 0.8


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
def test_without_real_time_chunking_the_same_policy_jumps(is_relative: bool) -> None:
    found = drive(ExecutionMode.RECEDING_HORIZON, Curve.LINEAR, is_relative=is_relative, shift_ns=0)
    assert found.jumps().max() > 10.0
    assert found.controller.jitter.quantiles()[BOUNDARY_JUMP][2] > 3.0


def test_ensembling_makes_jumps_smaller() -> None:
    options = {"is_relative": False, "shift_ns": 0}
    found = drive(ExecutionMode.TEMPORAL_ENSEMBLE, Curve.LINEAR, **options)
    plain = drive(ExecutionMode.RECEDING_HORIZON, Curve.LINEAR, **options)
    assert np.median(found.jumps()) < 0.5 * np.median(plain.jumps())
