# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Assemble frames out of messages: the one translation behind recorder, bag converter and policy node.

Messages go in as they arrive, in any order of their stamps; frames come out for any recent tick. Images stay as they
came until a frame needs them. Ticks themselves are made elsewhere (`gr00t_recorder.topics.ticks`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_recorder.topics.bindings import Stamp, StreamConfig, TopicMap
from gr00t_recorder.topics.codecs import DepthCodec, ImageCodec, VectorCodec, stamp_of
from gr00t_recorder.topics.gate import InputGate
from gr00t_recorder.topics.inputs import VectorInput, VideoInput
from gr00t_recorder.topics.layout import followed
from gr00t_recorder.topics.resample import Arrival, Choice, Sample, StreamBuffer
from gr00t_recorder.topics.streams import StreamCounter, StreamReport, StreamState
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.types import Frame

CLOCK_RESET_NS = 1_000_000_000  # 1 s: delays reorder by less, restarted simulators jump by more
DEFAULT_HORIZON_S = 3.0  # at least the wait for a slow stream plus the delay of the slowest
RECORDED_ONLY = ("action", "depth")  # kinds that an observation does without


@dataclass(frozen=True)
class PickedFrame:
    """The samples of one tick, images not decoded yet."""

    tick_ns: int
    with_action: bool
    choices: dict[str, Choice]  # "state.arm" -> what belongs to the tick
    filled: frozenset[str]


class FrameAssembler:
    """Buffers of all streams of a topic map. Every method may be called from any thread."""

    def __init__(
        self,
        topic_map: TopicMap,
        embodiment: Embodiment,
        *,
        horizon_s: float = DEFAULT_HORIZON_S,
        with_history: bool = False,
        holds_stale: bool = False,
        is_wary: bool = False,
    ) -> None:
        """Prepare a buffer and a codec for each key.

        Args:
            topic_map: where the keys come from.
            embodiment: the keys.
            horizon_s: how long samples are kept; what comes later than that is not seen by a frame.
            with_history: whether samples are kept longer by what an observation of the embodiment reaches back.
            holds_stale: whether a required input that has become too old keeps its last sample (`filled`) instead of
                refusing the frame.
            is_wary: whether a compressed image of another size than the one before, and those that follow a damaged
                one, are decoded as they come, so that `fault` tells at once; no frame shows them either way.

        Raises:
            ConfigError: a message type cannot give a key, or has no header where its stamp is wanted.
        """
        self.embodiment = embodiment
        self.topic_map = topic_map
        self._holds_stale = holds_stale
        tick_s = 1 / embodiment.fps
        ticks = embodiment.observed_ticks if with_history else (0,)
        horizon_ns = round(horizon_s * 1e9) + round(-ticks[0] * 1e9 / embodiment.fps)
        self._inputs: dict[str, VectorInput | VideoInput] = {}
        for kind in ("state", "action"):
            for key, binding in getattr(topic_map, kind).items():
                name, config = f"{kind}.{key}", topic_map.streams[binding.stream]
                _check_stamp(name, config)
                codec = VectorCodec(name, config.type, binding, getattr(embodiment, kind)[key])
                self._inputs[name] = VectorInput(name, binding, config, codec, tick_s, horizon_ns)
        for key, binding in topic_map.video.items():
            name, config = f"video.{key}", topic_map.streams[binding.stream]
            # a policy asks at most once a tick: an image is still there when it has become history
            codec = ImageCodec(name, config.type, binding, embodiment.video[key], num_kept=1 - ticks[0] * len(ticks))
            self._inputs[name] = VideoInput(name, binding, config, codec, tick_s, horizon_ns, is_wary=is_wary)
        for key, binding in topic_map.depth.items():
            name, config = f"depth.{key}", topic_map.streams[binding.stream]
            _check_stamp(name, config)
            depth_codec = DepthCodec(name, config.type, binding, embodiment.depth[key])
            self._inputs[name] = VideoInput(name, binding, config, depth_codec, tick_s, horizon_ns)
        used = {f"{kind}.{key}" for kind in ("state", "video") for key in getattr(embodiment, f"{kind}_keys")}
        observed = [
            entry
            for name, entry in self._inputs.items()
            if name.partition(".")[0] not in RECORDED_ONLY and (entry.binding.required or name in used)
        ]
        self._gate = InputGate(observed, topic_map)
        self._by_stream = {
            stream: [entry for entry in self._inputs.values() if entry.binding.stream == stream]
            for stream in topic_map.streams
        }
        self._counters = {
            name: StreamCounter(name, config, has_samples=bool(self._by_stream[name]))
            for name, config in topic_map.streams.items()
        }
        self._texts: dict[str, str] = {}
        self._clock_ns = 0  # receive time of the newest message of any stream
        self._framed_ns: int | None = None  # newest tick picked with actions
        self._lock = threading.Lock()

    def add(self, stream_name: str, message: Any, receive_ns: int) -> None:
        """Take in a message of a stream; one that cannot be used is counted with its reason.

        Args:
            stream_name: name under `streams` of the topic map.
            message: deserialised message, from rclpy or a bag.
            receive_ns: arrival on the node's clock, or log time of the bag.
        """
        with self._lock:
            counter, inputs = self._counters[stream_name], self._by_stream[stream_name]
            counter.count_received(receive_ns)
            self._clock_ns = receive_ns
            if not inputs:
                self._add_text(counter, message, receive_ns)
                return
            inputs = [entry for entry in inputs if entry.is_meant(message)]
            if not inputs:
                return
            stamp_ns = self._stamp(counter, message, receive_ns)
            if stamp_ns is None:
                return
            if counter.newest_stamp_ns is not None and stamp_ns < counter.newest_stamp_ns - CLOCK_RESET_NS:
                self._reset_clock(counter, inputs)
            if self._framed_ns is not None and stamp_ns <= self._framed_ns:
                counter.late += 1
            self._distribute(counter, inputs, message, Arrival(stamp_ns, receive_ns))

    def count_dropped(self, stream_name: str, count: int = 1) -> None:
        """Count messages of a stream that were lost before they got here."""
        with self._lock:
            self._counters[stream_name].dropped += count

    def count_invalid(self, stream_name: str, reason: str, receive_ns: int) -> None:
        """Count a message that could not even be deserialised."""
        with self._lock:
            counter = self._counters[stream_name]
            counter.count_received(receive_ns)
            counter.count_invalid(reason)
            for entry in self._by_stream[stream_name]:
                entry.refuse(reason)

    def is_settled(self, tick_ns: int, *, with_action: bool = True) -> bool:
        """Whether messages yet to come, in order of their stamps, can no longer change the frame of `tick_ns`."""
        with self._lock:
            return all(entry.is_settled(tick_ns, self._clock_ns) for entry in self._wanted(with_action))

    def frame(self, tick_ns: int, with_action: bool) -> Frame:
        """Return the frame of a tick, with the choice that the samples at hand allow.

        A frame is judged against its tick, not against now: a policy must also hold the tick's own age against its
        limit, since the newest tick stands still when a camera does (`reports` tells which).

        Raises:
            ObservationError: a required input is missing or older than its stream's `max_age_s`; names the key.
        """
        return self.decode(self.pick(tick_ns, with_action))

    def observed_frames(self, tick_ns: int, begin_ns: int | None = None) -> list[Frame]:
        """Return the frames, without actions, that an observation at a tick is made of, oldest first.

        Args:
            tick_ns: newest of its ticks.
            begin_ns: first tick of the task; those before it show what it shows, as at the beginning of an episode in
                training. None: show what was.

        Raises:
            ObservationError: as `frame`.
        """
        begin_ns = tick_ns if begin_ns is not None and begin_ns > tick_ns else begin_ns
        ticks_ns = [tick_ns + round(tick * 1e9 / self.embodiment.fps) for tick in self.embodiment.observed_ticks]
        return [self.frame(max(tick, begin_ns or tick), with_action=False) for tick in ticks_ns]

    def pick(self, tick_ns: int, with_action: bool) -> PickedFrame:
        """Choose the samples of a tick without decoding images; raises as `frame` does."""
        with self._lock:
            choices: dict[str, Choice] = {}
            filled = set()
            for entry in self._wanted(with_action):
                choice = entry.sample(tick_ns)
                if choice is not None and entry.is_filled(choice, tick_ns):
                    filled.add(entry.name)
                if entry.binding.required and (choice is None or not self._holds_stale):
                    choice = entry.require(choice)
                if choice is not None:
                    choices[entry.name] = choice
            for name, choice in choices.items():
                self._count_used(self._inputs[name].binding.stream, choice)
            if with_action:
                self._framed_ns = tick_ns if self._framed_ns is None else max(tick_ns, self._framed_ns)
            return PickedFrame(tick_ns, with_action, choices, frozenset(filled))

    def follow(self, picked: PickedFrame, previous: PickedFrame) -> PickedFrame:
        """Give quaternions of actions the sign that is closest to the row before: q and -q are one rotation."""
        choices = dict(picked.choices)
        for name, choice in picked.choices.items():
            entry = self._inputs[name]
            if isinstance(entry, VectorInput) and name.startswith("action.") and name in previous.choices:
                value = followed(choice.value, previous.choices[name].value, entry.codec.blend.turns)
                choices[name] = choice._replace(value=value)
        return dataclasses.replace(picked, choices=choices)

    def decode(self, picked: PickedFrame) -> Frame:
        """Decode the images of a picked frame; a damaged image is counted and its neighbour taken instead.

        Raises:
            ObservationError: as `frame`, when no undamaged image is left.
        """
        while True:
            images: dict[str, dict[str, np.ndarray]] = {"video": {}, "depth": {}}
            for name, choice in picked.choices.items():
                entry = self._inputs[name]
                if not isinstance(entry, VideoInput):
                    continue
                try:
                    images[entry.kind][entry.key] = entry.codec.decode(choice.value)
                except ObservationError as error:
                    self._reject(entry, choice.samples[0], str(error))
                    actions = {key: choice for key, choice in picked.choices.items() if key.startswith("action.")}
                    again = self.pick(picked.tick_ns, picked.with_action)
                    picked = dataclasses.replace(again, choices={**again.choices, **actions})
                    break
            else:
                return _frame(picked, images)

    def latest_tick(self) -> int | None:
        """Return the newest tick that every camera has reached, None while a required camera or state has no sample.

        It is the earliest of the cameras' newest stamps.
        """
        with self._lock:
            entries = [entry for entry in self._wanted(with_action=False) if entry.binding.required]
            newest = [entry.buffer.newest for entry in entries if isinstance(entry, VideoInput)]
            if not newest or any(sample is None for sample in newest):
                return None
            tick_ns = min(sample.stamp_ns for sample in newest if sample is not None)
            return tick_ns if all(entry.sample(tick_ns) is not None for entry in entries) else None

    def first_image(self, camera: str, stamp_ns: int) -> int | None:
        """Return the earliest stamp of a camera at or after `stamp_ns`."""
        with self._lock:
            sample = self._camera(camera).first_at_or_after(stamp_ns)
            return sample.stamp_ns if sample else None

    def last_image(self, camera: str, stamp_ns: int) -> int | None:
        """Return the latest stamp of a camera at or before `stamp_ns`."""
        with self._lock:
            sample = self._camera(camera).last_at_or_before(stamp_ns)
            return sample.stamp_ns if sample else None

    def expected_arrival(self, camera: str, stamp_ns: int) -> int | None:
        """Return the receive time at which a camera's image of `stamp_ns` is due, judged by its newest image."""
        with self._lock:
            newest = self._camera(camera).newest
            return None if newest is None else newest.arrival.receive_ns + stamp_ns - newest.stamp_ns

    def text(self, stream_name: str) -> str:
        """Return the newest text of a stream, empty when none has come."""
        with self._lock:
            return self._texts.get(stream_name, "")

    def num_clock_resets(self) -> int:
        """Return how often any stream's clock was set back."""
        with self._lock:
            return sum(counter.clock_resets for counter in self._counters.values())

    def reports(self, now_ns: int) -> list[StreamReport]:
        """Return condition and counts of every stream, in the order of the topic map."""
        with self._lock:
            return [
                counter.report(
                    now_ns,
                    unusable=next(filter(None, map(_required_lack, self._by_stream[name])), ""),
                    foreign=next((entry.foreign for entry in self._by_stream[name] if entry.foreign), ""),
                )
                for name, counter in self._counters.items()
            ]

    def unready(self, now_ns: int) -> list[str]:
        """Return why an episode or a policy cannot start: required states, cameras and depth that are not fresh.

        Actions are left out unless their messages are unusable: a teleoperator may begin to send with the episode.
        """
        required = {
            binding.stream
            for name, binding in self.topic_map.bindings.items()
            if binding.required and not name.startswith("action.")
        }
        actions = {binding.stream for binding in self.topic_map.action.values() if binding.required}
        return [
            f"stream '{report.name}' ({report.topic}) is {report.state.value}: {report.reason}"
            for report in self.reports(now_ns)
            if (report.name in required and report.reason)
            or (report.name in actions and report.state.value == "invalid")
        ]

    def fault(self, now_ns: int) -> str:
        """Return why a policy must not be asked at `now_ns`, empty when it may; quick enough for every control tick.

        It looks at the state keys and cameras that are required or that the model uses
        (`gr00t_recorder.topics.gate`). That a compressed image is damaged inside shows when a frame needs it: ask
        again then.
        """
        with self._lock:
            return self._gate.fault(now_ns)

    def observed_reports(self, now_ns: int) -> list[StreamReport]:
        """Return the reports of all streams, judged as `fault` does where that is stricter."""
        reports = {report.name: report for report in self.reports(now_ns)}
        with self._lock:
            for entry in self._gate.inputs:
                report, fault = reports[entry.binding.stream], self._gate.judge(entry, now_ns)
                if fault and report.state is StreamState.OK:
                    reports[report.name] = dataclasses.replace(report, state=fault[0], reason=fault[1])
        return list(reports.values())

    def measured_state(self, now_ns: int) -> dict[str, np.ndarray]:
        """Return the newest state (D,) of every key that has come and is not too old."""
        with self._lock:
            states = [entry for name, entry in self._inputs.items() if name.startswith("state.")]
            choices = {entry.name.removeprefix("state."): (entry, entry.sample(now_ns)) for entry in states}
            return {
                key: choice.value
                for key, (entry, choice) in choices.items()
                if choice is not None and abs(choice.age_ns) <= entry.max_age_ns
            }

    def _wanted(self, with_action: bool) -> Iterator[VectorInput | VideoInput]:
        kinds = () if with_action else RECORDED_ONLY
        return (entry for name, entry in self._inputs.items() if name.partition(".")[0] not in kinds)

    def _camera(self, key: str) -> StreamBuffer:
        entry = self._inputs[f"video.{key}"]
        assert isinstance(entry, VideoInput)
        return entry.buffer

    def _stamp(self, counter: StreamCounter, message: Any, receive_ns: int) -> int | None:
        if counter.config.stamp is Stamp.RECEIVE:
            return receive_ns
        stamp_ns = stamp_of(message)
        if stamp_ns is None:
            counter.count_invalid(f"{counter.config.type} has no header; set 'stamp: receive' in the topic map")
        elif stamp_ns == 0:
            counter.zero_stamps += 1
            return receive_ns
        return stamp_ns

    def _distribute(
        self, counter: StreamCounter, inputs: list[VectorInput | VideoInput], message: Any, arrival: Arrival
    ) -> None:
        """Offer a message to every key of its stream."""
        results, reason = [], ""
        for entry in inputs:
            try:
                results.append(entry.add(message, arrival))
            except ObservationError as error:
                reason = reason or f"{entry.name}: {error}"
        if reason:
            counter.count_invalid(reason)
        elif any(results):
            counter.count_valid(arrival.stamp_ns)
        elif False in results:
            counter.dropped += 1  # a stamp seen before

    def _add_text(self, counter: StreamCounter, message: Any, receive_ns: int) -> None:
        text = getattr(message, "data", None)
        if isinstance(text, str):
            self._texts[counter.name] = text
            counter.used += 1
            counter.count_valid(receive_ns)
        else:
            counter.count_invalid(f"{counter.config.type} has no text in 'data'; expected std_msgs/msg/String")

    def _reset_clock(self, counter: StreamCounter, inputs: list[VectorInput | VideoInput]) -> None:
        counter.clock_resets += 1
        counter.newest_stamp_ns = None
        self._framed_ns = None
        for entry in inputs:
            entry.clear()

    def _count_used(self, stream: str, choice: Choice) -> None:
        for sample in choice.samples:
            if not sample.arrival.is_used:
                sample.arrival.is_used = True
                self._counters[stream].used += 1

    def _reject(self, entry: VideoInput, sample: Sample, reason: str) -> None:
        with self._lock:
            entry.buffer.remove(sample)
            entry.refuse(reason, is_hidden=True)
            self._counters[entry.binding.stream].count_invalid(f"{entry.name}: {reason}")


def _frame(picked: PickedFrame, images: dict[str, dict[str, np.ndarray]]) -> Frame:
    vectors: dict[str, dict[str, np.ndarray]] = {"state": {}, "action": {}}
    for name, choice in picked.choices.items():
        kind, _, key = name.partition(".")
        if kind in vectors:
            vectors[kind][key] = choice.value
    ages_ns = {name: choice.age_ns for name, choice in picked.choices.items()}
    return Frame(
        picked.tick_ns,
        vectors["state"],
        vectors["action"],
        images["video"],
        ages_ns=ages_ns,
        filled=picked.filled,
        depth=images["depth"],
    )


def _required_lack(entry: VectorInput | VideoInput) -> str:
    lack = entry.lack() if entry.binding.required else ""
    return f"{entry.name}: {lack}" if lack else ""


def _check_stamp(name: str, config: StreamConfig) -> None:
    package, _, message = config.type.split("/")
    has_no_header = package == "std_msgs" or (package == "geometry_msgs" and "Stamped" not in message)
    if config.stamp is Stamp.HEADER and has_no_header and message != "PoseArray":
        raise ConfigError(f"{name}: {config.type} on {config.topic} has no header; set 'stamp: receive' for the stream")
