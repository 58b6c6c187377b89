# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Pick the samples that belong to a tick, and make a frame of them.

Ticks themselves are made elsewhere (`gr00t_recorder.episodes.ticks`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gr00t_recorder.topics.bindings import RECORDED_ONLY
from gr00t_recorder.topics.inputs import KeyInput, VectorInput, VideoInput
from gr00t_recorder.topics.layout import followed
from gr00t_recorder.topics.resample import Choice
from gr00t_recorder.topics.samples import SampleStore
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.types import SOURCE_REF, Commander, Frame, KeyKind, KeyRef


@dataclass(frozen=True)
class PickedFrame:
    """The samples of one tick, images not decoded yet."""

    tick_ns: int
    with_action: bool
    choices: dict[KeyRef, Choice]  # what belongs to the tick
    filled: frozenset[KeyRef]  # keys with a sample older than their tolerance


class FramePicker:
    """Frames of a store. Every method may be called from any thread."""

    def __init__(self, store: SampleStore, embodiment: Embodiment, *, holds_stale: bool) -> None:
        """Pick from `store`.

        Args:
            store: samples.
            embodiment: gives the ticks of an observation.
            holds_stale: whether a required input that has become too old keeps its last sample (`filled`) instead of
                refusing the frame.
        """
        self._store = store
        self._embodiment = embodiment
        self._holds_stale = holds_stale

    def is_settled(self, tick_ns: int, *, with_action: bool = True) -> bool:
        """Whether messages yet to come, in order of their stamps, can no longer change the frame of `tick_ns`."""
        with self._store.lock:
            return all(entry.is_settled(tick_ns, self._store.clock_ns) for entry in self._entries(with_action))

    def frame(self, tick_ns: int, with_action: bool) -> Frame:
        """Return the frame of a tick, with the choice that the samples at hand allow.

        Ages are relative to the tick, not to now: a policy must also check the age of the tick itself, since the newest
        tick does not advance when a camera stops (`StreamHealth.fault` says which).

        Raises:
            ObservationError: a required input is missing or older than its stream's `max_age_s`; names the key.
        """
        return self.decode(self.pick(tick_ns, with_action))

    def observed_frames(self, tick_ns: int, begin_ns: int | None = None) -> list[Frame]:
        """Return the frames, without actions, of an observation at a tick, oldest first.

        Args:
            tick_ns: newest of its ticks.
            begin_ns: first tick of the task; earlier ones are replaced by it, as at the beginning of an episode in
                training. None: they are not replaced.

        Raises:
            ObservationError: as `frame`.
        """
        begin_ns = tick_ns if begin_ns is not None and begin_ns > tick_ns else begin_ns
        ticks_ns = [tick_ns + round(tick * 1e9 / self._embodiment.fps) for tick in self._embodiment.observed_ticks]
        return [self.frame(max(tick, begin_ns or tick), with_action=False) for tick in ticks_ns]

    def pick(self, tick_ns: int, with_action: bool) -> PickedFrame:
        """Choose the samples of a tick without decoding images; raises as `frame` does."""
        with self._store.lock:
            choices: dict[KeyRef, Choice] = {}
            filled = set()
            for entry in self._entries(with_action):
                choice = entry.sample(tick_ns)
                if choice is not None and entry.is_filled(choice, tick_ns):
                    filled.add(entry.ref)
                if entry.binding.required and (choice is None or not self._holds_stale):
                    choice = entry.require(choice)
                if choice is not None:
                    choices[entry.ref] = choice
            self._store.count_used(choices)
            if with_action:
                self._store.close_tick(tick_ns)
            return PickedFrame(tick_ns, with_action, choices, frozenset(filled))

    def follow(self, picked: PickedFrame, previous: PickedFrame) -> PickedFrame:
        """Give quaternions of actions the sign that is closest to the row before: q and -q are one rotation."""
        choices = dict(picked.choices)
        for ref, choice in picked.choices.items():
            entry = self._store.inputs[ref]
            if isinstance(entry, VectorInput) and ref.kind is KeyKind.ACTION and ref in previous.choices:
                value = followed(choice.value, previous.choices[ref].value, entry.codec.blend.turns)
                choices[ref] = choice._replace(value=value)
        return dataclasses.replace(picked, choices=choices)

    def decode(self, picked: PickedFrame) -> Frame:
        """Decode the images of a picked frame; a damaged image is counted and its neighbor taken instead.

        Raises:
            ObservationError: as `frame`, when no undamaged image is left.
        """
        while True:
            images: dict[KeyKind, dict[str, np.ndarray]] = {KeyKind.VIDEO: {}, KeyKind.DEPTH: {}}
            for ref, choice in picked.choices.items():
                entry = self._store.inputs[ref]
                if not isinstance(entry, VideoInput):
                    continue
                try:
                    images[ref.kind][ref.key] = entry.codec.decode(choice.value)
                except ObservationError as error:
                    self._store.reject_image(entry, choice.samples[0], str(error))
                    actions = {ref: choice for ref, choice in picked.choices.items() if ref.kind is KeyKind.ACTION}
                    again = self.pick(picked.tick_ns, picked.with_action)
                    picked = dataclasses.replace(again, choices={**again.choices, **actions})
                    break
            else:
                return _frame(picked, images, has_source=picked.with_action and SOURCE_REF in self._store.inputs)

    def latest_tick(self) -> int | None:
        """Return the newest tick that every camera has reached, None while a required camera or state has no sample.

        It is the earliest of the cameras' newest stamps.
        """
        with self._store.lock:
            entries = [entry for entry in self._entries(with_action=False) if entry.binding.required]
            newest = [entry.buffer.newest for entry in entries if isinstance(entry, VideoInput)]
            if not newest or any(sample is None for sample in newest):
                return None
            tick_ns = min(sample.stamp_ns for sample in newest if sample is not None)
            return tick_ns if all(entry.sample(tick_ns) is not None for entry in entries) else None

    def measured_state(self, now_ns: int) -> dict[str, np.ndarray]:
        """Return the newest state (D,) of every key that has come and is not too old."""
        with self._store.lock:
            states = [entry for entry in self._store.inputs.values() if entry.ref.kind is KeyKind.STATE]
            choices = [(entry, entry.sample(now_ns)) for entry in states]
            return {
                entry.ref.key: choice.value
                for entry, choice in choices
                if choice is not None and abs(choice.age_ns) <= entry.max_age_ns
            }

    def _entries(self, with_action: bool) -> Iterator[KeyInput]:
        left_out = () if with_action else RECORDED_ONLY
        return (entry for entry in self._store.inputs.values() if entry.ref.kind not in left_out)


def _frame(picked: PickedFrame, images: dict[KeyKind, dict[str, np.ndarray]], *, has_source: bool) -> Frame:
    vectors: dict[KeyKind, dict[str, np.ndarray]] = {KeyKind.STATE: {}, KeyKind.ACTION: {}}
    for ref, choice in picked.choices.items():
        if ref.kind in vectors:
            vectors[ref.kind][ref.key] = choice.value
    source = picked.choices.get(SOURCE_REF)
    ages_ns = {str(ref): choice.age_ns for ref, choice in picked.choices.items()}
    return Frame(
        picked.tick_ns,
        vectors[KeyKind.STATE],
        vectors[KeyKind.ACTION],
        images[KeyKind.VIDEO],
        ages_ns=ages_ns,
        filled=frozenset(map(str, picked.filled)),
        depth=images[KeyKind.DEPTH],
        command_source=(Commander.NONE if source is None else int(source.value[0])) if has_source else None,
    )
