# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn one bag into episodes, through the same assembler and ticks as the live recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gr00t_recorder.bag.boundaries import Boundaries, BoundarySettings, EpisodeSpan, absolute_topic, find_boundaries
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.storage import BagMessage
from gr00t_recorder.episodes import DatasetSink, EpisodeResult, EpisodeRun
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.frames import CLOCK_RESET_NS, FrameAssembler
from gr00t_recorder.topics.ticks import END_OF_TIME_NS
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.types import Frame

Progress = Callable[[int, int], None]  # messages read, messages in all


@dataclass(frozen=True)
class ConversionSettings:
    """How one bag is converted."""

    boundaries: BoundarySettings = field(default_factory=BoundarySettings)
    tasks: tuple[str, ...] = ()  # task texts of the episodes in order, the last one for all behind it
    allow_partial: bool = False  # keep what can be read of damaged bags and broken episodes


@dataclass
class StreamDelays:
    """How long after their stamps the messages of a stream were logged, which shows clocks that run apart."""

    least_ns: int | None = None
    most_ns: int | None = None
    num_steps: int = 0  # changes by more than a second between two messages
    _last_ns: int | None = None

    def add(self, stamp_ns: int, log_ns: int) -> None:
        """Take in a message."""
        delay_ns = log_ns - stamp_ns
        self.least_ns = delay_ns if self.least_ns is None else min(self.least_ns, delay_ns)
        self.most_ns = delay_ns if self.most_ns is None else max(self.most_ns, delay_ns)
        if self._last_ns is not None and abs(delay_ns - self._last_ns) > CLOCK_RESET_NS:
            self.num_steps += 1
        self._last_ns = delay_ns


@dataclass
class StreamTotals:
    """What a bag holds of a stream, over all its messages."""

    topic: str
    received: int
    dropped: int  # repeating a stamp
    invalid: int
    invalid_reason: str
    zero_stamps: int
    clock_resets: int
    clock_steps: int  # changes of the delay between stamp and log time by more than a second
    least_delay_s: float | None  # from stamp to log time; None: no stamps
    largest_delay_s: float | None

    def problems(self) -> list[str]:
        """Return what was wrong and how it was handled, one line each."""
        found = []
        if self.zero_stamps:
            found.append(f"{self.zero_stamps} messages without a stamp, taken at their log time")
        if self.dropped:
            found.append(f"{self.dropped} messages with a stamp that came before, left out")
        if self.invalid:
            found.append(f"{self.invalid} messages that cannot be used, left out ({self.invalid_reason})")
        if self.clock_resets:
            found.append(f"its clock was set back {self.clock_resets} times; an episode ends there")
        elif self.clock_steps:
            found.append(f"its clock was set {self.clock_steps} times against the recorder's")
        return found


@dataclass
class BagReport:
    """What came out of one bag."""

    bag: str
    episodes: list[EpisodeResult] = field(default_factory=list)  # in order; discarded ones too
    complaints: list[str] = field(default_factory=list)
    streams: dict[str, StreamTotals] = field(default_factory=dict)
    error: str = ""  # why the bag was refused; nothing of it is in the dataset then


class BagConversion:
    """One bag on its way into a dataset."""

    def __init__(
        self,
        bag: Bag,
        topic_map: TopicMap,
        embodiment: Embodiment,
        dataset: DatasetSink,
        settings: ConversionSettings,
    ) -> None:
        """Hold the bag against the topic map.

        Raises:
            ConfigError: the topic map does not fit the message types, or has no way to tell episodes apart.
            DatasetError: the bag lacks a topic, or has it with another type, or cannot be read.
        """
        self._bag = bag
        self._map = topic_map
        self._dataset = dataset
        self._settings = settings
        self._streams: dict[str, list[str]] = {}  # by topic; streams may share one
        for name, config in topic_map.streams.items():
            self._streams.setdefault(absolute_topic(config.topic), []).append(name)
        self._assembler = FrameAssembler(topic_map, embodiment)
        self._report = BagReport(str(bag.path))
        self._delays = {name: StreamDelays() for name in topic_map.streams}
        self._run: EpisodeRun | None = None
        self._span: EpisodeSpan | None = None  # of the running episode
        self._check_topics()
        self.boundaries: Boundaries = find_boundaries(bag, topic_map, settings.boundaries)
        self._texts = self._read_texts()

    def run(self, progress: Progress = lambda done, total: None) -> BagReport:
        """Read the bag to its end and return what came out.

        Raises:
            DatasetError: the bag is damaged or an episode broken (unless partial reading is allowed); or the episodes
                cannot be written.
        """
        self._report.complaints += self.boundaries.complaints
        topics = [topic for topic in self._streams if topic in self._bag.topics]
        total = sum(self._bag.topics[topic].num_messages or 0 for topic in topics)
        steps = self._steps()
        due_ns = steps[0][0] if steps else END_OF_TIME_NS
        for number, message in enumerate(self._bag.messages(topics)):
            progress(number + 1, total)
            while due_ns <= message.log_ns:
                steps.pop(0)[1]()
                due_ns = steps[0][0] if steps else END_OF_TIME_NS
            self._take(message)
            self._advance(message.log_ns)
        for _, step in steps:
            step()
        if self._run is not None and self._span is not None:
            self._run.ended_early = self._run.ended_early or self._span.problem
            self._finish()
        self._report.streams = self.totals()
        for name, totals in self._report.streams.items():
            self._report.complaints += [f"stream '{name}': {problem}" for problem in totals.problems()]
        self._report.complaints += self._bag.complaints
        return self._report

    def _check_topics(self) -> None:
        """Refuse a bag that lacks a topic of a required key, or has it with another type."""
        path = self._bag.path
        if not self._map.action:
            raise DatasetError(f"{path}: the topic map binds no action, so nothing can be learned; add 'action'")
        if self._bag.start_ns() is None:
            raise DatasetError(f"{path}: holds no messages; check what its recorder was told, and record again")
        required = {binding.stream for binding in self._map.bindings.values() if binding.required}
        for topic, stream in ((topic, stream) for topic, streams in self._streams.items() for stream in streams):
            found = self._bag.topics.get(topic)
            if found is None and stream in required:
                raise DatasetError(
                    f"{path}: no topic {topic} (stream '{stream}'); the bag has "
                    f"{', '.join(sorted(self._bag.topics)) or 'no topics'}; correct the topic map"
                )
            expected = self._map.streams[stream].type
            if found is not None and found.type != expected:
                raise DatasetError(
                    f"{path}: topic {topic} is {found.type}, the topic map says {expected}; "
                    f"correct the type of stream '{stream}'"
                )

    def _read_texts(self) -> list[tuple[int, str]]:
        """Return log time and text of the messages on the task topic."""
        if self._map.task is None:
            return []
        texts = []
        for message in self._bag.messages([absolute_topic(self._map.streams[self._map.task.stream].topic)]):
            try:
                texts.append((message.log_ns, str(self._bag.deserialize(message).data)))
            except DatasetError:
                if not self._settings.allow_partial:
                    raise
        return texts

    def _steps(self) -> list[tuple[int, Callable[[], None]]]:
        """Return the log times at which episodes start and end, and what is to be done then."""
        steps: list[tuple[int, Callable[[], None]]] = []
        for number, span in enumerate(self.boundaries.spans):
            if span.is_discarded:
                steps.append((span.start_at_ns, lambda span=span, number=number: self._skip(span, number)))
                continue
            steps.append((span.start_at_ns, lambda span=span, number=number: self._start(span, number)))
            if not span.problem:
                steps.append((span.stop_at_ns, lambda span=span: self._stop(span)))
        return steps

    def _skip(self, span: EpisodeSpan, number: int) -> None:
        """Note an episode that its operator discarded; it is not even decoded."""
        self._finish()
        task = self._task(span, number)
        self._report.episodes.append(
            EpisodeResult(False, self._dataset.num_episodes, 0, task, is_discarded=True, marks=span.marks)
        )

    def _start(self, span: EpisodeSpan, number: int) -> None:
        self._finish()
        task = self._task(span, number)
        if not task.strip():
            raise DatasetError(f"{self._bag.path}: no task text for episode {number}; give one with --task or --tasks")
        self._span = span
        self._run = EpisodeRun(self._assembler, self._dataset, task, span.start_ns)
        self._run.marks = span.marks

    def _stop(self, span: EpisodeSpan) -> None:
        if self._run is not None and self._span is span:
            self._run.ticks.stop(span.end_ns)

    def _task(self, span: EpisodeSpan, number: int) -> str:
        """Return the text of the marker, else the newest on the task topic, else the first one, else the given one."""
        before = [text for log_ns, text in self._texts if log_ns <= span.start_at_ns]
        within = [text for log_ns, text in self._texts if span.start_at_ns < log_ns <= span.stop_at_ns]
        given = self._settings.tasks[min(number, len(self._settings.tasks) - 1)] if self._settings.tasks else ""
        return span.task or (before[-1] if before else "") or (within[0] if within else "") or given

    def _take(self, message: BagMessage) -> None:
        streams = self._streams[message.topic]
        try:
            decoded = self._bag.deserialize(message)
        except DatasetError as error:
            if not self._settings.allow_partial:
                raise
            for stream in streams:
                self._assembler.count_invalid(stream, str(error), message.log_ns)
            return
        stamp_ns = stamp_of(decoded)
        for stream in streams:
            self._assembler.add(stream, decoded, message.log_ns)
            if stamp_ns:
                self._delays[stream].add(stamp_ns, message.log_ns)

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

    def _finish(self) -> None:
        """Take all that the running episode can still get, and save it."""
        self._advance(END_OF_TIME_NS)
        if self._run is not None:
            self._save(self._run)

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

    def totals(self) -> dict[str, StreamTotals]:
        """Return what was read of each stream so far."""
        totals = {}
        for report in self._assembler.reports(0):
            delays = self._delays[report.name]
            totals[report.name] = StreamTotals(
                topic=report.topic,
                received=report.received,
                dropped=report.dropped,
                invalid=report.invalid,
                invalid_reason=report.invalid_reason,
                zero_stamps=report.zero_stamps,
                clock_resets=report.clock_resets,
                clock_steps=delays.num_steps,
                least_delay_s=None if delays.least_ns is None else delays.least_ns / 1e9,
                largest_delay_s=None if delays.most_ns is None else delays.most_ns / 1e9,
            )
        return totals


class CountingDataset:
    """Stands in for the dataset in a dry run: counts, writes nothing."""

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
