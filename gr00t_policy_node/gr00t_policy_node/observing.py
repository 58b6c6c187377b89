# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check the inputs of a policy, and make observations from them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from gr00t_policy_node.control.state import HoldCause
from gr00t_policy_node.timing import Stage, StageTimers
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.streams import StreamReport, StreamState
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ObservationError
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.policy.state_range import StateRange
from gr00t_training.transforms.observation import observation_from_frames
from gr00t_training.types import Frame, Observation


class Observer:
    """The inputs of one policy. Every method may be called from any thread, `observe` from one."""

    def __init__(
        self,
        inputs: TopicMap,
        embodiment: Embodiment,
        policy: PolicyLike,
        *,
        max_state_ranges: float,
        timers: StageTimers,
        clock_ns: Callable[[], int],
    ) -> None:
        """Prepare for the streams of `inputs`.

        Args:
            inputs: topic map of what the policy needs (`input_map`).
            embodiment: of the policy.
            policy: may know the state's range in training (`state_statistics`); a server may report it later.
            max_state_ranges: see `StateRange`; 0: the state is not compared with training.
            timers: take ages and times.
            clock_ns: the node's clock.

        Raises:
            ConfigError: the topic map does not fit the embodiment.
            CheckpointError: the policy's statistics do not.
        """
        self.assembler = FrameAssembler(inputs, embodiment, with_history=True, validate_on_arrival=True)
        self.gates: Counter[str] = Counter()  # what closed one -> observations refused
        self._embodiment = embodiment
        self._policy = policy
        self._max_state_ranges = max_state_ranges
        self._timers = timers
        self._clock_ns = clock_ns
        self._endless = {key for key, binding in inputs.state.items() if binding.wrap}
        self._streams_of = {str(ref): binding.stream for ref, binding in inputs.bindings.items()}
        self._state_range = self._known_range()
        self._is_state_in_range = False
        self._num_tasks = self._begun_task = 0  # begun, and the one of the newest observation
        self._begin_ns = 0  # first tick of the task
        self._begun_s = self._decode_s = 0.0  # of the newest observation
        self._ages_s: dict[str, float] = {}  # of its samples, by stream

    def forget(self) -> None:
        """Check the state again as for the first time: the robot may have been changed."""
        self._is_state_in_range = False

    def begin_task(self) -> None:
        """Forget earlier observations: the next one starts the history, as episodes do in training."""
        self._num_tasks += 1

    def fault(self, now_ns: int) -> str:
        """Return why the inputs cannot be used, empty if they can; called at every control tick."""
        return self.assembler.health.fault(now_ns) or self._state_fault(now_ns)

    def cause(self, now_ns: int) -> HoldCause:
        """Return the kind of the fault that `fault` returns."""
        if self.assembler.health.has_conflict(now_ns):
            return HoldCause.PUBLISHERS
        return HoldCause.INPUT if self.assembler.health.fault(now_ns) else HoldCause.STATE_RANGE

    def invalid(self) -> list[str]:
        """Return what is wrong with inputs that arrive but cannot be used; those that are missing may still come."""
        state_fault = self._state_fault(self._clock_ns())
        invalid = [
            f"{report.topic}: {report.reason}" for report in self.reports() if report.state is StreamState.INVALID
        ]
        return [*invalid, state_fault] if state_fault else invalid

    def reports(self) -> list[StreamReport]:
        """Return condition and counts of every stream."""
        return self.assembler.health.observed_reports(self._clock_ns())

    def observe(self, instruction: str) -> Observation:
        """Make the newest observation.

        Raises:
            ObservationError: an input is not usable; names it.
        """
        self._begun_s = time.perf_counter()
        _refuse(self.fault(self._clock_ns()))
        tick_ns = self.assembler.picker.latest_tick()
        if tick_ns is None:
            raise ObservationError("waiting for the first sample of every camera and state key")
        if self._begun_task != self._num_tasks or tick_ns < self._begin_ns:  # a clock may have been set back
            self._begun_task, self._begin_ns = self._num_tasks, tick_ns
        frames = self.assembler.picker.observed_frames(tick_ns, self._begin_ns)
        # an image that proved to be damaged was replaced by an older one
        _refuse(self.assembler.health.fault(self._clock_ns()))
        observation = observation_from_frames(frames, self._embodiment, instruction)
        self._note_ages(frames, tick_ns)
        self._decode_s = time.perf_counter() - self._begun_s
        return observation

    def count_refusal(self) -> None:
        """Count the reasons that prevent a policy call."""
        self.gates.update(self._closed_gates())

    def count_use(self) -> float:
        """Time the newest observation, which was answered; return when it was begun (time.perf_counter) [s]."""
        for stream, age_s in self._ages_s.items():
            self._timers.add_used(stream, age_s)
        self._timers.add(Stage.DECODE, self._decode_s)
        return self._begun_s

    def pose(self, names: Sequence[str]) -> np.ndarray:
        """Return the newest positions (N,) of these state channels; ObservationError where one is not known."""
        values: dict[str, float] = {}
        for key, positions in self.assembler.picker.measured_state(self._clock_ns()).items():
            values.update(zip(self._embodiment.state[key].names, positions.tolist(), strict=True))
        missing = [name for name in names if name not in values]
        if missing:
            raise ObservationError(f"pose of joint '{missing[0]}' is not known or too old; make its state key required")
        return np.array([values[name] for name in names])

    def _note_ages(self, frames: Sequence[Frame], tick_ns: int) -> None:
        passed_ns = self._clock_ns() - tick_ns
        self._ages_s = {}
        for name, age_ns in frames[-1].ages_ns.items():
            stream, age_s = self._streams_of[name], (passed_ns + age_ns) / 1e9
            self._ages_s[stream] = max(age_s, self._ages_s.get(stream, age_s))

    def _closed_gates(self) -> list[str]:
        """Return the streams that cannot be used, each with its condition; of what concerns no single one, its name."""
        now_ns = self._clock_ns()
        reports = self.assembler.health.observed_reports(now_ns)
        closed = [f"{report.name} {report.state.value}" for report in reports if report.state is not StreamState.OK]
        if closed:
            return closed
        if self.assembler.health.fault(now_ns):
            return ["skew"]
        return ["state range" if self._state_fault(now_ns) else "other"]

    def _state_fault(self, now_ns: int) -> str:
        """Return why the measured state is out of the range of training; after `forget`, until it is inside once."""
        if self._is_state_in_range or not self._max_state_ranges:
            return ""
        if self._state_range is None:
            try:
                self._state_range = self._known_range()
            except CheckpointError as error:
                return str(error)
        if self._state_range is None:
            return ""
        state = self.assembler.picker.measured_state(now_ns)
        out_of_range = self._state_range.channels_out_of_range(state)
        self._is_state_in_range = not out_of_range and self._state_range.keys <= state.keys()
        return f"{'; '.join(out_of_range)}; or set 'max_state_ranges' to 0" if out_of_range else ""

    def _known_range(self) -> StateRange | None:
        """Return the range of the state in training; None while the policy does not report it."""
        statistics = getattr(self._policy, "state_statistics", None)
        if statistics is None:
            return None
        return StateRange(self._embodiment, statistics, self._max_state_ranges, endless=self._endless)


def input_map(topic_map: TopicMap) -> TopicMap:
    """Return the part of a topic map that a policy needs: states, cameras and their streams."""
    used = {binding.stream for binding in (*topic_map.state.values(), *topic_map.video.values())}
    streams = {name: config for name, config in topic_map.streams.items() if name in used}
    recorded_only = {"action": {}, "depth": {}, "command_source": None, "task": None, "events": None}
    return dataclasses.replace(topic_map, streams=streams, **recorded_only)


def skew_warning(inputs: TopicMap) -> str:
    """Return which streams have a `max_age_s` without effect because of `max_skew_s`, empty if none has.

    A stream that is older than `max_skew_s` while another one is fresh holds the robot, whatever its own limit is.
    """
    limit_s = inputs.max_skew_s
    above = {name: config.max_age_s for name, config in inputs.streams.items() if config.max_age_s > limit_s}
    if not limit_s or not above or len(inputs.streams) < 2:
        return ""
    shown = ", ".join(f"{name} {age_s:g} s" for name, age_s in above.items())
    return (
        f"max_age_s above max_skew_s has no effect ({shown}; max_skew_s {limit_s:g} s): inputs further apart than "
        "max_skew_s hold the robot; raise max_skew_s of the topic map, or lower max_age_s"
    )


def _refuse(fault: str) -> None:
    if fault:
        raise ObservationError(fault)
