# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Buffers and codec of one key, filled by `gr00t_recorder.topics.samples`. The caller holds the store's lock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from gr00t_recorder.topics.bindings import (
    DEFAULT_TOLERANCE_TICKS,
    Align,
    DepthBinding,
    StreamConfig,
    TopicMap,
    VectorBinding,
    VideoBinding,
)
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, check_stamp
from gr00t_recorder.topics.fields import field_value
from gr00t_recorder.topics.image_codec import DepthCodec, ImageCodec
from gr00t_recorder.topics.images import encoded_size
from gr00t_recorder.topics.publishers import PublisherWatch
from gr00t_recorder.topics.resample import Arrival, Choice, Sample, StreamBuffer
from gr00t_recorder.topics.streams import age_text
from gr00t_recorder.topics.vector_codec import NotFiniteError, VectorCodec
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.io.text import printable
from gr00t_training.types import SOURCE_REF, KeyRef

SOURCE_KEY = VectorKey(names=("source",), unit="")  # who commands, as a vector
MAX_SOURCE = 255  # it is a uint8
MAX_CHANNEL_GROUPS = 16  # publishers sharing one topic; more means that parts are cut at random


class KeyInput(ABC):
    """What vectors and cameras have in common."""

    binding: VectorBinding | VideoBinding | DepthBinding

    def __init__(
        self, ref: KeyRef, config: StreamConfig, align: Align, tolerance_ns: int, watch: PublisherWatch
    ) -> None:
        self.ref, self.config, self.watch = ref, config, watch
        self.name = str(ref)
        self.max_age_ns = round(config.max_age_s * 1e9)
        self.unmatched = ""  # what the newest message carries when it has none of the key's channels
        self.fault = ""  # why the newest message cannot be used
        self._align, self._tolerance_ns = align, tolerance_ns

    def matches(self, message: Any) -> bool:
        """Whether a message is about the key."""
        return True

    @abstractmethod
    def add(self, message: Any, arrival: Arrival) -> bool | None:
        """Store what a message says of the key; False: its stamp came before, None: it says nothing.

        Raises:
            ObservationError: the message cannot be used.
        """

    @abstractmethod
    def refuse(self, reason: str, *, is_hidden: bool = False) -> None:
        """Note that the newest message cannot be used.

        Args:
            reason: why.
            is_hidden: whether only decoding showed it.
        """

    @abstractmethod
    def span_ns(self) -> tuple[int, int] | None:
        """Return the earliest and latest of the channels' newest stamps, None while a channel has not come."""

    @abstractmethod
    def sample(self, tick_ns: int) -> Choice | None:
        """Choose what belongs to a tick."""

    @abstractmethod
    def is_settled(self, tick_ns: int, clock_ns: int) -> bool:
        """Whether messages in order of their stamps can no longer change the choice."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything: the clock was set back."""

    def late_channels(self, stamp_ns: int) -> list[str]:
        """Return the channels that have not come since `stamp_ns`; empty if none has."""
        return []

    def missing_channels(self) -> str:
        """Return which channels never came, although messages did."""
        return ""

    def conflict(self, now_ns: int) -> str:
        """Return which publishers send the same channels, empty if none do."""
        return f"{self.name}: {self.watch.reason(self.config.topic)}" if self.watch.is_conflict(now_ns) else ""

    def is_filled(self, choice: Choice, tick_ns: int) -> bool:
        """Whether the tick got an older sample than its own; by arrival for `causal`, since its stamps may lag."""
        age_ns = choice.age_ns
        if self._align is Align.CAUSAL:
            age_ns = tick_ns - min(sample.arrival.receive_ns for sample in choice.samples)
        return abs(age_ns) > self._tolerance_ns

    def require(self, choice: Choice | None) -> Choice:
        """Return a choice that is there and fresh; ObservationError where it is not."""
        if choice is None:
            raise ObservationError(f"{self.name}: {self.missing_channels() or self._nothing()}")
        if abs(choice.age_ns) > self.config.max_age_s * 1e9:
            raise ObservationError(
                f"{self.name}: the closest sample on {self.config.topic} is {age_text(abs(choice.age_ns))} from the "
                f"tick (limit {self.config.max_age_s:g} s); check its publisher or 'max_age_s'"
            )
        return choice

    @abstractmethod
    def _nothing(self) -> str:
        """Return that there is no sample, and what to check."""


class VideoInput(KeyInput):
    """Buffer and codec of a camera or depth camera."""

    def __init__(
        self,
        ref: KeyRef,
        binding: VideoBinding | DepthBinding,
        config: StreamConfig,
        codec: ImageCodec,
        tick_s: float,
        horizon_ns: int,
        *,
        validate_on_arrival: bool = False,
    ) -> None:
        super().__init__(ref, config, binding.align, _tolerance_ns(binding, tick_s), PublisherWatch(()))
        self.binding, self.codec = binding, codec
        self.buffer = StreamBuffer(horizon_ns, max_ahead_ns=self._tolerance_ns)
        self._is_proven = False  # an image of this size was decoded
        # the size of every compressed image is checked: another one is reported before a frame needs it
        self._validate_on_arrival = validate_on_arrival and config.type == COMPRESSED_IMAGE_TYPE
        self._size: tuple[int, int] | None = None

    def add(self, message: Any, arrival: Arrival) -> bool | None:
        self.watch.note(arrival.receive_ns, number=arrival.number)
        try:
            self.codec.check(message)
            if self._validate_on_arrival and (size := encoded_size(message)) != self._size:
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
        # where validation is on, the next ones are decoded as they come until one is good: the fault lasts as long
        self.fault = reason
        if is_hidden and self._validate_on_arrival:
            self._is_proven = False

    def span_ns(self) -> tuple[int, int] | None:
        newest_ns = self.buffer.newest_ns
        return None if newest_ns is None else (newest_ns, newest_ns)

    def sample(self, tick_ns: int) -> Choice | None:
        return self.buffer.sample(tick_ns, self.binding.align)

    def is_settled(self, tick_ns: int, clock_ns: int) -> bool:
        return self.buffer.is_settled(tick_ns, self.binding.align, clock_ns)

    def clear(self) -> None:
        self.buffer.clear()
        self.watch.clear()

    def _nothing(self) -> str:
        return f"no image on {self.config.topic}; check the camera and the topic map"


class VectorInput(KeyInput):
    """Buffers of a state or action key: one per group of channels that arrive together."""

    def __init__(
        self,
        ref: KeyRef,
        binding: VectorBinding,
        config: StreamConfig,
        codec: VectorCodec,
        tick_s: float,
        horizon_ns: int,
        key: VectorKey,
    ) -> None:
        super().__init__(ref, config, binding.align, _tolerance_ns(binding, tick_s), PublisherWatch(codec.names, key))
        self.binding, self.codec = binding, codec
        self._horizon_ns = horizon_ns
        self._groups: dict[tuple[int, ...], StreamBuffer] = {}
        self._faulty: set[int] = set()  # channels that have not come since the fault

    def matches(self, message: Any) -> bool:
        if self.codec.matches(message):
            return True
        self._note_unmatched()
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
            self._note_unmatched()
            return None
        self.unmatched = ""
        self.watch.note(
            arrival.receive_ns,
            number=arrival.number,
            indices=None if len(channels.indices) == len(self.codec.names) else channels.indices,
            values=channels.values,
            order=channels.order,
        )
        is_new = self._buffer(channels.indices).insert(Sample(arrival, channels.values))
        if self.fault and is_new:
            self._faulty.difference_update(channels.indices)
            if not self._faulty:
                self.fault = ""
        return is_new

    def refuse(self, reason: str, *, is_hidden: bool = False) -> None:
        # it may have been about any channel
        self._refuse(reason, range(len(self.codec.names)))

    def span_ns(self) -> tuple[int, int] | None:
        if len(self._groups) == 1:  # nearly always; the control loop asks at every tick
            group, buffer = next(iter(self._groups.items()))
            stamp_ns = buffer.newest_ns
            return None if stamp_ns is None or len(group) < len(self.codec.names) else (stamp_ns, stamp_ns)
        newest = self._newest_stamps()
        return (min(newest.values()), max(newest.values())) if len(newest) == len(self.codec.names) else None

    def late_channels(self, stamp_ns: int) -> list[str]:
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

    def is_settled(self, tick_ns: int, clock_ns: int) -> bool:
        settled: set[int] = set()
        for group, buffer in self._groups.items():
            if buffer.is_settled(tick_ns, self.binding.align, clock_ns):
                settled.update(group)
        return len(settled) == len(self.codec.names)

    def missing_channels(self) -> str:
        covered = {index for group in self._groups for index in group}
        missing = [name for index, name in enumerate(self.codec.names) if index not in covered]
        if not missing or not (self.codec.names_seen or self._groups):
            return ""
        if self.codec.frames:
            links = printable(", ".join(self.codec.names_seen))
            return f"no transform {' -> '.join(self.codec.frames)} on {self.config.topic}, which carries {links}"
        return (
            f"{', '.join(missing)} never came on {self.config.topic}, which carries "
            f"{printable(', '.join(self.codec.names_seen))}; check 'select' in the topic map"
        )

    def clear(self) -> None:
        self._groups.clear()
        self.watch.clear()

    def _newest_stamps(self) -> dict[int, int]:
        newest: dict[int, int] = {}
        for group, buffer in self._groups.items():
            stamp_ns = buffer.newest_ns
            if stamp_ns is not None:
                newest.update((index, max(stamp_ns, newest.get(index, stamp_ns))) for index in group)
        return newest

    def _refuse(self, reason: str, indices: Iterable[int]) -> None:
        # other publishers may still send the other channels: the fault lasts until these arrive again
        if not self.fault:
            self._faulty.clear()
        self.fault = reason
        self._faulty.update(indices)

    def _note_unmatched(self) -> None:
        self.unmatched = f"messages arrive, but carry {self.codec.carried or 'no names'}"

    def _buffer(self, group: tuple[int, ...]) -> StreamBuffer:
        buffer = self._groups.get(group)
        if buffer is None:
            if len(self._groups) >= MAX_CHANNEL_GROUPS:
                del self._groups[next(iter(self._groups))]
            blend = None if self.codec.blend.is_step else partial(self.codec.blend, group=group)
            buffer = self._groups[group] = StreamBuffer(
                self._horizon_ns,
                max_gap_ns=round(2e9 * self.config.max_age_s),
                max_ahead_ns=self._tolerance_ns,
                blend=blend,
            )
        return buffer

    def _nothing(self) -> str:
        return f"no sample on {self.config.topic} for the tick; check its publisher"


class SourceInput(VectorInput):
    """Buffer of who commands. Unlike a value, it is never held beyond `max_age_s`: who then commands is not known."""

    binding: VectorBinding

    def add(self, message: Any, arrival: Arrival) -> bool | None:
        field = self.binding.field
        try:
            value = field_value(message, field)
            if np.ndim(value) or value not in range(MAX_SOURCE + 1):
                raise ObservationError(
                    f"'{field}' is {printable(repr(value))}, expected a whole number from 0 to {MAX_SOURCE}"
                )
        except ObservationError as error:
            self.refuse(str(error))
            raise
        return super().add(message, arrival)

    def sample(self, tick_ns: int) -> Choice | None:
        choice = super().sample(tick_ns)
        return None if choice is None or choice.age_ns > self.max_age_ns else choice


def make_inputs(
    topic_map: TopicMap,
    embodiment: Embodiment,
    *,
    horizon_ns: int,
    observed_ticks: Sequence[int] = (0,),
    validate_on_arrival: bool = False,
) -> dict[KeyRef, KeyInput]:
    """Return the input of every key that a topic map binds.

    Args:
        topic_map: where the keys come from.
        embodiment: the keys.
        horizon_ns: how long samples are kept, behind the oldest of the observed ticks.
        observed_ticks: of one observation, oldest first, 0 the newest.
        validate_on_arrival: see `FrameAssembler`.

    Raises:
        ConfigError: a message type cannot give a key, or has no header although its stamp is used.
    """
    horizon_ns += round(-observed_ticks[0] * 1e9 / embodiment.fps)
    # a policy asks at most once a tick: an image is still decoded when it has become history
    num_kept = 1 - observed_ticks[0] * len(observed_ticks)
    return {
        ref: _make_input(topic_map, embodiment, ref, horizon_ns, num_kept, validate_on_arrival)
        for ref in topic_map.bindings
    }


def type_problems(topic_map: TopicMap, embodiment: Embodiment) -> Iterator[tuple[KeyRef, str]]:
    """Yield every key that its message type cannot give, with the reason."""
    for ref in topic_map.bindings:
        try:
            _make_input(topic_map, embodiment, ref, 1, 1, validate_on_arrival=False)
        except ConfigError as error:
            yield ref, str(error)


def _make_input(
    topic_map: TopicMap,
    embodiment: Embodiment,
    ref: KeyRef,
    horizon_ns: int,
    num_kept: int,
    validate_on_arrival: bool,
) -> KeyInput:
    tick_s, name, binding = 1 / embodiment.fps, str(ref), topic_map.bindings[ref]
    config = topic_map.streams[binding.stream]
    if isinstance(binding, VectorBinding):
        check_stamp(name, config)
        is_source = ref == SOURCE_REF
        vector = SOURCE_KEY if is_source else embodiment.vectors(ref.kind)[ref.key]
        codec = VectorCodec(name, config.type, binding, vector)
        kind = SourceInput if is_source else VectorInput
        return kind(ref, binding, config, codec, tick_s, horizon_ns, vector)
    if isinstance(binding, VideoBinding):
        image_codec = ImageCodec(name, config.type, binding, embodiment.video[ref.key], num_kept=num_kept)
        return VideoInput(
            ref, binding, config, image_codec, tick_s, horizon_ns, validate_on_arrival=validate_on_arrival
        )
    depth_codec = DepthCodec(name, config.type, binding, embodiment.depth[ref.key])
    return VideoInput(ref, binding, config, depth_codec, tick_s, horizon_ns)


def _tolerance_ns(binding: VectorBinding | VideoBinding | DepthBinding, tick_s: float) -> int:
    ticks = DEFAULT_TOLERANCE_TICKS[binding.align]
    return round(1e9 * (ticks * tick_s if binding.tolerance_s is None else binding.tolerance_s))
