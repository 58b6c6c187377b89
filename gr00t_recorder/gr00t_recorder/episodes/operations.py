# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the recorder does for each request; one that has to wait is a generator (`gr00t_recorder.episodes.serving`)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from gr00t_recorder.episodes.capture import Capture, Recording
from gr00t_recorder.episodes.conditions import NextTask
from gr00t_recorder.episodes.events import EpisodeEvent, EventKind
from gr00t_recorder.episodes.requests import (
    NO_MARKS,
    DiscardLast,
    Finish,
    Mark,
    Redo,
    Refusal,
    RefusedError,
    Request,
    Resume,
    RunningEpisode,
    SetTask,
    Start,
    Stop,
    check_note,
)
from gr00t_recorder.episodes.run import EpisodeResult, EpisodeRun
from gr00t_recorder.episodes.serving import Steps, Wait
from gr00t_recorder.episodes.view import RecorderState
from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import Gr00tError

END_TIMEOUT_S = 10.0  # an encoder is stopped within one image; a disk that does not answer takes as long as it wants


class Operations:
    """Serves the requests to one recorder, in its thread."""

    def __init__(self, capture: Capture) -> None:
        """Begin with the task of the options."""
        self.next_task = NextTask(capture.assembler, capture.options.task)
        self._capture = capture
        self._data = capture.data
        self._handlers: Mapping[type, Callable[[Any], Any]] = {
            Start: self._start,
            Stop: self._stop,
            Redo: self._redo,
            DiscardLast: self._discard_last,
            Mark: self._mark,
            SetTask: lambda request: self.next_task.set(request.task),
            Finish: self._finish,
            Resume: self._resume,
        }

    def steps(self, request: Request[Any]) -> Steps[Any]:
        """Serve a request step by step; the value is its answer, or a future that will have it."""
        if not isinstance(request, (Finish, Resume)):
            self._check_accepting()
        found = self._handlers[type(request)](request)
        return (yield from found) if isinstance(found, Generator) else found

    def cancel(self) -> Future[EpisodeResult] | None:
        """Drop the running episode, whatever other requests wait for; None if there is none."""
        recording = self._data.recording
        if recording is None:
            return None
        self._capture.drop(recording)
        return recording.episode.ended

    def _start(self, request: Start) -> Steps[RunningEpisode]:
        recording = self._data.recording
        if request.wait_for_save and self._data.state is RecorderState.SAVING and recording is not None:
            # the demonstration has begun: its samples are buffered until the one before it is saved
            yield Wait(recording.episode.ended)
        self._check_idle()
        task = request.task.strip() or self.next_task.get()
        return (yield from self._begin(task, request.start_ns, check_streams=request.check_streams))

    def _begin(self, task: str, start_ns: int, *, check_streams: bool) -> Steps[RunningEpisode]:
        capture = self._capture
        task, now_ns = self._check_start(task, start_ns, check_streams=check_streams), capture.clock_ns()
        not_ready = () if check_streams else tuple(capture.assembler.health.unready(now_ns))
        try:
            run: EpisodeRun = yield self._job(lambda: capture.open_run(task, start_ns))
        except Gr00tError as error:
            raise RefusedError(Refusal.WRITE_FAILED, str(error)) from error
        if not self._data.is_accepting:
            yield self._job(run.discard)
            raise not_active()
        late_s = (now_ns - start_ns) / 1e9
        episode = RunningEpisode(run.sink.index, task, start_ns, not_ready=not_ready, late_s=late_s)
        capture.begin(run, episode)
        return episode

    def _stop(self, request: Stop) -> Steps[Future[EpisodeResult] | EpisodeResult | None]:
        recording = self._data.recording
        check_note(request.marks)
        if request.only is not None and (recording is None or recording.episode is not request.only):
            return None
        if recording is not None and self._data.state is RecorderState.RECORDING:
            self._capture.end(recording, request)
            return recording.episode.ended
        return None if request.reason else (yield from self._decide(request.keep, request.marks))

    def _decide(self, keep: bool, marks: Marks) -> Steps[EpisodeResult | None]:
        """Keep or take back the episode that ended by itself, even while it is saved; None if there is none."""
        data, capture, recording = self._data, self._capture, self._data.recording
        if recording is not None and not recording.is_end_requested:
            if not keep:
                capture.drop(recording)
            result: EpisodeResult = yield _end_of(recording)
            if not result.is_saved:
                capture.listener.on_decision(result)
                return result
        elif not data.can_decide:
            return None
        if keep:
            yield from self._mark_saved(self._last_saved().index, marks)
            if marks != NO_MARKS:
                capture.report(EpisodeEvent(EventKind.MARK, marks=marks))
        else:
            yield from self._take_back()
        assert data.last is not None
        data.last = dataclasses.replace(data.last, is_unrequested=False)
        capture.listener.on_decision(data.last)
        return data.last

    def _redo(self, request: Redo) -> Steps[RunningEpisode]:
        recording, last = self._data.recording, self._data.last
        if recording is None and last is None:
            raise RefusedError(Refusal.NO_EPISODE, "there is no episode to record again")
        task = recording.episode.task if recording else last.task if last else ""
        self._check_start(task, self._capture.clock_ns(), check_streams=True)
        if recording is not None:
            self._capture.drop(recording)
            last = yield _end_of(recording)
        if last is not None and last.is_saved:
            yield from self._take_back()
        # the streams were checked: what was dropped for this start must not be lost to a late image
        return (yield from self._begin(task, self._capture.clock_ns(), check_streams=False))

    def _discard_last(self, request: DiscardLast) -> Steps[tuple[int, Path]]:
        self._check_idle()
        index = self._last_saved().index
        return index, (yield from self._take_back())

    def _mark(self, request: Mark) -> Steps[tuple[int, Marks]]:
        marks, index, recording = check_note(request.marks), request.index, self._data.recording
        if recording is not None and index in (None, recording.episode.index):
            if not recording.is_closing:
                recording.run.marks = recording.run.marks.updated(marks)
                self._capture.report(EpisodeEvent(EventKind.MARK, marks=marks))
                return recording.episode.index, recording.run.marks
            yield _end_of(recording)
        index = self._last_saved().index if index is None else index
        all_marks = yield from self._mark_saved(index, marks)
        back = self._capture.dataset.num_episodes - 1 - index
        self._capture.report(EpisodeEvent(EventKind.MARK, marks=marks, back=back))
        return index, all_marks

    def _finish(self, request: Finish) -> Future[EpisodeResult] | None:
        recording = self._data.recording
        if recording is not None and self._data.state is RecorderState.RECORDING:
            self._capture.end(recording, Stop(True, request.end_ns, reason=request.reason))
        return recording.episode.ended if recording else None

    def _resume(self, request: Resume) -> None:
        self._data.is_accepting = True

    def _check_accepting(self) -> None:
        if not self._data.is_accepting:
            raise not_active()

    def _check_idle(self) -> None:
        if self._data.state.is_busy:
            raise RefusedError(Refusal.BUSY, f"an episode is {self._data.state.value}; stop it or wait")

    def _check_start(self, task: str, now_ns: int, *, check_streams: bool) -> str:
        self._check_accepting()
        return self._capture.conditions.check_start(task, now_ns, check_streams=check_streams)

    def _last_saved(self) -> EpisodeResult:
        last = self._data.last
        if last is None or not last.is_saved:
            raise RefusedError(Refusal.NO_EPISODE, "no episode is running, and the last one is not in the dataset")
        return last

    def _take_back(self) -> Steps[Path]:
        """Take the last saved episode out of the dataset."""
        last = self._last_saved()
        try:
            folder: Path = yield self._job(self._capture.dataset.discard_last)
        except Gr00tError as error:
            raise RefusedError(Refusal.WRITE_FAILED, str(error)) from error
        self._data.last = dataclasses.replace(last, is_saved=False, is_discarded=True, is_unrequested=False)
        self._capture.report(EpisodeEvent(EventKind.TAKE_BACK))
        self._capture.listener.on_taken_back(folder)
        return folder

    def _mark_saved(self, index: int, marks: Marks) -> Steps[Marks]:
        try:
            all_marks: Marks = yield self._job(lambda: self._capture.dataset.mark(index, marks))
        except Gr00tError as error:
            raise RefusedError(Refusal.WRITE_FAILED, str(error)) from error
        last = self._data.last
        if last is not None and last.is_saved and last.index == index:
            self._data.last = dataclasses.replace(last, marks=all_marks)
        return all_marks

    def _job(self, job: Callable[[], object]) -> Wait:
        """Have the worker do a job before the rows that wait; return what to wait for."""
        done: Future[Any] = Future()

        def complete(value: Any, error: Exception | None) -> None:
            done.set_exception(error) if error else done.set_result(value)

        self._capture.worker.do(job, complete, is_urgent=True)
        return Wait(done)


def not_active() -> RefusedError:
    """Return the refusal of a recorder that has finished."""
    return RefusedError(Refusal.NOT_ACTIVE, "the recorder is not active; configure and activate it first")


def _end_of(recording: Recording) -> Wait:
    text = f"the episode could not be ended within {END_TIMEOUT_S:g} s"
    return Wait(recording.episode.ended, time.monotonic() + END_TIMEOUT_S, text)
