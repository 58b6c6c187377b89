# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decide what the robot is told at each control tick: move, hold, or nothing.

The one rule: a command is sent only while the inputs are fresh and an action is due; in every other case the last
command is repeated. Nothing is sent before the first task, and the first motion begins at the measured pose. Chunks
come from another thread, so every method takes the lock; none of them waits for inference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from gr00t_policy_node.chunking import ChunkError, ChunkPlayer
from gr00t_policy_node.limits import JointLimit, MotionGuard
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.types import ActionChunk


class ControlState(str, Enum):
    """Why the robot moves or does not."""

    IDLE = "idle"  # no task
    RUNNING = "running"
    HOLDING = "holding"  # a task, but an input is not usable or no action is due
    STOPPED = "stopped"  # latched


@dataclass(frozen=True)
class ControlReport:
    """State and counts since the controller was made."""

    state: ControlState = ControlState.IDLE
    reason: str = "no instruction"
    instruction: str = ""
    chunks: int = 0
    refused_observations: int = 0
    refused_chunks: int = 0
    limited_commands: int = 0
    underruns: int = 0


class Controller:
    """State of one robot's execution."""

    def __init__(self, embodiment: Embodiment, limits: Mapping[str, JointLimit], period_s: float) -> None:
        """Prepare for the action keys that the model of `embodiment` produces.

        Raises:
            ConfigError: an action channel has no limit, or no state channel of its name to start from.
        """
        self.keys: dict[str, VectorKey] = {key: embodiment.action[key] for key in embodiment.action_keys}
        names = [name for vector in self.keys.values() for name in vector.names]
        measured = {name for vector in embodiment.state.values() for name in vector.names}
        unmeasured = [name for name in names if name not in measured]
        if unmeasured:
            raise ConfigError(
                f"embodiment '{embodiment.name}': action channel '{unmeasured[0]}' has no state channel of that name, "
                "so its first command cannot start at the measured pose; name action and state channels alike"
            )
        self._player = ChunkPlayer(self.keys)
        self._guard = MotionGuard(names, limits, period_s)
        self._report = ControlReport()
        self._last_tick_ns: int | None = None
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Commanded channels, action keys concatenated in order."""
        return self._guard.names

    @property
    def is_wanted(self) -> bool:
        """Whether there is a task to infer for."""
        return self._report.state in (ControlState.RUNNING, ControlState.HOLDING)

    @property
    def last_command(self) -> np.ndarray | None:
        """The command (N,) that holds the robot where it was sent last; None before the first motion."""
        return self._guard.last

    def report(self) -> ControlReport:
        """Return state and counts."""
        with self._lock:
            return self._report

    def start(self, instruction: str) -> None:
        """Begin a task, or change it in flight: the old plan is dropped, the robot holds until the new one is there.

        Raises:
            ValueError: the instruction is empty, or the stop is latched.
        """
        with self._lock:
            if not instruction.strip():
                raise ValueError("the instruction is empty; say what the robot shall do")
            if self._report.state is ControlState.STOPPED:
                raise ValueError(f"stopped ({self._report.reason}); call the reset service first")
            self._player.clear()
            self._set(ControlState.HOLDING, "waiting for the first chunk")
            self._report = replace(self._report, instruction=instruction)

    def finish(self, reason: str) -> None:
        """End the task; the robot is left at its last command. A latched stop stays."""
        with self._lock:
            self._forget_motion()
            self._report = replace(self._report, instruction="")
            if self._report.state is not ControlState.STOPPED:
                self._set(ControlState.IDLE, reason)

    def stop(self, reason: str) -> None:
        """Stop and stay stopped until `reset`."""
        with self._lock:
            if self._report.state is not ControlState.STOPPED:
                self._player.clear()
                self._set(ControlState.STOPPED, reason)

    def reset(self) -> None:
        """Clear a latched stop. The robot moves again only with a new task."""
        with self._lock:
            self._forget_motion()
            self._report = replace(self._report, instruction="")
            self._set(ControlState.IDLE, "no instruction")

    def offer(self, chunk: ActionChunk, instruction: str) -> bool:
        """Take a chunk that was inferred for `instruction`; False when it is refused or no longer wanted."""
        with self._lock:
            if not self.is_wanted or instruction != self._report.instruction:
                return False
            try:
                is_newer = self._player.accept(chunk)
            except ChunkError as error:
                self._report = replace(self._report, refused_chunks=self._report.refused_chunks + 1)
                self._set(ControlState.HOLDING, str(error))
                return False
            self._report = replace(self._report, chunks=self._report.chunks + is_newer)
            return is_newer

    def count_refused_observation(self) -> None:
        """Count a policy query that was not made."""
        with self._lock:
            self._report = replace(self._report, refused_observations=self._report.refused_observations + 1)

    def tick(self, now_ns: int, fault: str, measure: Callable[[], np.ndarray]) -> np.ndarray | None:
        """Return the command (N,) for this control tick, None when nothing must be sent.

        Args:
            now_ns: node clock.
            fault: why the inputs cannot be used, empty when they can.
            measure: gives the measured pose (N,) in the order of `names`; called before the first motion only, may
                raise ObservationError.
        """
        with self._lock:
            elapsed_s = 0.0 if self._last_tick_ns is None else (now_ns - self._last_tick_ns) / 1e9
            self._last_tick_ns = now_ns
            if elapsed_s < 0.0:
                # the clock was set back (simulator restart): chunks of the new time would all count as older
                self._player.clear()
            if not self.is_wanted:
                return self._guard.last if self._report.state is ControlState.STOPPED else None
            if fault:
                # what was planned on older inputs must not run on when they return
                self._player.clear()
                self._set(ControlState.HOLDING, fault)
                return self._guard.last
            return self._move(now_ns, elapsed_s, measure)

    def _move(self, now_ns: int, elapsed_s: float, measure: Callable[[], np.ndarray]) -> np.ndarray | None:
        due = self._player.sample(now_ns)
        if due is None:
            if self._player.chunk is not None:
                late_ms = (now_ns - self._player.chunk.end_ns) / 1e6
                self._report = replace(self._report, underruns=self._report.underruns + 1)
                self._set(ControlState.HOLDING, f"no action is due: the newest chunk ended {late_ms:.0f} ms ago")
            return self._guard.last
        if self._guard.last is None:
            try:
                self._guard.start_at(measure())
            except ObservationError as error:
                self._set(ControlState.HOLDING, str(error))
                return None
        command = self._guard.apply(np.concatenate([due[key] for key in self.keys]), elapsed_s)
        self._set(ControlState.RUNNING, "")
        if command.limited:
            self._report = replace(self._report, limited_commands=self._report.limited_commands + 1)
        return command.positions

    def _forget_motion(self) -> None:
        self._player.clear()
        self._guard.forget()

    def _set(self, state: ControlState, reason: str) -> None:
        self._report = replace(self._report, state=state, reason=reason)
