# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The episode that is being recorded or saved, and the data of the recorder. Only the recorder's thread comes here."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from gr00t_recorder.episodes.backlog import FrameBacklog
from gr00t_recorder.episodes.conditions import Conditions
from gr00t_recorder.episodes.events import EpisodeEvent, EventKind
from gr00t_recorder.episodes.requests import RunningEpisode, Stop
from gr00t_recorder.episodes.run import DatasetSink, EpisodeResult, EpisodeRun
from gr00t_recorder.episodes.ticks import DEFAULT_MAX_LAG_S, END_OF_TIME_NS
from gr00t_recorder.episodes.view import RecorderListener, RecorderState
from gr00t_recorder.episodes.worker import RowWriter, Worker
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import DatasetError, Gr00tError, ObservationError

logger = logging.getLogger(__name__)

DEFAULT_MAX_QUEUED_BYTES = 256 * 10**6  # 3 s of three raw 640x480 cameras at 30 Hz
WATCH_PERIOD_S = 0.5


class RecorderDataset(DatasetSink, Protocol):
    """Also changes what is saved, as `gr00t_training.dataset.writer.DatasetWriter` does."""

    @property
    def num_frames(self) -> int: ...
    def episode_folder(self, index: int) -> Path: ...
    def mark(self, index: int, marks: Marks) -> Marks: ...
    def discard_last(self) -> Path: ...


@dataclass(frozen=True, kw_only=True)
class RecorderOptions:
    """How episodes are recorded."""

    spill_folder: Path  # where rows wait that exceed `max_queued_bytes`
    task: str = ""  # if no other source gives one
    source: str = "live"  # of the messages; written into the report
    max_lag_s: float = DEFAULT_MAX_LAG_S  # longest wait for a slow stream
    max_queued_bytes: int = DEFAULT_MAX_QUEUED_BYTES  # memory of the rows that wait for the encoder
    is_held: bool = False  # a stale stream keeps its last sample instead of ending the episode; for the markers
    keeps_failed: bool = False  # an episode that cannot be saved can still be made from its separate bag


@dataclass(eq=False)
class Recording:
    """One episode from its start until it is saved or dropped."""

    run: EpisodeRun  # its ticks, marks and warnings are the recorder's until `is_closing`; its sink is the worker's
    backlog: FrameBacklog
    writer: RowWriter
    episode: RunningEpisode
    num_written: int = 0
    is_kept: bool = True
    is_end_requested: bool = False  # by an operator; otherwise it ends by itself
    has_all_rows: bool = False  # no more are taken
    is_closing: bool = False  # it is being saved or dropped: too late for marks
    reported_end: EventKind | None = None  # marker of the request that ended it


@dataclass
class RecorderData:
    """All that changes."""

    state: RecorderState = RecorderState.IDLE
    reason: str = ""  # of a failure, or of an early end
    warning: str = ""
    recording: Recording | None = None
    last: EpisodeResult | None = None
    ended_by_itself_s: float | None = None
    is_accepting: bool = True  # requests
    watched_s: float = 0.0
    ended: list[tuple[RunningEpisode, EpisodeResult]] = field(default_factory=list)  # not announced yet

    @property
    def can_decide(self) -> bool:
        """Whether the last episode ended and was kept without a request, and is not decided yet."""
        return self.recording is None and self.last is not None and self.last.is_saved and self.last.is_unrequested


class Capture:
    """Takes the rows of the running episode, has them written, and saves or drops it."""

    def __init__(
        self,
        assembler: FrameAssembler,
        dataset: RecorderDataset,
        conditions: Conditions,
        listener: RecorderListener,
        options: RecorderOptions,
        worker: Worker,
        clock_ns: Callable[[], int],
    ) -> None:
        """Begin idle; see `EpisodeRecorder`."""
        self.data = RecorderData()
        self.assembler = assembler
        self.dataset = dataset
        self.conditions = conditions
        self.listener = listener
        self.options = options
        self.worker = worker
        self.clock_ns = clock_ns

    def report(self, event: EpisodeEvent, time_ns: int | None = None) -> None:
        """Report a marker; without a time it is of now."""
        self.listener.on_event(event, self.clock_ns() if time_ns is None else time_ns)

    def open_run(self, task: str, start_ns: int) -> EpisodeRun:
        """Open an episode in the dataset; runs in the worker. DatasetError when it cannot take one."""
        return EpisodeRun(self.assembler, self.dataset, task, start_ns, max_lag_s=self.options.max_lag_s)

    def begin(self, run: EpisodeRun, episode: RunningEpisode) -> None:
        """Begin to take the rows of an episode."""
        has_room, max_bytes = self.conditions.disk.has_room, self.options.max_queued_bytes
        backlog = FrameBacklog(self.options.spill_folder, max_bytes=max_bytes, has_room=has_room)
        self.data.recording = Recording(run, backlog, RowWriter(run, backlog), episode)
        self.data.state, self.data.reason = RecorderState.RECORDING, ""
        self.listener.on_start(episode)
        self.report(EpisodeEvent(EventKind.START, episode.task, is_held=self.options.is_held), episode.start_ns)

    def advance(self, now_ns: int) -> None:
        """Take the rows that are certain at `now_ns`."""
        recording = self.data.recording
        if recording is None or recording.has_all_rows:
            return
        run = recording.run
        try:
            for picked in run.ticks.ready(now_ns):
                recording.backlog.put(picked)
                self.worker.do(recording.writer.write_next, partial(self._on_row, recording))
        except (ObservationError, DatasetError) as error:
            run.ended_early, run.ticks.is_finished = str(error), True
        except Exception as error:  # a bug must not leave a row out: the episode ends before it
            logger.exception("episode %d: a row cannot be taken", recording.episode.index)
            run.ended_early, run.ticks.is_finished = f"internal error: {error!r}", True
        if run.ticks.is_finished:
            self.data.state = RecorderState.SAVING
            self._take_no_more(recording)

    def watch(self, now_ns: int) -> None:
        """Note what goes wrong, and end the episode while it can still be saved."""
        data = self.data
        if now_ns == END_OF_TIME_NS or time.monotonic() - data.watched_s < WATCH_PERIOD_S:
            return
        data.watched_s = time.monotonic()
        recording = data.recording if data.state is RecorderState.RECORDING else None
        reasons = self.conditions.warnings(now_ns, is_running=recording is not None)
        warning = "; ".join(filter(None, [self.conditions.clock_fault(), *reasons.values()]))
        if warning and not data.warning:
            self.listener.on_warning(f"episode {recording.episode.index}: {warning}" if recording else warning)
        data.warning = warning
        if recording is not None:
            recording.run.warn(reasons)
            self._end_in_time(recording, now_ns)

    def _end_in_time(self, recording: Recording, now_ns: int) -> None:
        folder = self.dataset.episode_folder(recording.episode.index)
        self.conditions.disk.measure_running(folder, recording.num_written)
        reason = self.conditions.end_reason(
            waiting_s=len(recording.backlog) / self.assembler.embodiment.fps,
            num_rows=recording.run.ticks.num_ticks,
            duration_s=(now_ns - recording.episode.start_ns) / 1e9,
            warning=self.data.warning,
        )
        if reason:
            self.end(recording, Stop(True, now_ns, reason=reason))

    def end(self, recording: Recording, request: Stop) -> None:
        """End the running episode, and report it."""
        run, self.data.state = recording.run, RecorderState.SAVING
        recording.is_kept, recording.is_end_requested = request.keep, not request.reason
        recording.reported_end = EventKind.STOP if request.keep else EventKind.DISCARD
        run.ended_early, run.marks = request.reason, run.marks.updated(request.marks)
        run.ticks.stop(request.end_ns)
        self.report(EpisodeEvent(recording.reported_end, marks=run.marks, reason=request.reason), request.end_ns)
        if request.keep:
            self.advance(request.end_ns)
        else:
            self.drop(recording)

    def drop(self, recording: Recording) -> None:
        """Have the episode dropped, as an operator requested; it may still be saved when that has begun."""
        self.data.state = RecorderState.SAVING
        recording.is_kept, recording.is_end_requested = False, True
        recording.backlog.clear()
        self._take_no_more(recording)

    def _take_no_more(self, recording: Recording) -> None:
        """Close the episode once the rows that wait are written."""
        if not recording.has_all_rows:
            recording.has_all_rows = recording.run.ticks.is_finished = True
            self.worker.do(lambda: None, lambda value, error: self._close(recording))

    def _on_row(self, recording: Recording, is_written: bool | None, error: Exception | None) -> None:
        """Count a row; when it could not be written, keep the rows before it."""
        if error is None:
            recording.num_written += bool(is_written)
            return
        self.data.state = RecorderState.SAVING
        recording.has_all_rows = recording.run.ticks.is_finished = True
        recording.backlog.clear()
        sink, is_known = recording.run.sink, isinstance(error, (ObservationError, DatasetError))
        if is_known and sink.is_open and (sink.num_frames or isinstance(error, ObservationError)):
            recording.run.ended_early = str(error)
            self._close(recording)
        else:
            self._close(recording, failure=_failure(recording, error))

    def _close(self, recording: Recording, failure: str = "") -> None:
        """Save the episode, or drop it: when that is requested, or because of a failure."""
        if recording.is_closing:
            return
        recording.is_closing = True
        recording.run.notes["spilled_frames"] = recording.backlog.num_spilled
        is_saved = recording.is_kept and not failure
        job = partial(self._save, recording) if is_saved else partial(recording.run.discard, failure)
        self.worker.do(job, partial(self._on_end, recording))

    def _save(self, recording: Recording) -> EpisodeResult:
        """Save the episode, or drop it when that is not possible; runs in the worker."""
        try:
            result = recording.run.save(self.options.source)
        except Exception as error:
            return recording.run.discard(_failure(recording, error))
        with contextlib.suppress(OSError):  # then the rate stays a guess
            self.conditions.disk.measure(self.dataset.num_frames)
        return result

    def _on_end(self, recording: Recording, result: EpisodeResult | None, error: Exception | None) -> None:
        data, episode = self.data, recording.episode
        if result is None:
            result = EpisodeResult(False, episode.index, 0, episode.task, f"it could not be dropped: {error}")
        recording.backlog.clear()
        result = dataclasses.replace(result, is_unrequested=not recording.is_end_requested)
        data.recording, data.last, data.reason = None, result, result.reason
        data.state = RecorderState.IDLE if result.is_saved or result.is_discarded else RecorderState.FAILED
        data.ended_by_itself_s = time.monotonic() if result.is_unrequested else None
        data.ended.append((episode, result))
        self._report_end(recording.reported_end, result)
        self.listener.on_end(result)

    def _report_end(self, reported: EventKind | None, result: EpisodeResult) -> None:
        """Report an end that was not reported by the request for it, or that an episode is not kept as reported."""
        is_made_later = self.options.keeps_failed and not result.is_discarded
        if reported is None:
            kind = EventKind.STOP if result.is_saved else EventKind.DISCARD
            self.report(EpisodeEvent(kind, marks=result.marks, reason=result.reason))
        elif reported is EventKind.STOP and not result.is_saved and not is_made_later:
            self.report(EpisodeEvent(EventKind.TAKE_BACK))

    def announce_ends(self) -> None:
        """Give the results to all that wait for the end of an episode."""
        while self.data.ended:
            episode, result = self.data.ended.pop(0)
            episode.ended.set_result(result)


def _failure(recording: Recording, error: Exception) -> str:
    if isinstance(error, Gr00tError):
        return str(error)
    logger.error("episode %d cannot be written", recording.episode.index, exc_info=error)
    return f"internal error: {error!r}"
