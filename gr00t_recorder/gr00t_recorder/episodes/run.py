# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Take one episode from its frames into a dataset; bag conversion and live recording both do it with `EpisodeRun`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gr00t_recorder.episodes.ticks import DEFAULT_MAX_LAG_S, EpisodeTicks
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.picking import PickedFrame
from gr00t_recorder.topics.streams import StreamState, clock_faults
from gr00t_training.dataset.quality import Marks
from gr00t_training.types import Frame

NO_MARKS = Marks()
TALLIED = ("received", "used", "late", "dropped", "invalid", "conflicts")


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
    is_unrequested: bool = False  # it ended by itself, and the operator has not decided whether to keep it
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
        self.ended_early = ""  # why the episode ended before a request
        self.marks = Marks()
        self.notes: dict[str, Any] = {}  # further entries of the report, plain JSON values
        self.warnings: list[dict[str, Any]] = []  # ranges of rows in which a stream had a fault
        self._assembler = assembler
        self._at_start = {report.name: report for report in assembler.health.reports(start_ns)}
        self._filled = dict.fromkeys(self._at_start, 0)
        self._largest_age_ns = dict.fromkeys(self._at_start, 0)
        self._streams = {str(ref): binding.stream for ref, binding in assembler.topic_map.bindings.items()}

    def write(self, picked: PickedFrame) -> None:
        """Decode a frame and append it; raises ObservationError (no undamaged image) or DatasetError."""
        frame = self._assembler.picker.decode(picked)
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
        """Note the present faults by stream; the report has the first and last row of each, approximately."""
        row = self.ticks.num_ticks
        going_on = {warning["stream"]: warning for warning in self.warnings if warning["last_row"] is None}
        for stream in going_on.keys() - reasons.keys():
            going_on[stream]["last_row"] = row
        for stream in [stream for stream in reasons if stream not in going_on]:
            self.warnings.append({"stream": stream, "reason": reasons[stream], "first_row": row, "last_row": None})

    def empty_reason(self) -> str:
        """Return why there is no row."""
        reports = self._assembler.health.reports(0)
        invalid = [report.reason for report in reports if report.state is StreamState.INVALID]
        camera = self._assembler.topic_map.anchor_key
        no_image = f"no image of camera '{camera}' is stamped within the episode; check the camera and its clock"
        found = [*clock_faults(reports), self.ticks.last_refusal or self.ended_early, *invalid]
        return f"no complete frame: {'; '.join(dict.fromkeys(filter(None, found))) or no_image}"

    def report(self, source: str) -> dict[str, Any]:
        """Return what is known of the recording, as plain JSON values."""
        streams = {}
        for now in self._assembler.health.reports(0):
            counts = {name: getattr(now, name) - getattr(self._at_start[now.name], name) for name in TALLIED}
            filled, age_ns = self._filled[now.name], self._largest_age_ns[now.name]
            streams[now.name] = {"topic": now.topic, **counts, "filled": filled, "largest_age_s": age_ns / 1e9}
            if counts["conflicts"]:
                streams[now.name]["conflict"] = now.conflict_reason
        return {
            "source": source,
            "streams": streams,
            "skipped_at_start": self.ticks.num_skipped,
            "ended_early": self.ended_early,
            "warnings": self.warnings,
            **self.notes,
            **self.marks.to_mapping(),
        }
