# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn bags into episodes of a dataset, through the same assembler and ticks as the live recorder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.storage import BagMessage
from gr00t_recorder.episodes import DatasetSink, EpisodeResult, EpisodeRun, EventKind, parse_event
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.ticks import END_OF_TIME_NS
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.settings import setting
from gr00t_training.types import Frame

REPORT_FILE = "conversion.json"
Progress = Callable[[int, int], None]  # messages read, messages in all (0: not known)


@dataclass(frozen=True)
class ConversionSettings:
    """How bags are converted."""

    task: str = setting("", "Task text of episodes whose marker and task topic give none.")
    allow_partial: bool = setting(False, "Keep what can be read of damaged bags and broken episodes.")
    dry_run: bool = setting(False, "Read and check everything, write nothing.")


@dataclass
class BagReport:
    """What came out of one bag."""

    bag: str
    episodes: list[EpisodeResult] = field(default_factory=list)  # in order; discarded ones too
    complaints: list[str] = field(default_factory=list)


def convert_bags(
    bags: Sequence[Path],
    topic_map: TopicMap,
    embodiment: Embodiment,
    output: Path,
    settings: ConversionSettings,
    *,
    progress: Progress = lambda done, total: None,
) -> list[BagReport]:
    """Append the episodes of `bags`, in order, to the dataset at `output`.

    Raises:
        DatasetError: a bag is damaged, lacks a topic, or an episode is broken (unless partial reading is allowed); or
            the dataset cannot be written. Episodes finished before are kept.
    """
    reports = []
    with ExitStack() as stack:
        dataset: DatasetSink
        if settings.dry_run:
            dataset = _CountingDataset()
        else:
            dataset = stack.enter_context(DatasetWriter(output, embodiment))
        for path in bags:
            with Bag(path, allow_partial=settings.allow_partial) as bag:
                conversion = _BagConversion(bag, topic_map, embodiment, dataset, settings)
                reports.append(conversion.run(progress))
    if not settings.dry_run:
        _append_report(output / REPORT_FILE, reports, topic_map)
    return reports


class _BagConversion:
    """One bag on its way into a dataset."""

    def __init__(
        self,
        bag: Bag,
        topic_map: TopicMap,
        embodiment: Embodiment,
        dataset: DatasetSink,
        settings: ConversionSettings,
    ) -> None:
        if not topic_map.action:
            raise DatasetError(f"{bag.path}: the topic map binds no action, so nothing can be learned; add 'action'")
        self._bag = bag
        self._map = topic_map
        self._dataset = dataset
        self._settings = settings
        self._streams = {_absolute(config.topic): name for name, config in topic_map.streams.items()}
        self._assembler = FrameAssembler(topic_map, embodiment)
        self._report = BagReport(str(bag.path))
        self._run: EpisodeRun | None = None

    def run(self, progress: Progress) -> BagReport:
        """Read the bag to its end and return what came out."""
        self._check_topics()
        topics = [topic for topic in self._streams if topic in self._bag.topics]
        counts = [self._bag.topics[topic].num_messages for topic in topics]
        total = sum(count or 0 for count in counts)
        has_events = self._has_events()
        last_image_ns = END_OF_TIME_NS
        if not has_events:  # the whole bag is one episode
            last_image_ns = self._last_image_ns()
            self._start(self._first_text(), 0)
        for number, message in enumerate(self._bag.messages(topics)):
            progress(number, total)
            self._take(message)
            if message.log_ns >= last_image_ns and self._run is not None and not self._run.ticks.is_stopped:
                self._run.ticks.stop(END_OF_TIME_NS)  # from here on there are no images: the episode ends with them
            self._advance(message.log_ns)
        self._end_of_bag(has_events)
        self._report.complaints += self._bag.complaints
        return self._report

    def _check_topics(self) -> None:
        """Refuse a bag that lacks a topic of a required key, or has it with another type."""
        bindings = [*self._map.state.values(), *self._map.action.values(), *self._map.video.values()]
        required = {binding.stream for binding in bindings if binding.required}
        for topic, stream in self._streams.items():
            found = self._bag.topics.get(topic)
            if found is None and stream in required:
                raise DatasetError(
                    f"{self._bag.path}: no topic {topic} (stream '{stream}'); the bag has "
                    f"{', '.join(sorted(self._bag.topics)) or 'no topics'}"
                )
            expected = self._map.streams[stream].type
            if found is not None and found.type != expected:
                raise DatasetError(
                    f"{self._bag.path}: topic {topic} is {found.type}, the topic map says {expected}; "
                    f"correct the type of stream '{stream}'"
                )

    def _has_events(self) -> bool:
        if self._map.events is None:
            return False
        topic = _absolute(self._map.streams[self._map.events.stream].topic)
        if topic not in self._bag.topics:
            return False
        count = self._bag.topics[topic].num_messages
        return bool(count) if count is not None else any(True for _ in self._bag.messages([topic]))

    def _last_image_ns(self) -> int:
        stream = self._map.video[self._map.anchor_key].stream
        last_ns = 0
        for message in self._bag.messages([_absolute(self._map.streams[stream].topic)]):
            last_ns = message.log_ns
        return last_ns

    def _first_text(self) -> str:
        if self._map.task is None:
            return ""
        messages = self._bag.messages([_absolute(self._map.streams[self._map.task.stream].topic)])
        return next((self._bag.deserialize(message).data for message in messages), "")

    def _take(self, message: BagMessage) -> None:
        stream = self._streams[message.topic]
        try:
            decoded = self._bag.deserialize(message)
        except DatasetError as error:
            if not self._settings.allow_partial:
                raise
            self._assembler.count_invalid(stream, str(error), message.log_ns)
            return
        self._assembler.add(stream, decoded, message.log_ns)
        if self._map.events is not None and stream == self._map.events.stream:
            self._mark(decoded.data, message.log_ns)

    def _mark(self, text: str, log_ns: int) -> None:
        try:
            event = parse_event(text)
        except ObservationError as error:
            self._report.complaints.append(f"at {log_ns}: {error}; ignored")
            return
        is_recording = self._run is not None and not self._run.ticks.is_stopped
        if event.kind is EventKind.START and not is_recording:
            self._finish(END_OF_TIME_NS)
            self._start(event.task, log_ns)
        elif event.kind is EventKind.STOP and is_recording and self._run is not None:
            self._run.ticks.stop(log_ns)
        elif event.kind is EventKind.DISCARD and is_recording and self._run is not None:
            self._report.episodes.append(self._run.discard())
            self._run = None
        else:
            self._report.complaints.append(f"at {log_ns}: '{event.kind.value}' marker out of place; ignored")

    def _start(self, task: str, start_ns: int) -> None:
        topic_text = self._assembler.text(self._map.task.stream) if self._map.task else ""
        task = task or topic_text or self._settings.task
        if not task.strip():
            raise DatasetError(f"{self._bag.path}: no task text for its episode; give one with --task")
        self._run = EpisodeRun(self._assembler, self._dataset, task, start_ns)

    def _advance(self, now_ns: int) -> None:
        run = self._run
        if run is None:
            return
        try:
            for picked in run.ticks.ready(now_ns):
                run.write(picked)
        except ObservationError as error:
            run.ended_early = str(error)
            run.ticks.is_finished = True
        if run.ticks.is_finished:
            self._save(run)

    def _finish(self, now_ns: int) -> None:
        """Take all that the running episode can still get, and save it."""
        self._advance(now_ns)
        if self._run is not None:
            self._save(self._run)

    def _end_of_bag(self, has_events: bool) -> None:
        run = self._run
        if run is None:
            return
        if has_events and not run.ticks.is_stopped:
            run.ended_early = "the bag ends before the episode's stop marker"
        self._finish(END_OF_TIME_NS)

    def _save(self, run: EpisodeRun) -> None:
        self._run = None
        number = len(self._report.episodes)
        problem = run.ended_early if run.sink.num_frames else run.empty_reason()
        if problem and not self._settings.allow_partial:
            run.discard()
            raise DatasetError(
                f"{self._bag.path}: episode {number} of the bag ('{run.task}') after {run.ticks.num_ticks} rows: "
                f"{problem}; --allow-partial keeps the rows before"
            )
        if problem:
            self._report.complaints.append(f"episode {number} of the bag: {problem}")
        self._report.episodes.append(run.save(f"bag {self._bag.path.name}"))


class _CountingDataset:
    """Stands in for the dataset in a dry run: counts, writes nothing."""

    def __init__(self) -> None:
        self.num_episodes = 0

    def start_episode(self, task: str) -> _CountingEpisode:
        return _CountingEpisode(self)


class _CountingEpisode:
    def __init__(self, dataset: _CountingDataset) -> None:
        self.index = dataset.num_episodes
        self.num_frames = 0
        self.is_open = True
        self._dataset = dataset

    def add_frame(self, frame: Frame) -> None:
        self.num_frames += 1

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        self._dataset.num_episodes += 1
        self.is_open = False
        return self.index

    def discard(self) -> None:
        self.is_open = False


def format_table(reports: Iterable[BagReport]) -> str:
    """Return a table with one line per episode and stream, for people."""
    header = ("episode", "rows", "stream", "received", "used", "filled", "late", "dropped", "invalid", "largest age")
    lines = [header, *(line for report in reports for line in _table_lines(report))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _table_lines(report: BagReport) -> Iterator[tuple[str, ...]]:
    for episode in report.episodes:
        if episode.report is None:
            reason = "discarded" if episode.is_discarded else "empty"
            yield ("-", str(episode.num_frames), reason, *[""] * 7)
            continue
        for name, counts in episode.report["streams"].items():
            numbers = [str(counts[key]) for key in ("received", "used", "filled", "late", "dropped", "invalid")]
            yield (str(episode.index), str(episode.num_frames), name, *numbers, f"{counts['largest_age_s']:.3f} s")


def _append_report(path: Path, reports: Sequence[BagReport], topic_map: TopicMap) -> None:
    """Add these bags to the list of conversions beside the dataset."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))["bags"] if path.exists() else []
        bags = [*earlier, *(dataclasses.asdict(report) for report in reports)]
        document = {"topic_map": dataclasses.asdict(topic_map), "bags": bags}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: cannot be updated ({error}); the episodes themselves are saved") from error


def _absolute(topic: str) -> str:
    return topic if topic.startswith("/") else "/" + topic
