# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the recorder shows other threads, and whom it reports to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from gr00t_recorder.episodes.events import EpisodeEvent
from gr00t_recorder.episodes.requests import NO_MARKS, RunningEpisode
from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_training.dataset.quality import Marks


class RecorderState(str, Enum):
    """What the recorder is doing."""

    IDLE = "idle"
    RECORDING = "recording"
    SAVING = "saving"
    FAILED = "failed"  # idle, and the last episode could not be saved

    @property
    def is_busy(self) -> bool:
        """Whether an episode is being recorded or saved."""
        return self in (RecorderState.RECORDING, RecorderState.SAVING)


@dataclass(frozen=True, kw_only=True)
class RecorderView:
    """One consistent picture of the recorder."""

    state: RecorderState = RecorderState.IDLE
    reason: str = ""  # of a failure, or of an early end
    warning: str = ""  # what goes wrong at present
    episode: RunningEpisode | None = None  # being recorded or saved
    num_frames: int = 0  # rows written of that one
    num_queued: int = 0  # rows that wait for the encoder
    num_on_disk: int = 0  # of these
    progress: float = 1.0  # share of the rows taken that are written
    marks: Marks = NO_MARKS  # of the running episode, or of the last saved one
    last: EpisodeResult | None = None  # how the newest episode ended; not `is_saved` any more once it is taken back
    can_decide: bool = False  # whether the last one was kept without a request, and is not decided yet
    ended_by_itself_s: float | None = None  # monotonic time at which the last one did; None: an operator ended it
    next_task: str = ""
    num_episodes: int = 0  # in the dataset

    @property
    def is_recording(self) -> bool:
        """Whether an episode is running and has not been ended."""
        return self.state is RecorderState.RECORDING

    @property
    def task(self) -> str:
        """Task of the running episode, or of the next one."""
        return self.episode.task if self.episode else self.next_task

    def duration_s(self, now_ns: int) -> float:
        """Return the seconds since the running episode's start."""
        return (now_ns - self.episode.start_ns) / 1e9 if self.episode else 0.0


class RecorderListener(Protocol):
    """Takes reports, in the recorder's thread: return soon, and do not wait for an answer of the recorder."""

    def on_event(self, event: EpisodeEvent, time_ns: int) -> None:
        """Take the marker of what has just happened."""

    def on_start(self, episode: RunningEpisode) -> None:
        """Prepare for an episode; its marker follows."""

    def on_end(self, result: EpisodeResult) -> None:
        """Learn how an episode ended; its marker came before."""

    def on_taken_back(self, folder: Path) -> None:
        """Learn that the last saved episode was moved into `folder`; its marker came before."""

    def on_decision(self, result: EpisodeResult) -> None:
        """Learn what became of an episode that had ended by itself."""

    def on_warning(self, text: str) -> None:
        """Learn of something that has begun to go wrong."""
