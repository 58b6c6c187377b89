# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Buffers and codec of one key: what `gr00t_recorder.topics.frames` joins to frames. The caller holds the lock."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from gr00t_recorder.topics.bindings import (
    DEFAULT_TOLERANCE_TICKS,
    Align,
    DepthBinding,
    StreamConfig,
    VectorBinding,
    VideoBinding,
)
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, ImageCodec, NotFiniteError, VectorCodec, age_text
from gr00t_recorder.topics.image_size import size_in_header
from gr00t_recorder.topics.resample import Arrival, Choice, Sample, StreamBuffer
from gr00t_training.errors import ObservationError

MAX_CHANNEL_GROUPS = 16  # publishers sharing one topic; more means that parts are cut at random


class VideoInput:
    """Buffer and codec of a camera or depth camera."""

    def __init__(
        self,
        name: str,
        binding: VideoBinding | DepthBinding,
        config: StreamConfig,
        codec: ImageCodec,
        tick_s: float,
        horizon_ns: int,
        *,
        is_wary: bool = False,
    ) -> None:
        self.name, self.binding, self.codec = name, binding, codec
        self.kind, _, self.key = name.partition(".")
        self.config, self.max_age_ns = config, round(config.max_age_s * 1e9)
        self._tolerance_ns = _tolerance_ns(binding, tick_s)
        self.buffer = StreamBuffer(horizon_ns)
        self.foreign = ""
        self.fault = ""  # why the newest message cannot be used
        self._is_proven = False
        # a wary input looks at the size of every compressed image: another one shows before a frame needs it
        self._is_wary = is_wary and config.type == COMPRESSED_IMAGE_TYPE
        self._size: tuple[int, int] | None = None

    def is_meant(self, message: Any) -> bool:
        return True

    def add(self, message: Any, arrival: Arrival) -> bool | None:
        try:
            self.codec.check(message)
            if self._is_wary and (size := size_in_header(message.data)) != self._size:
                self._is_proven, self._size = False, size
            if not self._is_proven:
                self.codec.decode(message)  # a compressed image of the wrong size must not wait for the first frame
                self._is_proven = True
        except ObservationError as error:
            self.refuse(str(error))
            raise
        is_new = self.buffer.insert(Sample(arrival, message))
        if is_new:
            self.fault = ""
        return is_new

    def refuse(self, reason: str, *, is_hidden: bool = False) -> None:
        """Note that the newest message cannot be used.

        Args:
            reason: why.
            is_hidden: whether only decoding showed it: a wary input decodes the next ones as they come, until one is
                good, so that the fault lasts as long.
        """
        self.fault = reason
        if is_hidden and self._is_wary:
            self._is_proven = False

    def span_ns(self) -> tuple[int, int] | None:
        newest_ns = self.buffer.newest_ns
        return None if newest_ns is None else (newest_ns, newest_ns)

    def late_channels(self, stamp_ns: int) -> list[str]:
        return []

    def sample(self, tick_ns: int) -> Choice | None:
        return self.buffer.sample(tick_ns, self.binding.align)

    def is_filled(self, choice: Choice, tick_ns: int) -> bool:
        return _is_filled(choice, tick_ns, self.binding.align, self._tolerance_ns)

    def require(self, choice: Choice | None) -> Choice:
        if choice is None:
            raise ObservationError(f"{self.name}: no image on {self.config.topic}; check the camera and the topic map")
        return _require_fresh(self.name, self.config, choice)

    def is_settled(self, tick_ns: int, clock_ns: int) -> bool:
        return self.buffer.is_settled(tick_ns, self.binding.align, clock_ns)

    def lack(self) -> str:
        return ""

    def clear(self) -> None:
        self.buffer.clear()


class VectorInput:
    """Buffers of a state or action key: one per group of channels that arrive together."""

    def __init__(
        self,
        name: str,
        binding: VectorBinding,
        config: StreamConfig,
        codec: VectorCodec,
        tick_s: float,
        horizon_ns: int,
    ) -> None:
        self.name, self.binding, self.codec = name, binding, codec
        self.config, self.max_age_ns = config, round(config.max_age_s * 1e9)
        self._tolerance_ns = _tolerance_ns(binding, tick_s)
        self.foreign = ""  # what the newest message carries when it has none of the key's channels
        self.fault = ""  # why the newest message cannot be used
        self._horizon_ns = horizon_ns
        self._groups: dict[tuple[int, ...], StreamBuffer] = {}
        self._faulty: set[int] = set()  # channels that have not come since the fault

    def is_meant(self, message: Any) -> bool:
        if self.codec.is_meant(message):
            return True
        self._note_foreign()
        return False

    def add(self, message: Any, arrival: Arrival) -> bool | None:
        try:
            channels = self.codec.decode(message)
        except NotFiniteError as error:
            self._buffer(error.indices).mark_hole(arrival.stamp_ns)
            self._refuse(str(error), error.indices)
            raise
        except ObservationError as error:
            self.refuse(str(error))
            raise
        if channels is None:
            self._note_foreign()
            return None
        self.foreign = ""
        is_new = self._buffer(channels.indices).insert(Sample(arrival, channels.values))
        if self.fault and is_new:
            self._faulty.difference_update(channels.indices)
            if not self._faulty:
                self.fault = ""
        return is_new

    def refuse(self, reason: str, *, is_hidden: bool = False) -> None:
        """Note a message that cannot be used; it may have been about any channel."""
        self._refuse(reason, range(len(self.codec.names)))

    def span_ns(self) -> tuple[int, int] | None:
        """Return the earliest and latest of the channels' newest stamps, None while a channel has not come."""
        if len(self._groups) == 1:  # all but always; the control loop asks at every tick
            group, buffer = next(iter(self._groups.items()))
            stamp_ns = buffer.newest_ns
            return None if stamp_ns is None or len(group) < len(self.codec.names) else (stamp_ns, stamp_ns)
        newest = self._newest_stamps()
        return (min(newest.values()), max(newest.values())) if len(newest) == len(self.codec.names) else None

    def late_channels(self, stamp_ns: int) -> list[str]:
        """Return the channels that have not come since `stamp_ns`; empty when none has."""
        newest = self._newest_stamps()
        late = [name for index, name in enumerate(self.codec.names) if newest.get(index, stamp_ns) <= stamp_ns]
        return late if len(late) < len(self.codec.names) else []

    def sample(self, tick_ns: int) -> Choice | None:
        """Join the groups; where two carry the same channel, the newer sample counts."""
        choices = [(group, buffer.sample(tick_ns, self.binding.align)) for group, buffer in self._groups.items()]
        found = [(group, choice) for group, choice in choices if choice is not None]
        if len(found) == 1 and len(found[0][0]) == len(self.codec.names):
            return found[0][1]
        values = np.full(len(self.codec.names), np.nan)
        ages = np.zeros(len(self.codec.names), dtype=np.int64)
        for group, choice in sorted(found, key=lambda item: item[1].samples[-1].stamp_ns):
            values[list(group)] = choice.value
            ages[list(group)] = choice.age_ns
        if np.isnan(values).any():
            return None  # a channel has not come yet
        samples = tuple(sample for _, choice in found for sample in choice.samples)
        return Choice(values, int(ages[np.abs(ages).argmax()]), samples)

    def is_filled(self, choice: Choice, tick_ns: int) -> bool:
        return _is_filled(choice, tick_ns, self.binding.align, self._tolerance_ns)

    def require(self, choice: Choice | None) -> Choice:
        if choice is None:
            missing = self.lack() or f"no sample on {self.config.topic} for the tick; check its publisher"
            raise ObservationError(f"{self.name}: {missing}")
        return _require_fresh(self.name, self.config, choice)

    def is_settled(self, tick_ns: int, clock_ns: int) -> bool:
        settled: set[int] = set()
        for group, buffer in self._groups.items():
            if buffer.is_settled(tick_ns, self.binding.align, clock_ns):
                settled.update(group)
        return len(settled) == len(self.codec.names)

    def lack(self) -> str:
        """Tell which channels never came, although messages did."""
        covered = {index for group in self._groups for index in group}
        missing = [name for index, name in enumerate(self.codec.names) if index not in covered]
        if not missing or not (self.codec.names_seen or self._groups):
            return ""
        if self.codec.frames:
            links = ", ".join(self.codec.names_seen)
            return f"no transform {' -> '.join(self.codec.frames)} on {self.config.topic}, which carries {links}"
        return (
            f"{', '.join(missing)} never came on {self.config.topic}, which carries "
            f"{', '.join(self.codec.names_seen)}; check 'select' in the topic map"
        )

    def clear(self) -> None:
        self._groups.clear()

    def _newest_stamps(self) -> dict[int, int]:
        newest: dict[int, int] = {}
        for group, buffer in self._groups.items():
            stamp_ns = buffer.newest_ns
            if stamp_ns is not None:
                newest.update((index, max(stamp_ns, newest.get(index, stamp_ns))) for index in group)
        return newest

    def _refuse(self, reason: str, indices: Iterable[int]) -> None:
        # other publishers may go on with the other channels: the fault lasts until these come again
        if not self.fault:
            self._faulty.clear()
        self.fault = reason
        self._faulty.update(indices)

    def _note_foreign(self) -> None:
        self.foreign = f"messages arrive, but carry {self.codec.carried or 'no names'}"

    def _buffer(self, group: tuple[int, ...]) -> StreamBuffer:
        buffer = self._groups.get(group)
        if buffer is None:
            if len(self._groups) >= MAX_CHANNEL_GROUPS:
                del self._groups[next(iter(self._groups))]
            blend = None if self.codec.blend.is_step else partial(self.codec.blend, group=group)
            buffer = self._groups[group] = StreamBuffer(
                self._horizon_ns, max_gap_ns=round(2e9 * self.config.max_age_s), blend=blend
            )
        return buffer


def _require_fresh(name: str, config: StreamConfig, choice: Choice) -> Choice:
    if abs(choice.age_ns) > config.max_age_s * 1e9:
        raise ObservationError(
            f"{name}: the closest sample on {config.topic} is {age_text(abs(choice.age_ns))} from the tick, "
            f"allowed are {config.max_age_s:g} s; check its publisher or 'max_age_s'"
        )
    return choice


def _is_filled(choice: Choice, tick_ns: int, align: Align, tolerance_ns: int) -> bool:
    """Whether the tick got an older sample than its own; by arrival for `causal`, where stamps lag as they may."""
    age_ns = choice.age_ns
    if align is Align.CAUSAL:
        age_ns = tick_ns - min(sample.arrival.receive_ns for sample in choice.samples)
    return abs(age_ns) > tolerance_ns


def _tolerance_ns(binding: VectorBinding | VideoBinding | DepthBinding, tick_s: float) -> int:
    ticks = DEFAULT_TOLERANCE_TICKS[binding.align]
    return round(1e9 * (ticks * tick_s if binding.tolerance_s is None else binding.tolerance_s))
