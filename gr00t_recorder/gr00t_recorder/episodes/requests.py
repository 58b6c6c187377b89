# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests to the recorder, and the reasons for refusing them. `EpisodeRecorder.ask` takes them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Generic, TypeVar

from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import check_instruction

T = TypeVar("T")
NO_MARKS = Marks()


class Refusal(str, Enum):
    """Why a request is refused."""

    NOT_ACTIVE = "not_active"
    BUSY = "busy"
    STREAMS_NOT_READY = "streams_not_ready"
    CLOCK_STOPPED = "clock_stopped"
    DISK_FULL = "disk_full"
    NO_TASK = "no_task"
    NO_EPISODE = "no_episode"
    WRITE_FAILED = "write_failed"


class RefusedError(Gr00tError):
    """A request that cannot be fulfilled now."""

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


@dataclass(frozen=True, eq=False)
class RunningEpisode:
    """An episode that was started, as other threads see it."""

    index: int  # that it gets when it is kept
    task: str
    start_ns: int
    ended: Future[EpisodeResult] = field(default_factory=Future)
    not_ready: tuple[str, ...] = ()  # streams it still waits for, where it was started without checking them
    late_s: float = 0.0  # from `start_ns` to the time at which it could start


class Request(Generic[T]):
    """A request with an answer of type T; every request may be answered with RefusedError or TextError."""


@dataclass(frozen=True)
class Start(Request[RunningEpisode]):
    """Start an episode."""

    task: str  # empty: the task set before
    start_ns: int
    check_streams: bool = True  # refuse when a required stream is not fresh
    wait_for_save: bool = False  # of the episode before, instead of a refusal


@dataclass(frozen=True)
class Stop(Request[EpisodeResult | None]):
    """End the running episode, or keep or drop the one that ended by itself.

    The answer comes when it is saved or dropped; None if there is no such episode. Samples of its last ticks may
    still arrive: keep calling `EpisodeRecorder.advance`.
    """

    keep: bool
    end_ns: int
    marks: Marks = NO_MARKS
    reason: str = ""  # why it ends early; empty: an operator requested it
    only: RunningEpisode | None = None  # end this one, and no other that runs by now


@dataclass(frozen=True)
class Cancel(Request[EpisodeResult | None]):
    """Drop the running episode, even while it is saved and other requests wait; None if there is none.

    A save that is about to be completed may still be: the answer says so.
    """


@dataclass(frozen=True)
class Redo(Request[RunningEpisode]):
    """Drop the running episode, or take the last saved one back, and start again with its task.

    An episode that was discarded or failed is recorded again. When the start is refused, nothing is dropped.
    """


@dataclass(frozen=True)
class DiscardLast(Request[tuple[int, Path]]):
    """Take the last saved episode out of the dataset; the answer is its index and where its files are."""


@dataclass(frozen=True)
class Mark(Request[tuple[int, Marks]]):
    """Mark a saved episode, or the running or last one; the answer is its index and marks."""

    marks: Marks
    index: int | None = None


@dataclass(frozen=True)
class SetTask(Request[None]):
    """Set the task of the next episodes; it applies until the task topic publishes another text."""

    task: str


@dataclass(frozen=True)
class Finish(Request[EpisodeResult | None]):
    """Refuse all further requests, and end the running episode; the answer comes when it is saved."""

    end_ns: int
    reason: str  # for its report


@dataclass(frozen=True)
class Resume(Request[None]):
    """Accept requests again after `Finish`."""


def check_note(marks: Marks) -> Marks:
    """Return marks with a note that can be stored; TextError if it is too long or not plain text."""
    if marks.note:
        check_instruction(marks.note, "the note")
    return marks
