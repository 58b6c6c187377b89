# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Preview of a conversion, topic by topic; nothing is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_recorder.bag.boundaries import absolute_topic
from gr00t_recorder.bag.convert import BagConversion
from gr00t_recorder.bag.converting import BatchSettings, unforeseen
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.report import BagReport, StreamTotals
from gr00t_recorder.bag.sources import BagSource
from gr00t_recorder.bag.table import aligned
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.errors import Gr00tError
from gr00t_training.types import Frame

HEADER = ("topic", "type", "messages", "rate", "longest gap", "delay", "used as", "problems")
MAX_NAMED = 3  # keys of one topic


@dataclass(frozen=True)
class TopicPreview:
    """One topic of a bag."""

    topic: str
    type: str
    num_messages: int
    rate_hz: float
    longest_gap_s: float
    used_as: tuple[str, ...]  # "state.arm", "video.front", "task", "episode markers"; empty: unused
    totals: StreamTotals | None  # of the stream it is bound to, once its messages were read
    problems: tuple[str, ...]


@dataclass
class BagPreview:
    """Expected result of converting a bag."""

    path: str
    report: BagReport
    topics: list[TopicPreview] = field(default_factory=list)
    start_ns: int | None = None
    duration_s: float = 0.0
    by: str = ""  # how episode boundaries are found


class CountingDataset:
    """Replaces the dataset in a dry run: counts episodes, writes nothing."""

    def __init__(self) -> None:
        self.num_episodes = 0

    def start_episode(self, task: str) -> CountingEpisode:
        """Start an episode."""
        return CountingEpisode(self)


class CountingEpisode:
    """An episode of a `CountingDataset`."""

    def __init__(self, dataset: CountingDataset) -> None:
        self.index = dataset.num_episodes
        self.num_frames = 0
        self.is_open = True
        self._dataset = dataset

    def add_frame(self, frame: Frame) -> None:
        """Count a frame."""
        self.num_frames += 1

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        """Count the episode."""
        self._dataset.num_episodes += 1
        self.is_open = False
        return self.index

    def discard(self) -> None:
        """End the episode uncounted."""
        self.is_open = False


def preview_bag(source: BagSource, settings: BatchSettings) -> BagPreview:
    """Read the whole bag and decode everything that a conversion decodes."""
    path = source.path
    with tempfile.TemporaryDirectory() as folder:  # for a bag in object storage
        try:
            with source.fetched(Path(folder) / "bag") as path:
                preview = _preview(path, settings, source.tasks)
        except Gr00tError as error:  # it cannot be downloaded
            preview = BagPreview(source.name, BagReport(source.name, error=str(error)))
    preview.path = preview.report.bag = source.name
    preview.report.error = preview.report.error.replace(str(path), source.name)
    return preview


def _preview(path: Path, settings: BatchSettings, tasks: tuple[str, ...]) -> BagPreview:
    conversion = replace(settings.conversion, tasks=tasks)
    preview = BagPreview(str(path), BagReport(str(path)))
    totals: dict[str, StreamTotals] = {}
    try:
        with Bag(path, allow_partial=conversion.allow_partial, order=conversion.order) as bag:
            job = BagConversion(bag, settings.topic_map, settings.embodiment, CountingDataset(), conversion)
            preview.by = job.boundaries.by.value
            try:
                preview.report = job.run()
            finally:
                totals = job.totals()
    except Gr00tError as error:
        preview.report.error = str(error)
    except Exception as error:  # no error of one bag hides the others
        preview.report.error = unforeseen(path, error)
    try:
        with Bag(path, allow_partial=True) as bag:  # a damaged bag has topics to show, too
            _describe(bag, settings.topic_map, totals, preview)
    except Gr00tError as error:
        preview.report.error = preview.report.error or str(error)
    except Exception as error:
        preview.report.error = preview.report.error or unforeseen(path, error)
    return preview


def format_preview(preview: BagPreview) -> str:
    """Return the preview as text for people: a line about the bag, a table of its topics, its episodes."""
    start = "no messages"
    if preview.start_ns is not None:
        begin = datetime.fromtimestamp(preview.start_ns / 1e9, timezone.utc)
        start = f"{preview.duration_s:.1f} s from {begin:%Y-%m-%d %H:%M:%S} UTC"
    lines = [f"{preview.path}: {start}"]
    if preview.topics:
        lines.append(aligned([HEADER, *(_cells(topic) for topic in preview.topics)]))
    if preview.by:
        lines.append(f"episodes, found by {preview.by}:")
    for episode in preview.report.episodes:
        state = "discarded" if episode.is_discarded else "no rows" if episode.is_empty else f"{episode.num_frames} rows"
        lines.append(f"  {state:<10}  {episode.task}" + (f"  ({episode.reason})" if episode.reason else ""))
    if preview.report.error:
        lines.append(f"refused: {preview.report.error}")
    return "\n".join(lines)


def uses(topic_map: TopicMap) -> dict[str, list[str]]:
    """Return what each topic of a topic map is used for."""
    by_stream: dict[str, list[str]] = {stream: [] for stream in topic_map.streams}
    for ref, binding in topic_map.bindings.items():
        by_stream[binding.stream].append(str(ref))
    for binding, use in ((topic_map.task, "task"), (topic_map.events, "episode markers")):
        if binding is not None:
            by_stream[binding.stream].append(use)
    by_topic: dict[str, list[str]] = {}
    for stream, names in by_stream.items():
        by_topic.setdefault(absolute_topic(topic_map.streams[stream].topic), []).extend(names)
    return by_topic


def _describe(bag: Bag, topic_map: TopicMap, totals: dict[str, StreamTotals], preview: BagPreview) -> None:
    times = bag.times(set(bag.topics))
    used = uses(topic_map)
    by_topic = {absolute_topic(entry.topic): entry for entry in totals.values()}
    expected = {absolute_topic(config.topic): config.type for config in topic_map.streams.values()}
    for name in sorted(bag.topics):
        problems = list(_problems(bag, name, times[name].size, expected.get(name)))
        if name in by_topic:
            problems += by_topic[name].problems()
        preview.topics.append(
            TopicPreview(
                topic=name,
                type=bag.topics[name].type,
                num_messages=times[name].size,
                rate_hz=_rate_hz(times[name]),
                longest_gap_s=float(np.diff(times[name]).max() / 1e9) if times[name].size > 1 else 0.0,
                used_as=tuple(used.get(name, ())),
                totals=by_topic.get(name),
                problems=tuple(problems),
            )
        )
    for name in sorted(set(expected) - set(bag.topics)):
        absent = TopicPreview(name, expected[name], 0, 0.0, 0.0, tuple(used[name]), None, ("not in the bag",))
        preview.topics.append(absent)
    ends = [(block[0], block[-1]) for block in times.values() if block.size]
    if ends:
        preview.start_ns = int(min(first for first, _ in ends))
        preview.duration_s = float(max(last for _, last in ends) - preview.start_ns) / 1e9


def _problems(bag: Bag, name: str, count: int, expected_type: str | None) -> Iterator[str]:
    topic = bag.topics[name]
    if topic.num_messages is not None and topic.num_messages != count:
        yield f"the bag declares {topic.num_messages} messages"
    if expected_type is not None and expected_type != topic.type:
        yield f"the topic map says {expected_type}"
    elif expected_type is not None and (reason := bag.unreadable(name)):
        yield reason


def _rate_hz(times: np.ndarray) -> float:
    span_ns = int(times[-1] - times[0]) if times.size > 1 else 0
    return (times.size - 1) * 1e9 / span_ns if span_ns else 0.0


def _cells(topic: TopicPreview) -> tuple[str, ...]:
    delay = ""
    if topic.totals and topic.totals.least_delay_s is not None and topic.totals.largest_delay_s is not None:
        delay = f"{1e3 * topic.totals.least_delay_s:.0f} to {1e3 * topic.totals.largest_delay_s:.0f} ms"
    return (
        topic.topic,
        topic.type,
        str(topic.num_messages),
        f"{topic.rate_hz:.1f} Hz" if topic.rate_hz else "",
        f"{topic.longest_gap_s:.2f} s" if topic.longest_gap_s else "",
        delay,
        _shortened(topic.used_as) or "unused",
        "; ".join(topic.problems) or "none",
    )


def _shortened(names: tuple[str, ...]) -> str:
    """Return a short list of names for a topic with many keys."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name if len(names) <= MAX_NAMED else name.partition(".")[0], []).append(name)
    return ", ".join(group[0] if len(group) == 1 else f"{len(group)} keys of {kind}" for kind, group in groups.items())
