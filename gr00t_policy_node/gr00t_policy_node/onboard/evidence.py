# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a robot says: the messages of a bag, as a policy would see them.

A running robot is recorded into a bag for some seconds first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gr00t_policy_node.observing import input_map
from gr00t_recorder.bag.boundaries import absolute_topic
from gr00t_recorder.bag.heard import Heard
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.inputs import VectorInput, VideoInput
from gr00t_recorder.topics.streams import StreamReport
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.types import KeyKind, KeyRef

END_NS = 2_000_000_000  # within which the streams of a recording end; one that ends earlier has failed


@dataclass(frozen=True)
class Look:
    """The newest image of one camera."""

    image: np.ndarray | None  # (H, W, 3) uint8 RGB, of the embodiment's size; None: there is none
    age_s: float = 0.0  # since its stamp
    reason: str = ""  # why there is none


@dataclass(frozen=True)
class Evidence:
    """What was seen until `now`, the end of a recording or the end of listening."""

    source: str  # as messages call it
    types: Mapping[str, str]  # type by topic, of all topics
    heard: Heard | None  # of a running robot
    reports: Mapping[str, StreamReport] = field(default_factory=dict)  # by stream
    fault: str = ""  # why a policy would not be called now
    ranges: Mapping[KeyRef, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # (D,) least and greatest
    state: Mapping[str, np.ndarray] = field(default_factory=dict)  # (D,) newest, by key
    looks: Mapping[str, Look] = field(default_factory=dict)  # by camera


def gather(
    bag: Bag,
    topic_map: TopicMap,
    embodiment: Embodiment,
    *,
    source: str,
    seconds: float,
    heard: Heard | None = None,
) -> Evidence:
    """Feed the messages of the first `seconds` of a bag to the inputs of a policy.

    Args:
        bag: recording of the robot.
        topic_map: fits `embodiment`.
        embodiment: keys of the robot.
        source: what messages call it.
        seconds: how much is read.
        heard: what else is known of a running robot.

    Raises:
        DatasetError: the bag is damaged.
    """
    types = {name: topic.type for name, topic in bag.topics.items()}
    if heard is not None:
        types = {**types, **heard.published}
    streams: dict[str, list[str]] = {}  # by topic; only those whose type is that of the topic map
    for name, config in topic_map.streams.items():
        topic = absolute_topic(config.topic)
        if topic in bag.topics and bag.topics[topic].type == config.type:
            streams.setdefault(topic, []).append(name)
    assembler = FrameAssembler(topic_map, embodiment, validate_on_arrival=True)
    ranges = _Ranges()
    inputs = input_map(topic_map).streams
    now_ns = _now_ns(bag, [topic for topic, names in streams.items() if set(names) & set(inputs)], seconds)
    for message in bag.messages(streams):
        if message.log_ns > now_ns:
            break
        for name in streams[message.topic]:
            try:
                content = bag.deserialize(message)
            except DatasetError as error:
                assembler.store.count_invalid(name, str(error), message.log_ns)
                continue
            assembler.store.add(name, content, message.log_ns)
            for entry in assembler.store.by_stream[name]:
                if isinstance(entry, VectorInput):
                    ranges.add(entry, content)
    looks = {
        ref.key: _look(entry, now_ns)
        for ref, entry in assembler.store.inputs.items()
        if isinstance(entry, VideoInput) and ref.kind is KeyKind.VIDEO
    }
    states = {
        ref.key: entry.sample(now_ns) for ref, entry in assembler.store.inputs.items() if ref.kind is KeyKind.STATE
    }
    return Evidence(
        source,
        types,
        heard,
        reports={report.name: report for report in assembler.health.observed_reports(now_ns)},
        fault=assembler.health.fault(now_ns),
        ranges=ranges.found,
        state={key: choice.value for key, choice in states.items() if choice is not None},
        looks=looks,
    )


def _now_ns(bag: Bag, topics: list[str], seconds: float) -> int:
    """Return the time until which messages count: the inputs of a recording do not end together."""
    times = [found for found in bag.times(topics).values() if found.size]
    if not times:
        return 0
    start_ns = min(int(found[0]) for found in times)
    until_ns = start_ns + round(seconds * 1e9)
    ends = [int(found[found <= until_ns][-1]) for found in times if (found <= until_ns).any()]
    return min(end for end in ends if end >= max(ends) - END_NS)


def _look(entry: VideoInput, now_ns: int) -> Look:
    newest = entry.buffer.newest
    if newest is None:
        return Look(None, reason=entry.fault or f"no image on {entry.config.topic}")
    try:
        return Look(entry.codec.decode(newest.value), (now_ns - newest.stamp_ns) / 1e9)
    except ObservationError as error:
        return Look(None, reason=str(error))


class _Ranges:
    """Least and greatest values of every channel."""

    def __init__(self) -> None:
        self.found: dict[KeyRef, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, entry: VectorInput, message: object) -> None:
        try:
            channels = entry.codec.decode(message)
        except ObservationError:
            return  # the store has counted it
        if channels is None:
            return
        width = len(entry.codec.names)
        low, high = self.found.setdefault(entry.ref, (np.full(width, np.nan), np.full(width, np.nan)))
        places = list(channels.indices)
        low[places] = np.fmin(low[places], channels.values)
        high[places] = np.fmax(high[places], channels.values)
