# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator may ask of a recorder, and why it is refused; without a word about how the wish arrives.

Methods may wait for a save to end: call them in one thread of their own, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import TimeoutError as StillRunning
from enum import Enum
from pathlib import Path

from gr00t_recorder.disk import DiskBudget
from gr00t_recorder.episodes import EpisodeRecorder, EpisodeResult, Recording
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.dataset.trace import Marks
from gr00t_training.errors import Gr00tError

CANCEL_TIMEOUT_S = 10.0  # an encoder is stopped within one image; a disk that stands still takes as long as it wants


class Refusal(str, Enum):
    """Why a wish is refused."""

    BUSY = "busy"
    STREAMS_NOT_READY = "streams_not_ready"
    DISK_FULL = "disk_full"
    NO_TASK = "no_task"
    NO_EPISODE = "no_episode"
    WRITE_FAILED = "write_failed"


class RefusedError(Gr00tError):
    """A wish that cannot be fulfilled now."""

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


class EpisodeControl:
    """Starts, repeats, marks and takes back the episodes of one recorder."""

    def __init__(
        self,
        assembler: FrameAssembler,
        recorder: EpisodeRecorder,
        disk: DiskBudget,
        *,
        task: str,
        min_episode_s: float,
        extra_bytes_per_s: Callable[[], float] = lambda: 0.0,
        on_start: Callable[[Recording], None] = lambda recording: None,
    ) -> None:
        """Serve one recorder.

        Args:
            assembler: tells whether the streams are ready.
            recorder: records the episodes.
            disk: tells whether they fit.
            task: task text where nobody gives one.
            min_episode_s: no episode is started that could not be recorded for so long.
            extra_bytes_per_s: what is written beside the dataset.
            on_start: called with every episode that was started, before its end can be told.
        """
        self._assembler = assembler
        self._recorder = recorder
        self._disk = disk
        self._task = task.strip()
        self._min_episode_s = min_episode_s
        self._extra_bytes_per_s = extra_bytes_per_s
        self._on_start = on_start

    def start(self, task: str, start_ns: int, *, check_streams: bool = True) -> Recording:
        """Start an episode.

        Args:
            task: task text; empty: the one that was set, of the task topic or of the constructor.
            start_ns: beginning of the episode.
            check_streams: whether a required stream that is not fresh is a reason to refuse.

        Raises:
            RefusedError: it cannot be started; nothing has changed.
        """
        self._recorder.wait_until_told()
        task = self._check(task.strip() or self.next_task(), start_ns, check_streams)
        try:
            recording = self._recorder.start(task, start_ns)
        except Gr00tError as error:
            raise RefusedError(Refusal.WRITE_FAILED, str(error)) from error
        self._on_start(recording)
        return recording

    def redo(
        self, clock_ns: Callable[[], int], on_taken_back: Callable[[Path], None] = lambda folder: None
    ) -> Recording:
        """Drop what is running, or take back what was saved last, and start anew with its task.

        An episode that was discarded or failed is simply recorded again. Raises as `start`, and then nothing is
        dropped.

        Args:
            clock_ns: gives the present time.
            on_taken_back: called with the folder of a saved episode that was taken back, before the new one starts.
        """
        recording, last = self._recorder.recording, self._recorder.last
        if recording is None and last is None:
            raise RefusedError(Refusal.NO_EPISODE, "there is no episode to record again")
        task = recording.run.task if recording else last.task if last else ""
        self._check(task, clock_ns(), True, may_be_busy=True)
        if recording is not None:
            last = self._cancelled(recording, clock_ns())
        if last is not None and last.is_saved:
            on_taken_back(self._set_aside())
        # the streams were checked: what was dropped for this start must not be lost to a late image
        return self.start(task, clock_ns(), check_streams=False)

    def discard_last(self) -> tuple[int, Path]:
        """Take the last saved episode out of the dataset; return its index and where its files are.

        Raises:
            RefusedError: an episode is running, the last one is not saved, or the dataset cannot be changed.
        """
        if self._recorder.is_busy:
            raise RefusedError(Refusal.BUSY, f"an episode is {self._recorder.state.value}; stop it or wait")
        last = self._recorder.last
        if last is None or not last.is_saved:
            raise RefusedError(Refusal.NO_EPISODE, "this recorder's last episode is not in the dataset (any more)")
        return last.index, self._set_aside()

    def mark(self, marks: Marks, index: int | None = None) -> tuple[int, Marks]:
        """Mark a saved episode, or the running or last one; return its index and marks.

        Raises:
            RefusedError: there is no such episode, or its marks cannot be written.
        """
        recording = self._recorder.recording
        if recording is not None and index in (None, recording.index):
            if self._recorder.mark(marks):
                return recording.index, recording.run.marks
            _wait(recording)  # its marks are being written
        last = self._recorder.last
        if index is None:
            if last is None or not last.is_saved:
                raise RefusedError(Refusal.NO_EPISODE, "no episode is running, and the last one is not in the dataset")
            index = last.index
        try:
            return index, self._recorder.mark_saved(index, marks)
        except Gr00tError as error:
            raise RefusedError(Refusal.WRITE_FAILED, str(error)) from error

    def set_task(self, task: str) -> None:
        """Set the task of the episodes to come; RefusedError when it is empty."""
        if not task.strip():
            raise RefusedError(Refusal.NO_TASK, "the task text is empty; say what the robot does")
        self._task = task.strip()

    def next_task(self) -> str:
        """Return the task text of an episode that is started without one, empty when there is none."""
        stream = self._assembler.topic_map.task
        return (self._assembler.text(stream.stream).strip() if stream else "") or self._task

    def warnings(self, now_ns: int) -> dict[str, str]:
        """Return what is wrong with the streams that a running episode needs, by stream."""
        topic_map = self._assembler.topic_map
        needed = {binding.stream for binding in topic_map.bindings.values() if binding.required}
        return {
            report.name: f"stream '{report.name}' ({report.topic}) is {report.state.value}: {report.reason}"
            for report in self._assembler.reports(now_ns)
            if report.name in needed and report.reason
        }

    def _check(self, task: str, now_ns: int, check_streams: bool, *, may_be_busy: bool = False) -> str:
        if self._recorder.is_busy and not may_be_busy:
            raise RefusedError(Refusal.BUSY, f"an episode is {self._recorder.state.value}; stop it or wait")
        if not task:
            raise RefusedError(
                Refusal.NO_TASK,
                "no task text: none in the request, set before, on the task topic or as parameter 'task'",
            )
        reasons = self._assembler.unready(now_ns) if check_streams else []
        if reasons:
            raise RefusedError(Refusal.STREAMS_NOT_READY, "; ".join(reasons))
        lack = self._disk.refusal(self._min_episode_s, self._extra_bytes_per_s())
        if lack:
            raise RefusedError(Refusal.DISK_FULL, lack)
        return task

    def _cancelled(self, recording: Recording, now_ns: int) -> EpisodeResult:
        self._recorder.cancel(now_ns)
        return _wait(recording)

    def _set_aside(self) -> Path:
        try:
            folder = self._recorder.discard_last()
        except Gr00tError as error:
            raise RefusedError(Refusal.WRITE_FAILED, str(error)) from error
        if folder is None:
            raise RefusedError(Refusal.NO_EPISODE, "the last episode is not in the dataset any more")
        return folder


def _wait(recording: Recording) -> EpisodeResult:
    try:
        return recording.done.result(CANCEL_TIMEOUT_S)
    except StillRunning as error:
        raise RefusedError(Refusal.BUSY, f"the episode could not be ended within {CANCEL_TIMEOUT_S:g} s") from error
