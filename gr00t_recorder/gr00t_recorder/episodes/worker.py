# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The recorder's thread for slow work: encoding images and writing files. It does jobs and posts what came of each."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gr00t_recorder.episodes.backlog import FrameBacklog
from gr00t_recorder.episodes.run import EpisodeRun

_URGENT, _ROW, _END = 0, 1, 2


@dataclass(frozen=True)
class JobDone:
    """What came of a job: a value or an error, and who handles it in the recorder's thread."""

    then: Callable[[Any, Exception | None], None]
    value: Any = None
    error: Exception | None = None


class Worker:
    """One thread. It alone changes the dataset, so jobs need no lock."""

    def __init__(self, post: Callable[[JobDone], None]) -> None:
        """Start the thread; `post` takes the outcomes."""
        self._post = post
        self._numbers = itertools.count()  # keep jobs of equal urgency in order
        self._jobs: queue.PriorityQueue[tuple[int, int, tuple[Callable[[], Any], Any] | None]] = queue.PriorityQueue()
        self._thread = threading.Thread(target=self._work, name="episode_writer", daemon=True)
        self._thread.start()

    def do(
        self, job: Callable[[], Any], then: Callable[[Any, Exception | None], None], *, is_urgent: bool = False
    ) -> None:
        """Do a job after those before it; an urgent one before the rows that wait."""
        self._jobs.put((_URGENT if is_urgent else _ROW, next(self._numbers), (job, then)))

    def close(self) -> None:
        """Do what waits and end the thread."""
        self._jobs.put((_END, next(self._numbers), None))
        self._thread.join()

    def _work(self) -> None:
        while (item := self._jobs.get()[2]) is not None:
            job, then = item
            try:
                self._post(JobDone(then, job()))
            except Exception as error:
                self._post(JobDone(then, error=error))


class RowWriter:
    """Writes the rows of one episode in the worker, up to the first that fails: no row is left out in the middle."""

    def __init__(self, run: EpisodeRun, backlog: FrameBacklog) -> None:
        self._run = run
        self._backlog = backlog
        self._has_failed = False

    def write_next(self) -> bool:
        """Write the oldest row that waits; False when a row before has failed, or the rows were dropped.

        Raises:
            ObservationError: no undamaged image.
            DatasetError: it cannot be read back or written.
        """
        if self._has_failed:
            return False
        self._has_failed = True  # until it is written
        try:
            picked = self._backlog.take()
        except IndexError:
            return False  # dropped, and so are all that follow
        self._run.write(picked)
        self._has_failed = False
        return True
