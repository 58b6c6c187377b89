# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert one bag to episodes, with the same frame assembler and ticks as the live recorder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gr00t_recorder.bag.boundaries import Boundaries, BoundarySettings, EpisodeSpan, absolute_topic, find_boundaries
from gr00t_recorder.bag.reader import Bag, Order
from gr00t_recorder.bag.report import BagReport, StreamDelays, StreamTotals
from gr00t_recorder.bag.storage import BagMessage
from gr00t_recorder.episodes.run import DatasetSink, EpisodeResult, EpisodeRun
from gr00t_recorder.episodes.ticks import END_OF_TIME_NS
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.samples import CLOCK_RESET_NS
from gr00t_recorder.topics.streams import clock_faults
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.io.text import check_instruction, printable

Progress = Callable[[int, int], None]  # messages read, total number of messages
LONG_PAUSE_NS = 60 * 10**9  # longer ones end an episode, even if inputs may hold their last sample
QUIET_NS = 50_000_000  # the live recorder checks for due rows as often while no message arrives


@dataclass(frozen=True)
class ConversionSettings:
    """How one bag is converted."""

    boundaries: BoundarySettings = field(default_factory=BoundarySettings)
    tasks: tuple[str, ...] = ()  # task texts of the episodes in order; the last one is also for all later episodes
    allow_partial: bool = False  # keep the readable part of damaged bags and broken episodes
    order: Order = Order.AUTO  # of the messages


class BagConversion:
    """Conversion of one bag."""

    def __init__(
        self,
        bag: Bag,
        topic_map: TopicMap,
        embodiment: Embodiment,
        dataset: DatasetSink,
        settings: ConversionSettings,
    ) -> None:
        """Compare the bag with the topic map.

        Raises:
            ConfigError: the topic map does not fit the message types, or the episode boundaries cannot be found.
            DatasetError: a topic is missing or has another type, or the bag cannot be read.
        """
        self._bag = bag
        self._map = topic_map
        self._dataset = dataset
        self._settings = settings
        self._streams: dict[str, list[str]] = {}  # by topic; streams may share one
        for name, config in topic_map.streams.items():
            self._streams.setdefault(absolute_topic(config.topic), []).append(name)
        self._report = BagReport(str(bag.path))
        self._delays = {name: StreamDelays() for name in topic_map.streams}
        self._run: EpisodeRun | None = None
        self._span: EpisodeSpan | None = None  # of the running episode
        self._log_ns = 0  # of the newest message
        self._check_topics()
        self._check_order()
        self.boundaries: Boundaries = find_boundaries(bag, topic_map, settings.boundaries)
        self._assembler = FrameAssembler(topic_map, embodiment, holds_stale=self.boundaries.is_held)
        self._texts = self._read_texts()

    def run(self, progress: Progress = lambda done, total: None) -> BagReport:
        """Read the whole bag and return the report.

        Raises:
            DatasetError: the bag is damaged or an episode broken (unless partial reading is allowed); or the episodes
                cannot be written.
        """
        self._report.complaints += self.boundaries.complaints
        topics = [topic for topic in self._streams if topic in self._bag.topics]
        total = sum(self._bag.topics[topic].num_messages or 0 for topic in topics)
        steps = self._steps()
        for number, message in enumerate(self._bag.messages(topics)):
            progress(number + 1, total)
            self._catch_up(message.log_ns, steps)
            self._take(message)
            self._advance(message.log_ns)
            self._log_ns = message.log_ns
        for _, step in steps:
            step()
        if self._run is not None and self._span is not None:
            self._run.ended_early = self._run.ended_early or self._span.problem
            self._finish()
        self._report.streams = self.totals()
        for name, totals in self._report.streams.items():
            self._report.complaints += [f"stream '{name}': {problem}" for problem in totals.problems()]
        self._report.complaints += self._bag.complaints
        self._report.notes += [*self._bag.notes, *self.boundaries.notes]
        self._report.is_checked = self._bag.is_checked
        return self._report

    def task_texts(self) -> list[str]:
        """Return the task of each episode that is kept; empty where neither bag nor settings have one."""
        spans = enumerate(self.boundaries.spans)
        return [self._task(span, number) for number, span in spans if not span.is_discarded]

    def _catch_up(self, log_ns: int, steps: list[tuple[int, Callable[[], None]]]) -> None:
        """Do everything due before a message of `log_ns`, which may drop samples from before a pause."""
        while steps and steps[0][0] <= log_ns:
            due_ns, step = steps.pop(0)
            self._advance(due_ns)
            step()
        run = self._run
        if run is not None and run.ticks.num_ticks and log_ns > self._log_ns + LONG_PAUSE_NS:
            self._advance(self._log_ns + LONG_PAUSE_NS)
            if self._run is run:
                run.ended_early = f"no message for {(log_ns - self._log_ns) / 1e9:.0f} s"
                self._save(run)
        elif log_ns > self._log_ns + QUIET_NS:
            self._advance(log_ns)

    def _check_order(self) -> None:
        """Refuse a bag if its log times contradict the order in the file, unless `order` says which is right."""
        set_back = self._bag.times_set_back(self._streams) if self._bag.order is Order.AUTO else None
        if set_back is not None:
            raise DatasetError(
                f"{self._bag.path}: log times of {printable(set_back[0])} go back by {set_back[1] / 1e9:.1f} s in the "
                "file: the clock of the bag's recorder was set back, or files were joined; use --order file for the "
                "order in the file, or --order log if the log times are right"
            )

    def _check_topics(self) -> None:
        """Refuse a bag where a topic of a required key is missing or has another type."""
        path = self._bag.path
        if not self._map.action:
            raise DatasetError(f"{path}: the topic map binds no action, so nothing can be learned; add 'action'")
        if self._bag.start_ns() is None:
            raise DatasetError(f"{path}: no messages; check the topics of its recorder, and record again")
        required = {binding.stream for binding in self._map.bindings.values() if binding.required}
        for topic, stream in ((topic, stream) for topic, streams in self._streams.items() for stream in streams):
            found = self._bag.topics.get(topic)
            if found is None and stream in required:
                known = ", ".join(map(printable, sorted(self._bag.topics))) or "no topics"
                raise DatasetError(
                    f"{path}: no topic {topic} (stream '{stream}'); the bag has {known}; correct the topic map"
                )
            expected = self._map.streams[stream].type
            if found is not None and found.type != expected:
                raise DatasetError(
                    f"{path}: topic {topic} is {printable(found.type)}, the topic map says {expected}; "
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
        """Return the log times at which episodes start and end, and the action for each."""
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
        """Add an episode that its operator discarded to the report, without decoding it."""
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
        try:
            task = check_instruction(task)
        except ValueError as error:
            raise DatasetError(f"{self._bag.path}: task of episode {number}: {error}") from error
        self._span = span
        self._run = EpisodeRun(self._assembler, self._dataset, task, span.start_ns)
        self._run.marks = span.marks

    def _stop(self, span: EpisodeSpan) -> None:
        if self._run is not None and self._span is span:
            self._run.ended_early = span.reason
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
                self._assembler.store.count_invalid(stream, str(error), message.log_ns)
            return
        stamp_ns = stamp_of(decoded)
        if self._run is not None and self._run.ticks.is_stopped and self._is_set_back(streams, stamp_ns):
            self._finish()  # its rows are from before the clock was set back
        for stream in streams:
            self._assembler.store.add(stream, decoded, message.log_ns)
            if stamp_ns:
                self._delays[stream].add(stamp_ns, message.log_ns)

    def _is_set_back(self, streams: Sequence[str], stamp_ns: int | None) -> bool:
        newest_ns = max((self._delays[stream].newest_ns or 0 for stream in streams), default=0)
        return bool(stamp_ns) and stamp_ns < newest_ns - CLOCK_RESET_NS

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
        """Write the remaining rows of the running episode and save it."""
        self._advance(END_OF_TIME_NS)
        if self._run is not None:
            self._save(self._run)

    def _save(self, run: EpisodeRun) -> None:
        self._run = None
        number = len(self._report.episodes)
        problem = run.ended_early if run.sink.num_frames else run.empty_reason()
        causes = [cause for cause in clock_faults(self._assembler.health.reports(0)) if cause not in problem]
        if problem and causes:
            problem = f"{problem}; {'; '.join(causes)}"
        was_ended = self._span.reason if self._span is not None else ""
        if problem and not self._settings.allow_partial and not (was_ended and run.sink.num_frames):
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
        for report in self._assembler.health.reports(0):
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
                conflicts=report.conflicts,
                conflict_reason=report.conflict_reason,
                least_delay_s=None if delays.least_ns is None else delays.least_ns / 1e9,
                largest_delay_s=None if delays.most_ns is None else delays.most_ns / 1e9,
            )
        return totals
