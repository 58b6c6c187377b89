# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record episodes: idle -> recording -> saving -> idle.

Ticks are picked in the thread that brings messages; images are decoded and encoded in one worker thread. A writer that
cannot keep up ends the episode with that reason: a row is never left out in the middle.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from gr00t_recorder.topics.frames import FrameAssembler, PickedFrame
from gr00t_recorder.topics.streams import StreamState
from gr00t_recorder.topics.ticks import DEFAULT_MAX_LAG_S, END_OF_TIME_NS, EpisodeTicks
from gr00t_training.errors import DatasetError, Gr00tError, ObservationError
from gr00t_training.types import Frame

logger = logging.getLogger(__name__)

DEFAULT_MAX_QUEUED_FRAMES = 200  # 10 s at 20 Hz; with two raw 640x480 cameras 370 MB
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


class EventKind(str, Enum):
    """What a marker on the events topic asks for."""

    START = "start"
    STOP = "stop"
    DISCARD = "discard"


@dataclass(frozen=True)
class EpisodeEvent:
    """One marker."""

    kind: EventKind
    task: str = ""


def parse_event(text: str) -> EpisodeEvent:
    """Read a marker, JSON `{"event": "start"|"stop"|"discard", "task": text}`; other members are ignored.

    Raises:
        ObservationError: not such a marker.
    """
    try:
        members = json.loads(text)
        return EpisodeEvent(EventKind(members["event"]), str(members.get("task") or ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ObservationError(
            f'episode marker {text!r}: expected JSON {{"event": "start", "stop" or "discard", "task": text}}'
        ) from error


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
        self._assembler = assembler
        self._at_start = {report.name: report for report in assembler.reports(start_ns)}
        self._filled = dict.fromkeys(self._at_start, 0)
        self._largest_age_ns = dict.fromkeys(self._at_start, 0)
        bound = assembler.topic_map
        self._streams = {f"{kind}.{key}": binding.stream
                         for kind in ("state", "action", "video")
                         for key, binding in getattr(bound, kind).items()}  # fmt: skip

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
        num_frames, report = self.sink.num_frames, self.report(source)
        return EpisodeResult(True, self.sink.save(report), num_frames, self.task, self.ended_early, report=report)

    def discard(self, reason: str = "") -> EpisodeResult:
        """Drop the episode."""
        if self.sink.is_open:
            self.sink.discard()
        return EpisodeResult(False, self.sink.index, 0, self.task, reason, is_discarded=not reason)

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
        }


class RecorderState(str, Enum):
    """What the recorder is doing."""

    IDLE = "idle"
    RECORDING = "recording"
    SAVING = "saving"
    FAILED = "failed"  # idle, and the last episode could not be saved


class EpisodeRecorder:
    """Records one episode after the other. Every method may be called from any thread."""

    def __init__(
        self,
        assembler: FrameAssembler,
        dataset: DatasetSink,
        *,
        source: str = "live",
        max_lag_s: float = DEFAULT_MAX_LAG_S,
        max_queued_frames: int = DEFAULT_MAX_QUEUED_FRAMES,
        on_done: Callable[[EpisodeResult], None] = lambda result: None,
    ) -> None:
        """Start the worker thread; `on_done` is called in it at the end of each episode."""
        self.state = RecorderState.IDLE
        self.reason = ""  # of a failure
        self._assembler = assembler
        self._dataset = dataset
        self._source = source
        self._max_lag_s = max_lag_s
        self._max_queued = max_queued_frames
        self._on_done = on_done
        self._run: EpisodeRun | None = None
        self._keep = True
        self._start_ns = 0
        # picked frames of a run, then None as its end; None instead of a pair ends the worker
        self._queue: queue.Queue[tuple[EpisodeRun, PickedFrame | None] | None] = queue.Queue()
        self._lock = threading.RLock()
        self._is_idle = threading.Condition(self._lock)
        self._worker = threading.Thread(target=self._work, name="episode_writer", daemon=True)
        self._worker.start()

    @property
    def is_busy(self) -> bool:
        """Whether an episode is being recorded or saved."""
        return self.state in (RecorderState.RECORDING, RecorderState.SAVING)

    @property
    def num_frames(self) -> int:
        """Rows written of the running episode."""
        run = self._run
        return run.sink.num_frames if run else 0

    @property
    def task(self) -> str:
        """Task of the running episode."""
        run = self._run
        return run.task if run else ""

    def duration_s(self, now_ns: int) -> float:
        """Seconds since the running episode's start."""
        return (now_ns - self._start_ns) / 1e9 if self._run else 0.0

    def start(self, task: str, start_ns: int) -> int:
        """Start an episode and return the index it gets when it is kept.

        Raises:
            DatasetError: one is running or being saved, or the dataset cannot take one.
        """
        with self._lock:
            if self.is_busy:
                raise DatasetError(f"an episode is {self.state.value}; stop it, or wait until it is saved")
            self._run = EpisodeRun(self._assembler, self._dataset, task, start_ns, max_lag_s=self._max_lag_s)
            self._start_ns, self._keep = start_ns, True
            self.state, self.reason = RecorderState.RECORDING, ""
            return self._run.sink.index

    def stop(self, *, keep: bool, end_ns: int) -> bool:
        """End the running episode at `end_ns`; `on_done` tells when it is saved. False when none is running.

        Samples of its last ticks may still be on their way: go on calling `advance`.
        """
        with self._lock:
            if self.state is not RecorderState.RECORDING or self._run is None:
                return False
            self.state = RecorderState.SAVING
            self._keep = keep
            self._run.ticks.stop(end_ns)
            if not keep:
                self._run.ticks.is_finished = True
                self._queue.put((self._run, None))
            else:
                self.advance(end_ns)
            return True

    def advance(self, now_ns: int) -> None:
        """Queue the frames that are certain at `now_ns`; call it after new messages, and now and then without."""
        with self._lock:
            run = self._run
            if run is None or run.ticks.is_finished:
                return
            try:
                for picked in run.ticks.ready(now_ns):
                    if self._queue.qsize() >= self._max_queued:
                        run.ticks.is_finished = True
                        raise ObservationError(
                            f"images are encoded too slowly, {self._max_queued} rows were waiting; "
                            "use smaller images, fewer cameras or a faster video preset"
                        )
                    self._queue.put((run, picked))
            except ObservationError as error:
                run.ended_early = str(error)
            if run.ticks.is_finished:
                self.state = RecorderState.SAVING
                self._queue.put((run, None))

    def finish(self, now_ns: int) -> None:
        """End a running episode with the messages at hand, and wait until it is saved."""
        self.stop(keep=True, end_ns=now_ns)
        self.advance(END_OF_TIME_NS)
        with self._is_idle:
            self._is_idle.wait_for(lambda: not self.is_busy)

    def close(self, now_ns: int) -> None:
        """Finish a running episode and end the worker; may be called twice."""
        if self._worker.is_alive():
            self.finish(now_ns)
            self._queue.put(None)
            self._worker.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            run, picked = item
            if run is not self._run:
                continue  # it has failed
            try:
                if picked is None:
                    self._finish(run, run.save(self._source) if self._keep else run.discard())
                elif self._keep:
                    self._write(run, picked)
            except Gr00tError as error:
                self._finish(run, run.discard(str(error)))
            except Exception as error:  # a bug must end this episode, not the recorder
                logger.exception("episode %d cannot be written", run.sink.index)
                self._finish(run, run.discard(f"internal error: {error!r}"))

    def _write(self, run: EpisodeRun, picked: PickedFrame) -> None:
        try:
            run.write(picked)
        except ObservationError as error:  # its images cannot be decoded: keep the rows before it
            with self._lock:
                run.ticks.is_finished = True
                run.ended_early = str(error)
                self.state = RecorderState.SAVING
            self._finish(run, run.save(self._source))

    def _finish(self, run: EpisodeRun, result: EpisodeResult) -> None:
        with self._lock:
            run.ticks.is_finished = True
            self._run = None
            is_failed = not result.is_saved and not result.is_discarded
            self.state = RecorderState.FAILED if is_failed else RecorderState.IDLE
            self.reason = result.reason
            self._is_idle.notify_all()
        self._on_done(result)
