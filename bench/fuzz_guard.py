#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Try to make the motion guard and the controller send a command that is not allowed; exit 1 when one is found.

    python3 -m bench.fuzz_guard --actions 1000000

Two thirds of the commands come from the guard alone, one third from the whole controller with chunks, stops, faults and
a clock that jumps. Limits, control periods, start poses (some outside the limits), targets (smooth, noisy, jumping, as
large as floats go, NaN), chunks (some broken, old, or from the future) and tick times (early, late, never, back) are
drawn from a seed. Every command is compared with the limits by the checks in this file, which share no code with the
guard: they know only the commands, their times and the limits.

Time is counted as the guard promises it: a command may use the time since the one before, but no more than a control
period; a robot without a command for more than two periods stops. Some channels are rates, which begin and
end at zero.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gr00t_policy_node.chunking.motion import Curve
from gr00t_policy_node.chunking.player import Execution, ExecutionMode
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.person import TakeoverRules
from gr00t_policy_node.control.state import ControlState, StopRules
from gr00t_policy_node.safety.guard import MotionGuard
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_training.embodiment import Embodiment, Interpolation, Rotation, VectorKey, VideoKey
from gr00t_training.errors import ObservationError
from gr00t_training.types import ActionChunk

SHOWN = 10  # breaches that are printed in full
NO_TIME_S = 1e-6
LATE_PERIODS = 2.0
EPS = float(np.finfo(np.float64).eps)


@dataclass
class Result:
    """What was tried and found."""

    commands: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)

    def add(self, breaches: Sequence[str], where: str) -> None:
        """Take the breaches of one motion."""
        self.breaches += [f"{where}: {breach}" for breach in breaches]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, try, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--actions", type=int, default=1_000_000, help="commands to check (default: 1000000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    options = parser.parse_args(arguments)
    result, started_s, episode = Result(), time.perf_counter(), 0
    while result.commands < options.actions:
        rng = np.random.default_rng([options.seed, episode])
        (try_controller if episode % 3 == 2 else try_guard)(rng, result, f"episode {episode}")
        episode += 1
    elapsed_s = time.perf_counter() - started_s
    print(
        f"{result.commands} commands of {episode} episodes in {elapsed_s:.0f} s ({result.commands / elapsed_s:.0f}/s)"
    )
    for name, count in sorted(result.counts.items()):
        print(f"  {name:32s} {count}")
    print(f"breaches of limits, NaN, gaps, motion after a stop: {len(result.breaches)}")
    for breach in result.breaches[:SHOWN]:
        print(f"  {breach}")
    return 1 if result.breaches else 0


# The checks.


def breaches_of(
    limits: Sequence[JointLimit], period_s: float, start: np.ndarray, elapsed_s: Sequence[float], commands: np.ndarray
) -> list[str]:
    """Hold a motion that begins at rest at `start` (N,) against its limits.

    Args:
        limits: per joint.
        period_s: control period.
        start: pose.
        elapsed_s: time before each command.
        commands: (K, N).
    """
    if not np.isfinite(commands).all():
        return ["a command is NaN or infinite"]
    found = _position_breaches(limits, np.vstack([start, commands]))
    elapsed = np.asarray(elapsed_s)
    poses = np.vstack([start, commands])
    moved = (np.diff(poses, axis=0) != 0.0).any(1)
    if (moved & (elapsed <= NO_TIME_S)).any():
        found.append("a command moved though no time had passed")
    # parts between pauses; those begin at rest
    pauses = np.flatnonzero(elapsed > LATE_PERIODS * period_s)
    for first, last in zip([0, *pauses], [*pauses, len(commands)], strict=True):
        used = elapsed[first:last] > NO_TIME_S
        if used.any():
            times = np.minimum(elapsed[first:last][used], period_s)
            points = np.vstack([poses[first], commands[first:last][used]])
            found += _motion_breaches(limits, period_s, times, points)
    return found


def _position_breaches(limits: Sequence[JointLimit], poses: np.ndarray) -> list[str]:
    low, high = np.array([limit.min for limit in limits]), np.array([limit.max for limit in limits])
    too_low = poses[1:] < np.minimum(low, poses[:-1])
    too_high = poses[1:] > np.maximum(high, poses[:-1])
    return [
        f"joint {joint}: position {poses[1 + k, joint]} {limits[joint]}"
        for k, joint in np.argwhere(too_low | too_high)[:3]
    ]


def _motion_breaches(limits: Sequence[JointLimit], period_s: float, times: np.ndarray, points: np.ndarray) -> list[str]:
    """Hold divided differences of `points` (K + 1, N), `times` (K,) apart, against the limits of the derivatives."""
    # at rest before
    points = np.vstack([points[:1]] * 3 + [points])
    times = np.concatenate([[period_s] * 3, times])
    moments = np.concatenate([[0.0], np.cumsum(times)])
    rounding = 8 * EPS * np.abs(points).max(0)
    differences, errors = points, np.broadcast_to(rounding, points.shape)
    allowed = [
        [limit.max_velocity for limit in limits],
        [limit.max_acceleration or math.inf for limit in limits],
        [limit.max_jerk or math.inf for limit in limits],
    ]
    found = []
    for order, (name, bounds) in enumerate(zip(("velocity", "acceleration", "jerk"), allowed, strict=True), start=1):
        spans = (moments[order:] - moments[:-order])[:, None] / order
        differences = np.diff(differences, axis=0) / spans
        errors = (errors[1:] + errors[:-1]) / spans
        excess = np.abs(differences) - np.array(bounds) * (1 + 1e-7) - errors
        for k, joint in np.argwhere(excess > 0.0)[:3]:
            found.append(f"joint {joint}: {name} {differences[k, joint]} at command {k - 2}, {limits[joint]}")
    return found


# What is tried.


def try_guard(rng: np.random.Generator, result: Result, where: str) -> None:
    """Drive a guard with targets, pauses and stops."""
    num_joints, period_s = int(rng.integers(1, 8)), float(rng.choice([0.002, 0.005, 0.01, 0.02, 0.05]))
    limits = [random_limit(rng, with_jerk=rng.random() < 0.06) for _ in range(num_joints)]
    names = [f"j{i}" for i in range(num_joints)]
    is_rate = np.array([rng.random() < 0.2 and may_be_rate(limit) for limit in limits])
    rates = [name for name, chosen in zip(names, is_rate, strict=True) if chosen]
    guard = MotionGuard(names, dict(zip(names, limits, strict=True)), period_s, rates)
    start = np.where(is_rate, 0.0, random_pose(rng, limits))
    state = guard.start_at(start)
    elapsed_s, commands, braked = [], [], 0
    for target in random_targets(rng, limits, int(rng.integers(50, 400)), period_s):
        elapsed_s.append(random_elapsed(rng, period_s))
        braked = braked - 1 if braked else int(rng.integers(1, 60)) if rng.random() < 0.01 else 0
        result.counts["guard: brakings"] += braked > 0
        if not np.isfinite(target).all():
            result.counts["guard: targets refused"] += 1
            try:
                guard.apply(state, target, elapsed_s[-1])
                result.breaches.append(f"{where}: target {target} was taken")
            except ValueError:
                pass
            target = commands[-1] if commands else start
        if braked:
            state = guard.brake(state, elapsed_s[-1])
            commands.append(state.last)
        else:
            state, command = guard.apply(state, target, elapsed_s[-1])
            result.counts["guard: commands limited"] += bool(command.limited)
            commands.append(command.positions)
    stop = []
    for _ in range(ticks_to_rest(limits, period_s, is_rate)):
        state = guard.brake(state, period_s)
        stop.append(state.last)
    elapsed_s += [period_s] * len(stop)
    if guard.must_brake(state) or (guard.brake(state, period_s).last != stop[-1]).any() or stop[-1][is_rate].any():
        result.breaches.append(f"{where}: not at rest after {len(stop)} ticks")
    result.commands += len(commands) + len(stop)
    result.counts["guard: motions"] += 1
    result.counts["guard: rates"] += len(rates)
    result.counts["guard: motions from outside"] += bool(is_outside(start, limits).any())
    result.add(breaches_of(limits, period_s, start, elapsed_s, np.array(commands + stop)), where)


class ControllerTrial:
    """A controller, its clock, and what it said since the pose was measured."""

    def __init__(
        self, rng: np.random.Generator, result: Result, where: str, takeover: TakeoverRules | None = None
    ) -> None:
        """Draw a robot."""
        self._rng, self._result, self._where = rng, result, where
        arm, hand = [f"a{i}" for i in range(int(rng.integers(1, 6)))], ["qw", "qx", "qy", "qz"]
        keys = {
            "arm": VectorKey(names=tuple(arm)),
            "wheel": VectorKey(names=("wheel",)),
            "hand": VectorKey(names=tuple(hand), rotation=Rotation.QUATERNION),
            "gripper": VectorKey(names=("grip",), interpolation=Interpolation.STEP),
            "base": VectorKey(names=("vx",), unit="m/s"),
        }
        limits = {name: random_limit(rng, with_jerk=False) for name in arm}
        limits["wheel"] = JointLimit(
            min=-math.inf, max=math.inf, max_velocity=random_scale(rng, 0.3, 10), max_acceleration=30.0, endless=True
        )
        limits |= {name: JointLimit(min=-1.0, max=1.0, max_velocity=3.0) for name in hand}
        limits["grip"] = JointLimit(min=0.0, max=1.0, max_velocity=math.inf)
        acceleration = random_scale(rng, 1, 30)
        limits["vx"] = JointLimit(
            min=-0.3,
            max=1.0,
            max_velocity=math.inf if rng.random() < 0.1 else acceleration,
            max_acceleration=None if rng.random() < 0.5 else 10 * acceleration,
        )
        self.embodiment = Embodiment(
            name="fuzz",
            tag="new_embodiment",
            fps=20,
            state={key: vector for key, vector in keys.items() if key != "base"},
            action=keys,
            video={"front": VideoKey(height=32, width=32)},
        )
        self.period_s = float(rng.choice([0.005, 0.01, 0.02]))
        execution = Execution(mode=list(ExecutionMode)[rng.integers(3)], curve=list(Curve)[rng.integers(2)])
        rules = StopRules(
            max_input_gap_s=float(rng.choice([0.0, 0.3])),
            max_silence_s=float(rng.choice([0.0, 0.5])),
            max_violations=int(rng.choice([0, 20])),
            safe_pose={"a0": float(rng.uniform(*np.ravel(span_of([limits["a0"]]))))} if rng.random() < 0.3 else {},
        )
        self.controller = Controller(
            self.embodiment, limits, self.period_s, execution=execution, stops=rules, takeover=takeover
        )
        self.limits = [limits[name] for name in self.controller.names]
        self._places = dict(zip(self.embodiment.action, np.cumsum([0, len(arm), 1, 4, 1]).tolist(), strict=True))
        self.now_ns = int(rng.integers(10**9, 10**18))
        self._begin: np.ndarray | None = None
        self._elapsed_s: list[float] = []
        self._commands: list[np.ndarray] = []

    def measure(self) -> np.ndarray:
        """Return a pose, or fail to."""
        if self._rng.random() < 0.2:
            raise ObservationError("not measured")
        self.finish_motion()
        pose = random_pose(self._rng, self.limits)
        pose[self._places["hand"] : self._places["hand"] + 4] = [1.0, 0.0, 0.0, 0.0]
        pose[self._places["base"]] = 0.0
        self._begin = pose
        return pose[:-1].copy()  # the base is last, and not measured

    def tick(self, fault: str, output_fault: str) -> None:
        """Let some time pass and take the command."""
        elapsed_s = random_elapsed(self._rng, self.period_s)
        if self._rng.random() < 0.002:
            elapsed_s = -float(self._rng.uniform(0.01, 5.0))
        before_ns, self.now_ns = self.now_ns, self.now_ns + round(elapsed_s * 1e9)
        command = self.controller.tick(self.now_ns, fault, self.measure, output_fault)
        # a clock that was set back says nothing: assume one control period
        elapsed_s = (self.now_ns - before_ns) / 1e9 if self.now_ns >= before_ns else self.period_s
        if command is not None:
            self._elapsed_s.append(elapsed_s)
            self._commands.append(command)
            self._result.commands += 1
        elif self._begin is not None and self._commands:
            if self.controller.report().state is not ControlState.IDLE and not output_fault:
                self._result.breaches.append(f"{self._where}: a gap in the commands")
            if self._commands[-1][self._places["base"]] != 0.0:
                self._result.breaches.append(f"{self._where}: the last command of a motion does not stop the base")
            self.finish_motion()

    def offer(self) -> None:
        """Offer a chunk."""
        rng = self._rng
        horizon, step_ns = int(rng.integers(1, 17)), int(rng.choice([20_000_000, 50_000_000, 100_000_000]))
        targets = np.stack(list(random_targets(rng, self.limits, horizon, step_ns / 1e9)))
        if rng.random() < 0.9:
            targets = np.clip(np.nan_to_num(targets), -1e9, 1e9)
        actions = {
            key: targets[:, place : place + self.embodiment.action[key].dim] for key, place in self._places.items()
        }
        if rng.random() < 0.95:
            hand = rng.normal(size=(horizon, 4))
            actions["hand"] = hand / np.linalg.norm(hand, axis=1, keepdims=True)
        if rng.random() < 0.02:
            actions["arm"] = actions["arm"][:, :-1]
        age_s = float(rng.choice([0.0, rng.uniform(0.0, 0.5), rng.uniform(0.0, 0.5), -0.3]))
        chunk = ActionChunk(actions, self.now_ns - round(age_s * 1e9), step_ns)
        self.controller.continuation(self.now_ns, rng.uniform(0.0, 0.3))
        self.controller.offer(chunk, "go", self.now_ns if rng.random() < 0.9 else None)

    def finish_motion(self) -> None:
        """Check what was commanded since the pose was measured."""
        if self._begin is not None and self._commands:
            found = breaches_of(self.limits, self.period_s, self._begin, self._elapsed_s, np.array(self._commands))
            self._result.add(found, self._where)
            self._result.counts["controller: motions"] += 1
        elif self._commands:
            self._result.breaches.append(f"{self._where}: a command without a measured pose")
        self._begin, self._elapsed_s, self._commands = None, [], []

    def check_stop(self) -> None:
        """Stop, and check that the robot stops moving and stays there."""
        self.controller.stop("end")
        is_rate = np.array([name == "vx" for name in self.controller.names])
        count = ticks_to_rest(self.limits, self.period_s, is_rate)
        # a safe pose takes its time
        for _ in range(count):
            self.now_ns += round(self.period_s * 1e9)
            command = self.controller.tick(self.now_ns, "", self.measure)
            if command is not None:
                self._elapsed_s.append(round(self.period_s * 1e9) / 1e9)
                self._commands.append(command)
                self._result.commands += 1
        self.finish_motion()
        try:
            self.controller.start("go")
            self._result.breaches.append(f"{self._where}: started while stopped")
        except ValueError:
            pass


def try_controller(rng: np.random.Generator, result: Result, where: str) -> None:
    """Drive a controller with all that can happen to it."""
    trial, fault_ticks, output_ticks = ControllerTrial(rng, result, where), 0, 0
    controller = trial.controller
    for _ in range(int(rng.integers(200, 1200))):
        draw = rng.random()
        state = controller.report().state
        if state is ControlState.IDLE and draw < 0.2:
            controller.start("go")
        elif draw < 0.002:
            controller.stop("operator")
        elif draw < 0.004:
            controller.finish("done")
        elif draw < 0.006:
            controller.fail("server lost")
        elif state is ControlState.STOPPED and draw < 0.05:
            controller.reset()
        if rng.random() < 0.15:
            trial.offer()
        fault_ticks = fault_ticks - 1 if fault_ticks else int(rng.integers(1, 60)) if rng.random() < 0.004 else 0
        output_ticks = output_ticks - 1 if output_ticks else int(rng.integers(1, 60)) if rng.random() < 0.002 else 0
        trial.tick("camera is stale" if fault_ticks else "", "no subscriber" if output_ticks else "")
    trial.check_stop()
    report = controller.report()
    for name in ("chunks", "stale_chunks", "refused_chunks", "limited_commands", "underruns", "violations"):
        result.counts[f"controller: {name.replace('_', ' ')}"] += getattr(report, name)
    for kind, counts in (("hold", report.holds), ("stop", report.stops), ("clamp", report.clamps)):
        for cause, count in counts.items():
            result.counts[f"controller: {kind}, {cause.value}"] += count


def random_scale(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw evenly by magnitude."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def random_limit(rng: np.random.Generator, *, with_jerk: bool) -> JointLimit:
    """Draw the limits of a joint."""
    low, velocity = float(rng.uniform(-3, 1)), random_scale(rng, 0.1, 30)
    kind = rng.random()
    if kind < 0.05 and not with_jerk:
        velocity = math.inf
    acceleration = None if kind < 0.2 and not with_jerk else random_scale(rng, 1, 300) * min(velocity, 10.0)
    jerk = random_scale(rng, 3, 300) * acceleration if with_jerk and acceleration else None
    if kind > 0.9:
        return JointLimit(
            min=-math.inf,
            max=math.inf,
            max_velocity=velocity,
            max_acceleration=acceleration,
            max_jerk=jerk,
            endless=True,
        )
    return JointLimit(
        min=low,
        max=low + random_scale(rng, 0.01, 10),
        max_velocity=velocity,
        max_acceleration=acceleration,
        max_jerk=jerk,
    )


def may_be_rate(limit: JointLimit) -> bool:
    """Return whether a channel with these limits can stop at zero."""
    return limit.min <= 0.0 <= limit.max and limit.max_jerk is None and not limit.endless


def span_of(limits: Sequence[JointLimit]) -> tuple[np.ndarray, np.ndarray]:
    """Return finite ranges (N,) to draw positions from."""
    low = np.array([max(limit.min, -5.0) for limit in limits])
    return low, np.array([min(limit.max, 5.0) for limit in limits])


def is_outside(pose: np.ndarray, limits: Sequence[JointLimit]) -> np.ndarray:
    """Return which joints (N,) are outside their limits."""
    return np.array([not limit.min <= x <= limit.max for x, limit in zip(pose, limits, strict=True)])


def random_pose(rng: np.random.Generator, limits: Sequence[JointLimit]) -> np.ndarray:
    """Draw a pose, sometimes at or outside the limits."""
    low, high = span_of(limits)
    pose = rng.uniform(low, high)
    kind = rng.random(len(limits))
    pose = np.where(kind < 0.1, low, np.where(kind < 0.2, high, pose))
    return np.where(kind > 0.95, high + 0.3 * (kind - 0.95) / 0.05, pose)


def random_targets(rng: np.random.Generator, limits: Sequence[JointLimit], count: int, step_s: float) -> np.ndarray:
    """Draw targets (count, N): smooth, noisy, jumping, at limits, huge; some NaN or infinite."""
    low, high = span_of(limits)
    middle, half = (low + high) / 2, (high - low) / 2
    times = np.arange(count)[:, None] * step_s
    shape = (count, len(limits))
    kind = rng.integers(6)
    if kind == 0:
        targets = middle + half * rng.uniform(0.2, 1.5) * np.sin(times * rng.uniform(0.5, 20) + rng.uniform(0, 6))
    elif kind == 1:
        targets = rng.uniform(middle - 1.5 * half, middle + 1.5 * half, shape)
    elif kind == 2:
        targets = middle + np.cumsum(rng.normal(size=shape) * half * 0.1, axis=0)
    elif kind == 3:
        targets = np.repeat(rng.uniform(low, high, (count // 20 + 1, len(limits))), 20, axis=0)[:count]
    elif kind == 4:
        targets = np.where(rng.random(shape) < 0.5, low, high)
    else:
        targets = np.sign(rng.normal(size=shape)) * 10.0 ** rng.uniform(-320, 308, shape)
    targets = targets + rng.choice([0.0, 0.0, 0.01]) * rng.normal(size=shape)
    return np.where(rng.random(shape) < 0.001, rng.choice([np.nan, np.inf, -np.inf], shape), targets)


def random_elapsed(rng: np.random.Generator, period_s: float) -> float:
    """Draw the time to the next tick."""
    kind = rng.random()
    if kind < 0.7:
        return period_s
    if kind < 0.85:
        return float(period_s * rng.uniform(0.02, 1.0))
    if kind < 0.96:
        return float(period_s * rng.uniform(1.0, 2.0))
    if kind < 0.98:
        return float(period_s * rng.uniform(2.0, 1000.0))
    return 0.0 if kind < 0.995 else float(rng.uniform(0.0, 1e-4))


def ticks_to_rest(limits: Sequence[JointLimit], period_s: float, is_rate: np.ndarray) -> int:
    """Return after how many ticks every joint must be at rest, and every rate at zero."""
    longest_s = 0.0
    for limit, comes_to_zero in zip(limits, is_rate, strict=True):
        speed = min(limit.max_velocity, 100.0)
        if comes_to_zero:
            back_s = 0.0 if limit.max_acceleration is None else 4.0 * speed / limit.max_acceleration
            longest_s = max(longest_s, (limit.max - limit.min) / speed + back_s)
        if limit.max_acceleration is not None:
            jerk_s = 0.0 if limit.max_jerk is None else 2 * limit.max_acceleration / limit.max_jerk
            longest_s = max(longest_s, speed / limit.max_acceleration + jerk_s)
    return math.ceil(longest_s / period_s) + 3


if __name__ == "__main__":
    sys.exit(main())
