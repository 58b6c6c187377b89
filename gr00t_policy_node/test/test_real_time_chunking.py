# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands at 100 Hz from a policy that takes 150 ms, in simulated time: no gap, no jump where chunks change."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from gr00t_policy_node.chunking.jitter import BOUNDARY_JUMP, VELOCITY_COSINE
from gr00t_policy_node.chunking.motion import Curve
from gr00t_policy_node.chunking.player import Execution, ExecutionMode
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.inference.loop import InferenceLoop
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey
from gr00t_training.errors import ObservationError
from gr00t_training.rotations import to_absolute, to_relative
from gr00t_training.types import ActionChunk, Continuation, Observation

PERIOD_NS = 10_000_000
STEP_NS = 50_000_000
LATENCY_NS = 150_000_000
HORIZON = 16
LAG_NS = 40_000_000
DURATION_NS = 8_000_000_000
DEADLINE_S = 120.0
INSTRUCTION = "go round"
NOISE_RAD = 0.02  # more than three steps of 10 ms at the reference's speed, drawn again for every chunk


def reference(times_ns: np.ndarray) -> np.ndarray:
    """Return a motion (T, 3) on a circle through the joints: its speed is the same at all times."""
    phases = times_ns[:, None] / 1e9 + np.array([0.0, 2.0, 4.0]) * np.pi / 3
    return 0.5 * np.sin(phases)


class SmoothPolicy:
    """The reference, seen wrongly in another way at every query, and continued as the flow-matching sampler does."""

    def __init__(self, *, is_relative: bool) -> None:
        self._is_relative = is_relative
        self._rng = np.random.default_rng(3)

    def infer(self, observation: Observation, continuation: Continuation | None = None) -> ActionChunk:
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


class SimulatedTime:
    """A clock for two threads: it advances only when the other thread has no earlier work."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._due_ns: int | None = None  # what the other thread waits for; None: it works
        self._is_over = False
        self._news = threading.Condition()

    def wait_until(self, due_ns: int) -> None:
        """In the other thread: return at that time; ObservationError when the simulation is over."""
        with self._news:
            self._due_ns = due_ns
            self._news.notify_all()
            self._news.wait_for(lambda: self._is_over or self.now_ns >= due_ns)
            self._due_ns = None
            if self._is_over:
                raise ObservationError("the simulation is over")

    def advance(self, now_ns: int) -> None:
        """Set the time, and wait until the other thread has done what is due by then."""
        with self._news:
            self.now_ns = now_ns
            self._news.notify_all()
            assert self._news.wait_for(lambda: self._due_ns is not None and self._due_ns > now_ns, DEADLINE_S)

    def end(self) -> None:
        with self._news:
            self._is_over = True
            self._news.notify_all()


class Rig:
    """The node's controller and inference loop, without ROS, on simulated time; the robot lags behind its commands."""

    def __init__(
        self,
        embodiment: Embodiment,
        infer: Callable[[Observation, Continuation | None], ActionChunk],
        execution: Execution,
        start: np.ndarray,
        *,
        images: Mapping[str, np.ndarray] | None = None,
        shift_ns: int = 0,
        duration_ns: int = DURATION_NS,
    ) -> None:
        """Prepare a robot at `start` (N,), its action keys joined; its images start at `shift_ns`."""
        names = [name for key in embodiment.action_keys for name in embodiment.action[key].names]
        limits = {name: JointLimit(min=-100.0, max=100.0, max_velocity=1000.0) for name in names}
        self.controller = Controller(embodiment, limits, PERIOD_NS / 1e9, execution=execution)
        self.controller.start(INSTRUCTION)
        self.commands: list[np.ndarray] = []
        self.boundaries: list[int] = []  # commands that are the first of a chunk
        self.handovers: list[tuple[int, ActionChunk, ActionChunk]] = []  # when, from which chunk, to which
        self._embodiment, self._infer, self._start, self._images = embodiment, infer, start, images or {}
        self._is_continued = execution.mode is ExecutionMode.REAL_TIME_CHUNKING
        self._shift_ns, self._duration_ns = shift_ns, duration_ns
        self._time = SimulatedTime()
        self._stamp_ns = shift_ns - STEP_NS  # of the newest image that was used
        self._latencies_s: list[float] = []
        self._chunk: ActionChunk | None = None
        self._is_new = False

    def run(self) -> Rig:
        """Tick while the loop infers."""
        loop = InferenceLoop(
            self.infer,
            self._observe,
            on_chunk=self._on_chunk,
            on_refusal=lambda reason: None,
            on_failure=self.controller.fail,
            continue_from=self._continuation,
            period_s=0.0,
        )
        try:
            loop.enable(True)
            for now_ns in range(0, self._duration_ns, PERIOD_NS):
                self._time.advance(now_ns)
                self._tick(now_ns)
        finally:
            self._time.end()
            loop.close()
        return self

    def infer(self, observation: Observation, continuation: Continuation | None = None) -> ActionChunk:
        """Answer `LATENCY_NS` later."""
        chunk = self._infer(observation, continuation)
        self._time.wait_until(self._time.now_ns + LATENCY_NS)
        return chunk

    def steps(self) -> np.ndarray:
        """Return the lengths of all steps."""
        return np.linalg.norm(np.diff(self.commands, axis=0), axis=1)

    def jumps(self) -> np.ndarray:
        """Return the steps into another chunk, in units of the steps inside the chunks before and after."""
        steps, at = self.steps(), np.array(self.boundaries[1:-1]) - 1
        return steps[at] / (0.5 * (steps[at - 1] + steps[at + 1]))

    def _observe(self) -> Observation:
        """Return the newest image once it is there; they come every 50 ms."""
        newest_ns = (self._time.now_ns - self._shift_ns) // STEP_NS * STEP_NS + self._shift_ns
        self._stamp_ns = max(newest_ns, self._stamp_ns + STEP_NS)
        self._time.wait_until(self._stamp_ns)
        ends = np.cumsum([self._embodiment.action[key].dim for key in self._embodiment.action_keys])[:-1]
        rows = np.split(self._pose(self._stamp_ns)[None], ends, axis=1)
        state = dict(zip(self._embodiment.action_keys, rows, strict=True))
        return Observation(self._images, state, INSTRUCTION, self._stamp_ns)

    def _pose(self, stamp_ns: int) -> np.ndarray:
        """Return the position of the robot: the one commanded `LAG_NS` before."""
        ticks_ago = (self._time.now_ns - stamp_ns + LAG_NS) // PERIOD_NS
        return self.commands[-ticks_ago] if len(self.commands) >= ticks_ago else self._start

    def _continuation(self, observation: Observation) -> Continuation | None:
        latency_s = float(np.quantile(self._latencies_s, 0.95)) if self._latencies_s else 0.0
        continuation = self.controller.continuation(observation.stamp_ns, latency_s)
        assert (continuation is not None) == (self._is_continued and bool(self._latencies_s))
        return continuation

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, latency_s: float) -> None:
        now_ns = self._time.now_ns
        self._is_new = self.controller.offer(chunk, observation.instruction, now_ns)
        self._latencies_s.append((now_ns - chunk.start_ns) / 1e9)
        if self._chunk is not None:
            self.handovers.append((now_ns, self._chunk, chunk))
        self._chunk = chunk

    def _tick(self, now_ns: int) -> None:
        command = self.controller.tick(now_ns, "", lambda: self._start)
        if command is None:
            assert not self.commands, f"no command at {now_ns / 1e9} s"
            return
        if self._is_new and self.commands:
            self.boundaries.append(len(self.commands))
        self._is_new = False
        self.commands.append(command)


def drive(mode: ExecutionMode, curve: Curve, *, is_relative: bool, shift_ns: int) -> Rig:
    """Let the smooth policy drive three joints."""
    key = VectorKey(names=("j0", "j1", "j2"))
    embodiment = Embodiment(
        name="arm",
        tag="new_embodiment",
        fps=20,
        state={"arm": key},
        action={"arm": key},
        video={"front": VideoKey(height=32, width=32)},
        action_horizon=HORIZON,
    )
    policy, execution = SmoothPolicy(is_relative=is_relative), Execution(mode=mode, curve=curve)
    return Rig(embodiment, policy.infer, execution, reference(np.zeros(1))[0], shift_ns=shift_ns).run()


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("shift_ns", [0, 17_000_000])
def test_no_gap_and_no_jump_with_real_time_chunking(is_relative: bool, curve: Curve, shift_ns: int) -> None:
    """At every boundary, the step is at most 1.2 times the mean of its neighbors, which are inside chunks."""
    found = drive(ExecutionMode.REAL_TIME_CHUNKING, curve, is_relative=is_relative, shift_ns=shift_ns)
    report = found.controller.report()
    assert len(found.commands) >= (DURATION_NS - 4 * LATENCY_NS) // PERIOD_NS
    assert len(found.boundaries) > 40
    assert (report.underruns, report.refused_chunks, report.stale_chunks) == (0, 0, 0)
    assert found.jumps().max() <= 1.2
    steps = found.steps()
    at = np.array(found.boundaries) - 1
    inside = np.delete(steps, at)
    assert np.median(steps[at]) <= 1.2 * np.median(inside)
    assert steps[at].max() <= 1.2 * np.quantile(inside, 0.95)
    reported = found.controller.jitter.quantiles()
    assert reported[BOUNDARY_JUMP][2] <= 1.2
    assert reported[VELOCITY_COSINE][1] > 0.8


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


@pytest.mark.parametrize("mode", [ExecutionMode.REAL_TIME_CHUNKING, ExecutionMode.RECEDING_HORIZON])
def test_relative_actions_of_a_model_go_on_where_the_earlier_chunk_was(
    fixtures_dir: ReferenceFiles, mode: ExecutionMode
) -> None:
    """A small N1.7 with random weights and rough actions counts from a state that lags behind.

    What jumps is the distance between two chunks at the time when one takes over from the other.
    """
    pytest.importorskip("torch")
    from safetensors.numpy import load_file

    from gr00t_training.policy.policy import Policy

    folder = fixtures_dir / "n1_7_tiny"
    tag = json.loads((folder / "meta.json").read_text())["samples"][0]["embodiment_tag"]
    policy = Policy.from_checkpoint(folder, tag, device="cpu", seed=0)
    raw = {key[3:]: rows for key, rows in load_file(folder / "raw_samples.safetensors").items() if key[:3] == "s0."}
    keys = policy.embodiment.action_keys
    assert {key for key in keys if policy.embodiment.action[key].relative_to} == {"eef_9d", "joint_position"}
    start = np.concatenate([raw[f"state.{key}"][-1] for key in keys]).astype(np.float64)
    images = {key.removeprefix("video."): rows for key, rows in raw.items() if key.startswith("video.")}
    found = Rig(
        policy.embodiment,
        policy.infer,
        Execution(mode=mode),
        start,
        images=images,
        shift_ns=17_000_000,
        duration_ns=2 * 10**9,
    ).run()
    assert found.controller.report().refused_chunks == found.controller.report().underruns == 0
    assert len(found.handovers) >= 8
    jumps, steps = [], []
    for now_ns, before, after in found.handovers:
        there = [chunk_at(chunk, "joint_position", now_ns) for chunk in (before, after)]
        jumps.append(np.linalg.norm(there[1] - there[0]))
        steps.append(np.linalg.norm(chunk_at(after, "joint_position", now_ns + PERIOD_NS) - there[1]))
    if mode is ExecutionMode.REAL_TIME_CHUNKING:
        assert max(jumps) <= 1e-6
    else:
        assert np.median(jumps) > 1.2 * np.median(steps)


def chunk_at(chunk: ActionChunk, key: str, time_ns: int) -> np.ndarray:
    """Return the target of a chunk at a time (D,), on a straight line between its rows."""
    own_ns = chunk.start_ns + np.arange(chunk.horizon) * chunk.step_ns
    return np.array([np.interp(time_ns, own_ns, channel) for channel in chunk.actions[key].T])
