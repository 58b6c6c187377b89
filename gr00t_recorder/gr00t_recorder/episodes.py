# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record episodes: idle -> recording -> saving -> idle.

Ticks are picked in the thread that brings messages; images are decoded and encoded in one worker thread. What a writer
that cannot keep up leaves waits on disk (`gr00t_recorder.backlog`): a row is never left out in the middle.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from gr00t_recorder.backlog import FrameBacklog
from gr00t_recorder.topics.frames import FrameAssembler, PickedFrame
from gr00t_recorder.topics.streams import StreamState
from gr00t_recorder.topics.ticks import DEFAULT_MAX_LAG_S, END_OF_TIME_NS, EpisodeTicks
from gr00t_training.dataset.trace import Marks
from gr00t_training.errors import DatasetError, Gr00tError, ObservationError
from gr00t_training.types import Frame

logger = logging.getLogger(__name__)

DEFAULT_MAX_QUEUED_BYTES = 256 * 10**6  # 3 s of three raw 640x480 cameras at 30 Hz
NO_MARKS = Marks()
TALLIED = ("received", "used", "late", "dropped", "invalid")


class EpisodeSink(Protocol):
    """Takes the frames of one episode, as `gr00t_training.dataset.writer.EpisodeWriter` does."""

    index: int

    @property
    def num_frames(self) -> int: ...
    @property
    def is_open(self) -> bool: ...
    def add_frame(self, frame: Frame) -> None: ...
    def save(self, report: Mapping[str, Any] | None = None) -> int: ...
    def discard(self) -> None: ...


class DatasetSink(Protocol):
    """Starts episodes, as `gr00t_training.dataset.writer.DatasetWriter` does."""

    @property
    def num_episodes(self) -> int: ...
    def start_episode(self, task: str) -> EpisodeSink: ...


class RevisableSink(DatasetSink, Protocol):
    """Also changes what is saved, as `gr00t_training.dataset.writer.DatasetWriter` does."""

    def mark(self, index: int, marks: Marks) -> Marks: ...
    def discard_last(self) -> Path: ...


class EventKind(str, Enum):
    """What a marker on the events topic asks for."""

    START = "start"
    STOP = "stop"
    DISCARD = "discard"
    TAKE_BACK = "take_back"  # the last one that was kept


@dataclass(frozen=True)
class EpisodeEvent:
    """One marker."""

    kind: EventKind
    task: str = ""
    marks: Marks = NO_MARKS


def parse_event(text: str) -> EpisodeEvent:
    """Read a marker, JSON `{"event": "start"|"stop"|"discard"|"take_back", "task": text}`.

    `take_back` takes the last episode that was kept out of the dataset again. `success`, `valid` (true or false) and
    `note` mark the episode; other members are ignored.

    Raises:
        ObservationError: not such a marker.
    """
    try:
        members = json.loads(text)
        marks = Marks.of_report(members)
        return EpisodeEvent(EventKind(members["event"]), str(members.get("task") or ""), marks)
    except (ValueError, KeyError, TypeError, AttributeError, DatasetError) as error:
        raise ObservationError(
            f'episode marker {text!r}: expected JSON {{"event": "start", "stop", "discard" or "take_back", '
            '"task": text}}'
        ) from error


def event_text(event: EpisodeEvent) -> str:
    """Return the marker that `parse_event` reads."""
    members = {"event": event.kind.value, "task": event.task, **event.marks.to_mapping()}
    return json.dumps({name: value for name, value in members.items() if value not in (None, "")}, ensure_ascii=False)


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended."""

    is_saved: bool
    index: int  # of the saved episode, or the index it would have got
    num_frames: int
    task: str
    reason: str = ""  # why it was not saved or ended early; empty otherwise
    is_discarded: bool = False  # because somebody asked for it
    is_empty: bool = False  # there was no complete frame
    marks: Marks = NO_MARKS
    report: Mapping[str, Any] | None = None


class EpisodeRun:
    """One episode on its way into a dataset; bag converter and recorder both drive one."""

    def __init__(
        self,
        assembler: FrameAssembler,
        dataset: DatasetSink,
        task: str,
        start_ns: int,
        *,
        max_lag_s: float = DEFAULT_MAX_LAG_S,
    ) -> None:
        """Start at `start_ns`; DatasetError when the dataset cannot take an episode."""
        self.task = task
        self.ticks = EpisodeTicks(assembler, start_ns, max_lag_s=max_lag_s)
        self.sink = dataset.start_episode(task)
        self.ended_early = ""  # why the episode ended before it was told to
        self.marks = Marks()
        self.notes: dict[str, Any] = {}  # further entries of the report, plain JSON values
        self.warnings: list[dict[str, Any]] = []  # stretches of rows in which a stream was not as it should be
        self._assembler = assembler
        self._at_start = {report.name: report for report in assembler.reports(start_ns)}
        self._filled = dict.fromkeys(self._at_start, 0)
        self._largest_age_ns = dict.fromkeys(self._at_start, 0)
        self._streams = {name: binding.stream for name, binding in assembler.topic_map.bindings.items()}

    def write(self, picked: PickedFrame) -> None:
        """Decode a frame and append it; raises ObservationError (no undamaged image) or DatasetError."""
        frame = self._assembler.decode(picked)
        self.sink.add_frame(frame)
        for stream in {self._streams[name] for name in frame.filled}:
            self._filled[stream] += 1
        for name, age_ns in frame.ages_ns.items():
            stream = self._streams[name]
            self._largest_age_ns[stream] = max(self._largest_age_ns[stream], abs(age_ns))

    def save(self, source: str) -> EpisodeResult:
        """Make the episode part of the dataset; an episode without rows is discarded instead.

        Raises:
            DatasetError: it cannot be written; finished episodes are unharmed.
        """
        if not self.sink.num_frames:
            return dataclasses.replace(self.discard(self.empty_reason()), is_empty=True)
        num_frames, report, marks = self.sink.num_frames, self.report(source), self.marks
        index = self.sink.save(report)
        return EpisodeResult(True, index, num_frames, self.task, self.ended_early, marks=marks, report=report)

    def discard(self, reason: str = "") -> EpisodeResult:
        """Drop the episode."""
        if self.sink.is_open:
            self.sink.discard()
        return EpisodeResult(False, self.sink.index, 0, self.task, reason, is_discarded=not reason)

    def warn(self, reasons: Mapping[str, str]) -> None:
        """Note what is wrong with streams at present, by stream; the report tells from about which row to which."""
        row = self.ticks.num_ticks
        going_on = {warning["stream"]: warning for warning in self.warnings if warning["last_row"] is None}
        for stream in going_on.keys() - reasons.keys():
            going_on[stream]["last_row"] = row
        for stream in [stream for stream in reasons if stream not in going_on]:
            self.warnings.append({"stream": stream, "reason": reasons[stream], "first_row": row, "last_row": None})

    def empty_reason(self) -> str:
        """Tell why there is no row."""
        reports = self._assembler.reports(0)
        invalid = [report.reason for report in reports if report.state is StreamState.INVALID]
        camera = self._assembler.topic_map.anchor_key
        no_image = f"no image of camera '{camera}' is stamped within the episode; check the camera and its clock"
        found = [self.ticks.last_refusal or self.ended_early, *invalid]
        return f"no complete frame: {'; '.join(dict.fromkeys(filter(None, found))) or no_image}"

    def report(self, source: str) -> dict[str, Any]:
        """Return what is known of the recording, as plain JSON values."""
        streams = {}
        for now in self._assembler.reports(0):
            counts = {name: getattr(now, name) - getattr(self._at_start[now.name], name) for name in TALLIED}
            filled, age_ns = self._filled[now.name], self._largest_age_ns[now.name]
            streams[now.name] = {"topic": now.topic, **counts, "filled": filled, "largest_age_s": age_ns / 1e9}
        return {
            "source": source,
            "streams": streams,
            "skipped_at_start": self.ticks.num_skipped,
            "ended_early": self.ended_early,
            "warnings": self.warnings,
            **self.notes,
            **self.marks.to_mapping(),
        }


class RecorderState(str, Enum):
    """What the recorder is doing."""

    IDLE = "idle"
    RECORDING = "recording"
    SAVING = "saving"
    FAILED = "failed"  # idle, and the last episode could not be saved


@dataclass(eq=False)
class Recording:
    """One episode of the recorder, from its start until it is saved or dropped."""

    run: EpisodeRun
    backlog: FrameBacklog
    start_ns: int
    is_kept: bool = True
    is_closing: bool = False  # its report is being written: too late for marks
    done: Future[EpisodeResult] = field(default_factory=Future)

    @property
    def index(self) -> int:
        """Index that the episode gets when it is kept."""
        return self.run.sink.index

    @property
    def progress(self) -> float:
        """Share of the picked rows that are written."""
        return self.run.sink.num_frames / self.run.ticks.num_ticks if self.run.ticks.num_ticks else 1.0


class EpisodeRecorder:
    """Records one episode after the other. Every method may be called from any thread."""

    def __init__(
        self,
        assembler: FrameAssembler,
        dataset: RevisableSink,
        *,
        spill_folder: Path,
        source: str = "live",
        max_lag_s: float = DEFAULT_MAX_LAG_S,
        max_queued_bytes: int = DEFAULT_MAX_QUEUED_BYTES,
        has_room: Callable[[int], bool] = lambda num_bytes: True,
        on_done: Callable[[EpisodeResult], None] = lambda result: None,
    ) -> None:
        """Start the worker thread.

        Args:
            assembler: gives the frames.
            dataset: takes the episodes.
            spill_folder: where frames wait that exceed `max_queued_bytes` of memory.
            source: where the messages come from; written into the report.
            max_lag_s: longest wait for a slow stream.
            max_queued_bytes: memory of the frames that wait for the encoder.
            has_room: whether so many bytes more may be spilled.
            on_done: called in the worker thread at the end of each episode.
        """
        self.state = RecorderState.IDLE
        self.reason = ""  # of a failure, or of an early end
        self._assembler = assembler
        self._dataset = dataset
        self._spill_folder = spill_folder
        self._source = source
        self._max_lag_s = max_lag_s
        self._max_queued_bytes = max_queued_bytes
        self._has_room = has_room
        self._on_done = on_done
        self._recording: Recording | None = None
        self._last: EpisodeResult | None = None
        # a token per frame in the backlog, True at the end of an episode; None ends the worker
        self._queue: queue.Queue[tuple[Recording, bool] | None] = queue.Queue()
        self._lock = threading.RLock()
        self._is_idle = threading.Condition(self._lock)
        self._is_told = threading.Event()  # whether `on_done` has returned
        self._is_told.set()
        self._worker = threading.Thread(target=self._work, name="episode_writer", daemon=True)
        self._worker.start()

    @property
    def is_busy(self) -> bool:
        """Whether an episode is being recorded or saved."""
        return self.state in (RecorderState.RECORDING, RecorderState.SAVING)

    @property
    def recording(self) -> Recording | None:
        """The episode that is being recorded or saved."""
        return self._recording

    @property
    def last(self) -> EpisodeResult | None:
        """How the newest episode ended; it is not `is_saved` any more once it is set aside."""
        return self._last

    @property
    def num_frames(self) -> int:
        """Rows written of the running episode."""
        recording = self._recording
        return recording.run.sink.num_frames if recording else 0

    @property
    def task(self) -> str:
        """Task of the running episode."""
        recording = self._recording
        return recording.run.task if recording else ""

    @property
    def marks(self) -> Marks:
        """Marks of the running episode, or of the last saved one."""
        recording, last = self._recording, self._last
        return recording.run.marks if recording else last.marks if last else Marks()

    def duration_s(self, now_ns: int) -> float:
        """Seconds since the running episode's start."""
        recording = self._recording
        return (now_ns - recording.start_ns) / 1e9 if recording else 0.0

    def start(self, task: str, start_ns: int) -> Recording:
        """Start an episode.

        Raises:
            DatasetError: one is running or being saved, or the dataset cannot take one.
        """
        with self._lock:
            if self.is_busy:
                raise DatasetError(f"an episode is {self.state.value}; stop it, or wait until it is saved")
            run = EpisodeRun(self._assembler, self._dataset, task, start_ns, max_lag_s=self._max_lag_s)
            backlog = FrameBacklog(self._spill_folder, max_bytes=self._max_queued_bytes, has_room=self._has_room)
            self._is_told.clear()
            recording = self._recording = Recording(run, backlog, start_ns)
            self.state, self.reason = RecorderState.RECORDING, ""
            return recording

    def stop(self, *, keep: bool, end_ns: int, marks: Marks | None = None, reason: str = "") -> bool:
        """End the running episode at `end_ns`; `Recording.done` tells when it is saved. False when none is running.

        Samples of its last ticks may still be on their way: go on calling `advance`. `reason` says why an episode that
        is kept ends before it was told to.
        """
        with self._lock:
            recording = self._recording
            if self.state is not RecorderState.RECORDING or recording is None:
                return False
            self.state = RecorderState.SAVING
            recording.is_kept = keep
            recording.run.ended_early = reason
            if marks is not None:
                recording.run.marks = recording.run.marks.updated(marks)
            recording.run.ticks.stop(end_ns)
            if keep:
                self.advance(end_ns)
            else:
                self._end(recording)
            return True

    def cancel(self, end_ns: int) -> bool:
        """Drop the running episode, even while it is being saved; False when none is running.

        A save that is about to be completed may still be: `Recording.done` tells.
        """
        with self._lock:
            recording = self._recording
            if recording is None or self.stop(keep=False, end_ns=end_ns):
                return recording is not None
            recording.is_kept = False
            if not recording.run.ticks.is_finished:
                self._end(recording)
            return True

    def mark(self, marks: Marks) -> bool:
        """Mark the running episode; False when none is running or its marks are being written already."""
        with self._lock:
            recording = self._recording
            if recording is None or recording.is_closing:
                return False
            recording.run.marks = recording.run.marks.updated(marks)
            return True

    def mark_saved(self, index: int, marks: Marks) -> Marks:
        """Mark a saved episode and return its marks.

        Raises:
            DatasetError: there is no such episode, or its marks cannot be written.
        """
        with self._lock:
            marks, last = self._dataset.mark(index, marks), self._last
            if last is not None and last.is_saved and last.index == index:
                self._last = dataclasses.replace(last, marks=marks)
            return marks

    def discard_last(self) -> Path | None:
        """Take the last saved episode out of the dataset; return where its files are, None when there is none.

        Raises:
            DatasetError: one is running, or the dataset cannot be changed.
        """
        with self._lock:
            if self.is_busy:
                raise DatasetError(f"an episode is {self.state.value}; stop it, or wait until it is saved")
            if self._last is None or not self._last.is_saved:
                return None
            folder = self._dataset.discard_last()
            self._last = dataclasses.replace(self._last, is_saved=False, is_discarded=True)
            return folder

    def advance(self, now_ns: int) -> None:
        """Queue the frames that are certain at `now_ns`; call it after new messages, and now and then without."""
        with self._lock:
            recording = self._recording
            if recording is None or recording.run.ticks.is_finished:
                return
            run = recording.run
            try:
                for picked in run.ticks.ready(now_ns):
                    recording.backlog.put(picked)
                    self._queue.put((recording, False))
            except (ObservationError, DatasetError) as error:
                run.ended_early = str(error)
                run.ticks.is_finished = True
            except Exception as error:  # a bug must not leave a row out: the episode ends before it
                logger.exception("episode %d: a row cannot be taken", run.sink.index)
                run.ended_early = f"internal error: {error!r}"
                run.ticks.is_finished = True
            if run.ticks.is_finished:
                self.state = RecorderState.SAVING
                self._end(recording)

    def warn(self, reasons: Mapping[str, str]) -> None:
        """Have the running episode's report say what is wrong at present."""
        with self._lock:
            if self._recording is not None and self.state is RecorderState.RECORDING:
                self._recording.run.warn(reasons)

    def finish(self, now_ns: int) -> None:
        """End a running episode with the messages at hand, and wait until it is saved."""
        self.stop(keep=True, end_ns=now_ns)
        self.advance(END_OF_TIME_NS)
        self.wait_until_idle()

    def wait_until_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until no episode is running or being saved; whether that happened in time."""
        with self._is_idle:
            return self._is_idle.wait_for(lambda: not self.is_busy, timeout_s)

    def wait_until_told(self) -> None:
        """Wait until `on_done` has returned for the last episode that has ended; not in `on_done` itself."""
        if not self.is_busy:
            self._is_told.wait()

    def close(self, now_ns: int) -> None:
        """Finish a running episode and end the worker; may be called twice."""
        if self._worker.is_alive():
            self.finish(now_ns)
            self._queue.put(None)
            self._worker.join()

    def _end(self, recording: Recording) -> None:
        recording.run.ticks.is_finished = True
        self._queue.put((recording, True))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            recording, is_end = item
            if recording is not self._recording:
                continue  # it has failed
            run = recording.run
            try:
                if is_end:
                    self._finish(recording, self._save(recording) if recording.is_kept else run.discard())
                elif recording.is_kept:
                    self._write(recording)
            except Gr00tError as error:
                self._finish(recording, run.discard(str(error)))
            except Exception as error:  # a bug must end this episode, not the recorder
                logger.exception("episode %d cannot be written", run.sink.index)
                self._finish(recording, run.discard(f"internal error: {error!r}"))

    def _write(self, recording: Recording) -> None:
        """Write the next waiting frame; when that is not possible, keep the rows before it."""
        run = recording.run
        try:
            run.write(recording.backlog.take())
        except (ObservationError, DatasetError) as error:
            if not run.sink.is_open or (isinstance(error, DatasetError) and not run.sink.num_frames):
                raise
            with self._lock:
                run.ticks.is_finished = True
                run.ended_early = str(error)
                self.state = RecorderState.SAVING
            self._finish(recording, self._save(recording))

    def _save(self, recording: Recording) -> EpisodeResult:
        with self._lock:
            recording.is_closing = True
        recording.run.notes["spilled_frames"] = recording.backlog.num_spilled
        return recording.run.save(self._source)

    def _finish(self, recording: Recording, result: EpisodeResult) -> None:
        recording.run.ticks.is_finished = True
        recording.backlog.clear()
        with self._lock:
            self._recording, self._last = None, result
            is_failed = not result.is_saved and not result.is_discarded
            self.state = RecorderState.FAILED if is_failed else RecorderState.IDLE
            self.reason = result.reason
            self._is_idle.notify_all()
        try:
            self._on_done(result)
        finally:
            self._is_told.set()
            recording.done.set_result(result)
