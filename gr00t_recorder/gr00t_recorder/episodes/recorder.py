# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record one episode after the other: an actor with one mailbox, one thread, and data that only this thread touches.

States: idle -> recording -> saving -> idle, or failed, which is idle after an episode that could not be saved.

Messages: a request and the future for its answer (`ask`), the time up to which rows may be taken (`advance`), and
results of the worker's jobs. Requests are served in order, one at a time (`gr00t_recorder.episodes.serving`). While
one waits for a job or for the end of an episode, rows are still taken, and `Cancel` is served at once.

Threads: this one picks rows and decides. The worker (`gr00t_recorder.episodes.worker`) encodes and changes the dataset,
so that a slow disk or encoder delays no row: rows wait for it in a backlog, in memory and then on disk, and none is
left out in the middle. Other threads read `view`, which is replaced as a whole after each message.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import TypeVar

from gr00t_recorder.episodes.capture import Capture, RecorderDataset, RecorderOptions
from gr00t_recorder.episodes.conditions import Conditions
from gr00t_recorder.episodes.operations import Operations, not_active
from gr00t_recorder.episodes.requests import NO_MARKS, Cancel, Finish, Request
from gr00t_recorder.episodes.serving import Asked, RequestQueue
from gr00t_recorder.episodes.ticks import END_OF_TIME_NS
from gr00t_recorder.episodes.view import RecorderListener, RecorderView
from gr00t_recorder.episodes.worker import JobDone, Worker
from gr00t_recorder.topics.frames import FrameAssembler

logger = logging.getLogger(__name__)

T = TypeVar("T")
ADVANCE_PERIOD_S = 0.05


@dataclass(frozen=True, eq=False)
class _Advance:
    now_ns: int
    done: Future[None] = field(default_factory=Future)


_Message = Asked | _Advance | JobDone


class EpisodeRecorder:
    """Records the episodes of one dataset. The public methods may be called from any thread."""

    def __init__(
        self,
        assembler: FrameAssembler,
        dataset: RecorderDataset,
        conditions: Conditions,
        listener: RecorderListener,
        options: RecorderOptions,
        *,
        clock_ns: Callable[[], int],
    ) -> None:
        """Start both threads.

        Args:
            assembler: gives the frames.
            dataset: takes the episodes; nothing else may change it while the recorder is open.
            conditions: when an episode may start and when it must end.
            listener: takes reports.
            options: how episodes are recorded.
            clock_ns: gives the present time.
        """
        self._clock_ns = clock_ns
        self._mailbox: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._worker = Worker(self._mailbox.put)
        self._capture = Capture(assembler, dataset, conditions, listener, options, self._worker, clock_ns)
        self._operations = Operations(self._capture)
        self._requests = RequestQueue(self._operations.steps, self._publish_view)
        self.view = RecorderView()
        self._publish_view()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def ask(self, request: Request[T]) -> Future[T]:
        """Send a request; the future gets its answer, or RefusedError or TextError."""
        asked = Asked(request)
        self._mailbox.put(asked)
        return asked.answer

    def advance(self, now_ns: int) -> Future[None]:
        """Have the rows taken that are certain at `now_ns`; call it after new messages, and now and then without."""
        advance = _Advance(now_ns)
        self._mailbox.put(advance)
        return advance.done

    def finish(self, reason: str = "", *, wait_s: float = 0.0) -> None:
        """End a running episode and return when it is saved; from now on, requests are refused until `Resume`.

        Args:
            reason: for its report.
            wait_s: how long samples of the last rows may still be on their way.
        """
        finished, until_s = self.ask(Finish(self._clock_ns(), reason)), time.monotonic() + wait_s
        while not wait_for([finished], ADVANCE_PERIOD_S).done and time.monotonic() < until_s:
            self.advance(self._clock_ns())
        self.advance(END_OF_TIME_NS)
        finished.result()

    def close(self) -> None:
        """Finish a running episode and end both threads; may be called twice."""
        if self._thread.is_alive():
            self.finish()
            self._mailbox.put(None)
            self._thread.join()
            self._worker.close()

    def _work(self) -> None:
        while (message := self._next_message()) is not None:
            try:
                self._handle(message)
            except Exception:  # a bug must not end the recorder
                logger.exception("recorder: a message cannot be handled; continuing with the next")
            self._publish_view()  # before any answer: a client must not read an older state after it
            self._capture.announce_ends()
            self._requests.serve()
            self._publish_view()
            if isinstance(message, _Advance):
                message.done.set_result(None)

    def _next_message(self) -> _Message | None:
        """Return the next message, or an empty one when a request has waited long enough."""
        until_s = self._requests.until_s
        try:
            return self._mailbox.get(timeout=None if until_s is None else max(until_s - time.monotonic(), 0.0))
        except queue.Empty:
            return JobDone(lambda value, error: None)

    def _handle(self, message: _Message) -> None:
        if isinstance(message, JobDone):
            message.then(message.value, message.error)
        elif isinstance(message, _Advance):
            self._capture.advance(message.now_ns)
            self._capture.watch(message.now_ns)
        elif isinstance(message.request, Cancel):
            self._requests.answer(message, self._operations.cancel())
        else:
            if isinstance(message.request, Finish):
                self._capture.data.is_accepting = False
                self._requests.refuse_waiting(not_active())
            self._requests.add(message)

    def _publish_view(self) -> None:
        data, recording = self._capture.data, self._capture.data.recording
        num_ticks = recording.run.ticks.num_ticks if recording else 0
        self.view = RecorderView(
            state=data.state,
            reason=data.reason,
            warning=data.warning,
            episode=recording.episode if recording else None,
            num_frames=recording.num_written if recording else 0,
            num_queued=len(recording.backlog) if recording else 0,
            num_on_disk=recording.backlog.num_on_disk if recording else 0,
            progress=recording.num_written / num_ticks if recording and num_ticks else 1.0,
            marks=recording.run.marks if recording else data.last.marks if data.last else NO_MARKS,
            last=data.last,
            can_decide=data.can_decide,
            ended_by_itself_s=data.ended_by_itself_s,
            next_task=self._operations.next_task.get(),
            num_episodes=self._capture.dataset.num_episodes,
        )
