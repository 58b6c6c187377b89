# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decide what the robot is told at each control tick: move, hold, or nothing.

The one rule: the robot moves only while the inputs are fresh and an action is due; in every other case it is braked to
rest and held there. Nothing is sent before the first task, and the first motion begins at the measured pose. A stop is
latched: only `reset` clears it. Chunks come from another thread, so every method takes the lock; none of them waits for
inference.

An action key whose unit is one of velocity (m/s, rad/s) is a rate: it starts at zero, and rest is zero instead of the
last command. So wherever a robot is held, a rate's commands lead to zero, and only then may they cease.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from gr00t_policy_node.chunking import ChunkError, ChunkPlayer, Execution
from gr00t_policy_node.control_state import ControlReport, ControlState, HoldCause, StopCause, StopRules
from gr00t_policy_node.jitter import JitterMonitor
from gr00t_policy_node.limits import JointLimit, LimitKind, MotionGuard
from gr00t_recorder.topics.units import is_rate
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.types import ActionChunk, Continuation


class Controller:
    """State of one robot's execution."""

    def __init__(
        self,
        embodiment: Embodiment,
        limits: Mapping[str, JointLimit],
        period_s: float,
        *,
        execution: Execution | None = None,
        stops: StopRules | None = None,
    ) -> None:
        """Prepare for the action keys that the model of `embodiment` produces.

        Args:
            embodiment: of the policy.
            limits: by action channel.
            period_s: control period.
            execution: how chunks become a motion; None: defaults.
            stops: when to stop for good, and how; None: defaults.

        Raises:
            ConfigError: an action is a bare difference; a channel has no limit, or is no rate and has no state channel
                of its name to start from; an endless one is not an angle; a rate cannot come to zero; the safe pose is
                not within limits.
        """
        self.keys: dict[str, VectorKey] = {key: embodiment.action[key] for key in embodiment.action_keys}
        names = [name for vector in self.keys.values() for name in vector.names]
        measured = {name for vector in embodiment.state.values() for name in vector.names}
        rates = [name for vector in self.keys.values() if is_rate(vector.unit) for name in vector.names]
        for key, vector in self.keys.items():
            if not vector.is_absolute and vector.relative_to is None and not is_rate(vector.unit):
                raise ConfigError(
                    f"embodiment '{embodiment.name}': action '{key}' is a difference (is_absolute: false), but not "
                    "said of what: it cannot be commanded; name the state in 'relative_to', or record absolute actions"
                )
        unmeasured = [name for name in names if name not in measured and name not in rates]
        if unmeasured:
            raise ConfigError(
                f"embodiment '{embodiment.name}': action channel '{unmeasured[0]}' has no state channel of that name, "
                "so its first command cannot start at the measured pose; name action and state channels alike"
            )
        self._guard = MotionGuard(names, limits, period_s, rates)
        self._is_measured = np.array([name not in rates for name in names], dtype=bool)
        try:
            self._player = ChunkPlayer(self.keys, execution, self._guard.endless)
        except ValueError as error:
            raise ConfigError(f"limits: a joint is endless, but {error}; correct the limits or the unit") from error
        self._rules = stops or StopRules()
        self._safe_pose = _safe_pose(self._rules.safe_pose, self.measured_names, names, limits)
        ends = np.cumsum([vector.dim for vector in self.keys.values()])
        self._places = [
            slice(end - vector.dim, end) for end, vector in zip(ends.tolist(), self.keys.values(), strict=True)
        ]
        self._period_s = period_s
        self.jitter = JitterMonitor(self._player.motions)
        self._state, self._reason, self._instruction = ControlState.IDLE, "no instruction", ""
        self._hold_cause: HoldCause | None = None
        self._is_braked = False  # since the stop
        self._counts: Counter[str] = Counter()
        self._holds: Counter[HoldCause] = Counter()
        self._stops: Counter[StopCause] = Counter()
        self._clamps: Counter[LimitKind] = Counter()
        self._last_tick_ns: int | None = None
        # Sums of tick periods, so that a pause of the whole process or a jump of the clock is no silence.
        self._input_gap_s = self._silence_s = self._running_s = 0.0
        self._violations_s: deque[float] = deque(maxlen=max(self._rules.max_violations, 1))
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Commanded channels, action keys concatenated in order."""
        return self._guard.names

    @property
    def measured_names(self) -> tuple[str, ...]:
        """Channels whose measured position the first command starts at: all but the rates."""
        return tuple(name for name, measured in zip(self.names, self._is_measured, strict=True) if measured)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the limits leave open."""
        return self._guard.warnings

    @property
    def is_wanted(self) -> bool:
        """Whether there is a task to infer for."""
        return self._state in (ControlState.RUNNING, ControlState.HOLDING)

    @property
    def last_command(self) -> np.ndarray | None:
        """The last command (N,); None before the first motion."""
        return self._guard.last

    def report(self) -> ControlReport:
        """Return state and counts."""
        with self._lock:
            return ControlReport(
                state=self._state,
                reason=self._reason,
                instruction=self._instruction,
                **self._counts,
                holds=dict(self._holds),
                stops=dict(self._stops),
                clamps=dict(self._clamps),
            )

    def start(self, instruction: str) -> None:
        """Begin a task, or change it in flight: the old plan is dropped, the robot holds until the new one is there.

        Raises:
            ValueError: the instruction is empty, or the stop is latched.
        """
        with self._lock:
            if not instruction.strip():
                raise ValueError("the instruction is empty; say what the robot shall do")
            if self._state is ControlState.STOPPED:
                raise ValueError(f"stopped ({self._reason}); call the reset service first")
            self._instruction = instruction
            self._input_gap_s = self._silence_s = 0.0
            self._violations_s.clear()
            self._hold(HoldCause.WAITING, "waiting for the first chunk")

    def finish(self, reason: str) -> None:
        """End the task; the robot comes to rest by the ticks that follow, or by `braking`. A latched stop stays."""
        with self._lock:
            self._instruction = ""
            if self._state is not ControlState.STOPPED:
                self._become_idle(reason)

    def stop(self, reason: str, cause: StopCause = StopCause.REQUEST) -> None:
        """Stop and stay stopped until `reset`: braked to rest, or led to the safe pose."""
        with self._lock:
            self._stop(cause, reason)

    def reset(self) -> None:
        """Clear a latched stop. The robot moves again only with a new task."""
        with self._lock:
            self._instruction = ""
            self._become_idle("no instruction")

    def fail(self, reason: str) -> None:
        """Drop the plan because the policy did not answer; the robot holds until it does."""
        with self._lock:
            if self.is_wanted:
                self._hold(HoldCause.POLICY, reason)

    def offer(self, chunk: ActionChunk, instruction: str, now_ns: int | None = None) -> bool:
        """Take a chunk that was inferred for `instruction`; False when it is refused or no longer wanted.

        A refused chunk drops the plan: what the policy said before it went wrong is not carried on.

        Args:
            chunk: answer of the policy.
            instruction: that it was asked to follow.
            now_ns: node clock, to refuse answers to the future; None: not looked at.
        """
        with self._lock:
            if not self.is_wanted or instruction != self._instruction:
                return False
            before = self._player.chunk
            try:
                is_newer = self._player.accept(chunk, now_ns)
            except ChunkError as error:
                self._counts["refused_chunks"] += 1
                self._hold(HoldCause.CHUNK, str(error))
                return False
            self._counts["chunks" if is_newer else "stale_chunks"] += 1
            if is_newer:
                self._silence_s = 0.0
        if is_newer:
            self.jitter.add(before, chunk, chunk.start_ns if now_ns is None else now_ns)
        return is_newer

    def continuation(self, stamp_ns: int, latency_s: float) -> Continuation | None:
        """Return what the answer to an observation is to continue; None: it stands for itself.

        Args:
            stamp_ns: of the observation.
            latency_s: expected from the observation to its chunk, such as a high quantile of those measured.
        """
        with self._lock:
            return self._player.continuation(stamp_ns, round(latency_s * 1e9))

    def count_refused_observation(self) -> None:
        """Count a policy query that was not made."""
        with self._lock:
            self._counts["refused_observations"] += 1

    def tick(
        self, now_ns: int, fault: str, measure: Callable[[], np.ndarray], output_fault: str = ""
    ) -> np.ndarray | None:
        """Return the command (N,) for this control tick, None when nothing must be sent.

        Args:
            now_ns: node clock.
            fault: why the inputs cannot be used, empty when they can.
            measure: gives the measured pose in the order of `measured_names`; called before the first motion only, may
                raise ObservationError.
            output_fault: why commands do not reach the robot, empty when they do. It is brought to rest; the next
                motion begins at the pose that is measured then, for others may have moved it.
        """
        with self._lock:
            elapsed_s = self._elapsed(now_ns)
            if self.is_wanted:
                self._watch(elapsed_s, fault, output_fault)
            if self._state is ControlState.STOPPED:
                return self._safe_action(elapsed_s)
            if self._state is ControlState.IDLE:
                return self._settle(elapsed_s)
            if fault:
                # what was planned on older inputs must not run on when they return
                self._hold(HoldCause.INPUT, fault)
                return self._brake(elapsed_s)
            if output_fault:
                self._hold(HoldCause.OUTPUT, output_fault)
                return self._settle(elapsed_s)
            return self._move(now_ns, elapsed_s, measure)

    def braking(self) -> Iterator[np.ndarray]:
        """Yield the commands (N,), to be sent a control period apart, that bring the robot to rest; drops the plan.

        For the end of the node, when no more ticks come.
        """
        with self._lock:
            self._player.clear()
        while True:
            with self._lock:
                command = next(self._guard.braking(), None)
            if command is None:
                return
            yield command

    def _elapsed(self, now_ns: int) -> float:
        last_ns, self._last_tick_ns = self._last_tick_ns, now_ns
        if last_ns is None:
            return 0.0
        if now_ns >= last_ns:
            return (now_ns - last_ns) / 1e9
        # the clock was set back (simulator restart): chunks of the new time would all count as older
        if self.is_wanted:
            self._hold(HoldCause.CLOCK, f"the clock was set back by {(last_ns - now_ns) / 1e9:.3f} s")
        return self._period_s

    def _watch(self, elapsed_s: float, fault: str, output_fault: str) -> None:
        """Stop the robot when a budget is used up."""
        elapsed_s = min(elapsed_s, MotionGuard.MAX_LATE_TICKS * self._period_s)
        self._running_s += elapsed_s
        rules = self._rules
        if fault or output_fault:
            self._input_gap_s += elapsed_s
            self._silence_s = 0.0  # it cannot answer
            if 0.0 < rules.max_input_gap_s < self._input_gap_s:
                cause, subject = (StopCause.INPUT, "inputs") if fault else (StopCause.OUTPUT, "outputs")
                told = f"{subject} not usable for more than {rules.max_input_gap_s:g} s: {fault or output_fault}"
                self._stop(cause, told)
            return
        self._input_gap_s = 0.0
        self._silence_s += elapsed_s
        if 0.0 < rules.max_silence_s < self._silence_s:
            told = f": {self._reason}" if self._reason else ""
            self._stop(StopCause.SILENCE, f"the policy gave no chunk for more than {rules.max_silence_s:g} s{told}")

    def _move(self, now_ns: int, elapsed_s: float, measure: Callable[[], np.ndarray]) -> np.ndarray | None:
        due = self._player.sample(now_ns)
        if due is None:
            newest = self._player.chunk
            if newest is not None and newest.end_ns < now_ns:
                late_ms = (now_ns - newest.end_ns) / 1e6
                self._counts["underruns"] += 1
                reason = f"no action is due: the newest chunk ended {late_ms:.0f} ms ago"
                self._hold(HoldCause.UNDERRUN, reason, keeps_plan=True)
            elif newest is None and self._hold_cause in (HoldCause.INPUT, HoldCause.OUTPUT):
                subject = "inputs" if self._hold_cause is HoldCause.INPUT else "outputs"
                self._hold(HoldCause.WAITING, f"{subject} are usable again; waiting for a chunk")
            return self._brake(elapsed_s)
        if self._guard.last is None:
            pose = np.zeros(len(self._is_measured))
            try:
                pose[self._is_measured] = measure()
                self._guard.start_at(pose)
            except ObservationError as error:
                self._hold(HoldCause.POSE, str(error), keeps_plan=True)
                return None
        command = self._guard.apply(self._nearest(np.concatenate([due[key] for key in self.keys])), elapsed_s)
        self._state, self._reason, self._hold_cause = ControlState.RUNNING, "", None
        if command.limited:
            self._counts["limited_commands"] += 1
            self._clamps.update(command.kinds)
        if command.violations:
            self._count_violation(command.violations)
        return command.positions

    def _nearest(self, target: np.ndarray) -> np.ndarray:
        """Return the same target (N,) as near to the last command as angles and rotations allow."""
        last, parts = self._guard.last, []
        assert last is not None
        for motion, place in zip(self._player.motions.values(), self._places, strict=True):
            parts.append(motion.nearest(target[place], last[place]))
        return np.concatenate(parts)

    def _count_violation(self, joints: tuple[str, ...]) -> None:
        self._counts["violations"] += 1
        self._violations_s.append(self._running_s)
        rules = self._rules
        if not 0 < rules.max_violations <= len(self._violations_s):
            return
        if self._running_s - self._violations_s[0] <= rules.violation_window_s:
            self._stop(
                StopCause.LIMITS,
                f"{rules.max_violations} actions beyond the limits within {rules.violation_window_s:g} s, last of "
                f"joint '{joints[0]}'",
            )

    def _safe_action(self, elapsed_s: float) -> np.ndarray | None:
        last = self._guard.last
        self._is_braked = self._is_braked or not self._guard.must_brake
        if last is None or not self._safe_pose or not self._is_braked:
            return self._brake(elapsed_s)
        target = last.copy()
        target[list(self._safe_pose)] = list(self._safe_pose.values())
        return self._guard.apply(self._nearest(target), elapsed_s).positions

    def _settle(self, elapsed_s: float) -> np.ndarray | None:
        """Bring the robot to rest after a task, then forget where it was."""
        if self._guard.last is not None and self._guard.must_brake:
            return self._guard.brake(elapsed_s)
        if self._guard.last is not None:
            self._guard.forget()
        return None

    def _brake(self, elapsed_s: float) -> np.ndarray | None:
        return None if self._guard.last is None else self._guard.brake(elapsed_s)

    def _become_idle(self, reason: str) -> None:
        self._player.clear()
        if self._guard.last is not None and not self._guard.must_brake:
            self._guard.forget()
        self._state, self._reason, self._hold_cause = ControlState.IDLE, reason, None

    def _hold(self, cause: HoldCause, reason: str, *, keeps_plan: bool = False) -> None:
        if not keeps_plan:
            self._player.clear()
        if self._hold_cause is not cause:
            self._holds[cause] += 1
        self._state, self._reason, self._hold_cause = ControlState.HOLDING, reason, cause

    def _stop(self, cause: StopCause, reason: str) -> None:
        if self._state is not ControlState.STOPPED:
            self._player.clear()
            self._stops[cause] += 1
            self._state, self._reason, self._hold_cause = ControlState.STOPPED, reason, None
            self._is_braked = False


def _safe_pose(
    pose: Mapping[str, float], allowed: Sequence[str], names: list[str], limits: Mapping[str, JointLimit]
) -> dict[int, float]:
    """Return place of the joint -> position; ConfigError when it cannot be reached."""
    for name, position in pose.items():
        if name not in allowed:
            what = "a rate, which ends at zero" if name in names else "not commanded"
            raise ConfigError(f"safe_pose: '{name}' is {what}; expected some of {', '.join(allowed)}")
        limit = limits[name]
        if not limit.min <= position <= limit.max:
            raise ConfigError(
                f"safe_pose: '{name}' is {position}, its limits are {limit.min} to {limit.max}; choose one inside"
            )
    return {names.index(name): position for name, position in pose.items()}
