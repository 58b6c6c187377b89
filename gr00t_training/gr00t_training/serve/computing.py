# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compute the requests of all clients in batches.

The thread that calls `run` decides and drives the device. While a batch is computed it waits until just before its
end, joins what is ready by then and starts it, so that the device never waits and late arrivals still get in. When the
device is free, a batch starts at once with what is ready: a single robot waits for nobody. Other threads decode images
and scale states (`preparing`), and scale actions back and pack replies (`finishing`); with a single request all of that
happens in the one thread, which costs no hand-over.

Only messages cross threads: the queue of waiting jobs belongs to the thread of `run`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gr00t_training.serve.messages import SERVER_NAME
from gr00t_training.serve.observer import Observer, Stage
from gr00t_training.serve.pace import Pace, batch_sizes
from gr00t_training.serve.stages import Stages, Wait
from gr00t_training.serve.waiting import Job, RefusedError, Request, WaitingJobs, late
from gr00t_training.serve.wire import pack

MAX_RUNNING = 2  # batches: one is computed, the next one follows it without a gap
MARGIN_S = 0.001  # before the end of a batch, beside the time to start the next one
ASSEMBLY_FACTOR = 1.5  # times the mean time to start a batch
PREPARING_THREADS = max(1, min(6, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True)
class Answer:
    """A reply to send."""

    request: Request
    reply: bytes | None  # None: the client no longer waits
    refused: str | None = None  # cause
    latency_s: float | None = None  # of an inference
    computed_s: float = 0.0  # when its batch ended


@dataclass(frozen=True)
class _Batch:
    jobs: Sequence[Job]
    size: int
    wait: Wait
    ends_s: float  # expected


class Computing:
    """Answer jobs with one policy, or with those of several checkpoints."""

    def __init__(
        self,
        stages: Mapping[str, Stages],
        send: Callable[[Answer], None],
        refuse: Callable[[Request, Exception], Answer],
        *,
        max_batch: int,
        max_wait_s: float,
        observer: Observer,
    ) -> None:
        """Prepare; `run` works.

        Args:
            stages: of each checkpoint by name.
            send: takes answers, from several threads.
            refuse: makes the answer to a request that failed.
            max_batch: samples that are computed together.
            max_wait_s: longest time that a free device waits for requests that are still being prepared.
            observer: of times and batches.
        """
        self._stages, self._send, self._refuse, self._observer = stages, send, refuse, observer
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        self.paces = {name: Pace(batch_sizes(max_batch)) for name in stages}
        self._overlaps = all(each.overlaps for each in stages.values())
        self._waiting = WaitingJobs()
        self._running: deque[_Batch] = deque()
        self._inbox: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()  # job, whether it is prepared
        self._to_prepare: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._to_finish: queue.SimpleQueue[tuple[_Batch, Sequence[Any], float] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._num_handed = self._num_finished = 0  # batches for the finishing thread, and by it
        self._num_put = self._num_taken = 0  # samples; each is written by one thread
        self._is_stopping = False
        self._is_idle = True  # nothing to do: the next job is prepared in this thread
        self._free_s = 0.0  # when the device will have computed what was started
        self._wait_end_s: float | None = None  # of waiting for jobs that are being prepared

    # Network thread.

    def put(self, job: Job) -> None:
        """Add a job. Jobs come from one thread."""
        job.is_alone, self._is_idle = self._is_idle and job.asked is not None, False
        self._num_put += job.num_samples
        self._inbox.put((job, False))
        if job.asked is not None and not job.is_alone:
            self._to_prepare.put(job)

    def expected_s(self, request: Request, num_clients: int) -> float:
        """Return the expected time until a request is answered; 0 if the device is free, since times may be wrong.

        Args:
            request: not yet counted as unanswered.
            num_clients: with unanswered requests; each is expected to have one sample before this one.
        """
        num_waiting = self._num_put - self._num_taken
        now_s = time.monotonic()
        if num_waiting <= 0 and now_s >= self._free_s:
            return 0.0
        ahead = max(0, min(num_waiting, (1 + request.client.num_unanswered) * num_clients))
        return max(0.0, self._free_s - now_s) + self.paces[request.checkpoint].wait_s(ahead, 1)

    # Any thread, also a signal handler.

    def stop(self) -> None:
        """Make `run` return after the batches that were started."""
        self._is_stopping = True
        self._inbox.put(None)

    # The thread of `run`.

    def run(self) -> None:
        """Work until `stop`; then refuse what waits."""
        loops = [*[self._prepare_jobs] * PREPARING_THREADS, self._finish_batches]
        names = [*[f"preparing_{i}" for i in range(PREPARING_THREADS)], "finishing"]
        self._threads = [
            threading.Thread(target=loop, name=name, daemon=True) for loop, name in zip(loops, names, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        try:
            while not self._is_stopping:
                self._step()
        finally:
            self._end()

    def work_off(self) -> None:
        """Answer what waits without other threads, for tools that have none."""
        self._read_inbox()
        while self._start_batch() or self._running:
            self._complete()
            self._read_inbox()
        self._is_idle = True

    def _step(self) -> None:
        """Start a batch, end one, or wait until there is something to do."""
        self._read_inbox()
        if self._running:
            now_s = time.monotonic()
            assembly_s = max(pace.assembly_s for pace in self.paces.values())
            due_s = self._running[0].ends_s - ASSEMBLY_FACTOR * assembly_s - MARGIN_S
            is_alone = not self._waiting.num_jobs  # a single robot's answer is not left waiting
            if self._is_full or is_alone or (now_s >= due_s and not self._start_batch()):
                self._complete()
            elif now_s < due_s:
                time.sleep(due_s - now_s)
        elif (patience_s := self._patience_s()) > 0:
            self._wait_for_message(patience_s)
        elif not self._start_batch():
            self._wait_for_message(None)

    @property
    def _is_full(self) -> bool:
        return len(self._running) >= (MAX_RUNNING if self._overlaps else 1)

    def _patience_s(self) -> float:
        """Return how long to wait for jobs that are being prepared, while others are ready."""
        heads = self._waiting.first()
        num_ready = sum(job.is_ready for job in heads)
        if not 0 < num_ready < min(len(heads), self._max_batch):
            self._wait_end_s = None
            return 0.0
        if self._wait_end_s is None:
            self._wait_end_s = time.monotonic() + self._max_wait_s
        return self._wait_end_s - time.monotonic()

    def _wait_for_message(self, timeout_s: float | None) -> None:
        self._is_idle = self._waiting.num_jobs == 0
        try:
            self._read(self._inbox.get(timeout=timeout_s))
        except queue.Empty:
            return
        finally:
            self._is_idle = False

    def _read_inbox(self) -> None:
        while not self._inbox.empty():
            self._read(self._inbox.get())
        self._start_episodes()

    def _read(self, message: tuple[Job, bool] | None) -> None:
        if message is None:
            return
        job, is_prepared = message
        if not is_prepared:
            self._waiting.put(job)
            job.is_ready = job.asked is None
            if not job.is_alone:
                return
            self._prepare(job)
        job.is_ready = True
        if job.error is not None:
            self._drop(job, self._refuse(job.request, job.error))

    def _start_episodes(self) -> None:
        for job in self._waiting.first():
            while job is not None and job.asked is None:
                self._waiting.take(job)
                self._stages[job.checkpoint].reset(job.request.client)
                self._send(Answer(job.request, pack({}, job.request.wire)))
                job = next(iter(job.request.client.waiting), None)

    def _start_batch(self) -> bool:
        """Start the next batch; return whether there was one."""
        begun_s = time.monotonic()
        jobs = self._choose(max(begun_s, self._free_s))
        if not jobs:
            return False
        self._wait_end_s = None
        num_samples, checkpoint = sum(job.num_samples for job in jobs), jobs[0].checkpoint
        pace = self.paces[checkpoint]
        size = num_samples if len(jobs) == 1 else pace.size_for(num_samples)
        for job in jobs:
            self._take(job)
            self._observer.add_seconds(Stage.QUEUE, begun_s - job.request.received_s, checkpoint)
        self._observer.add_batch(num_samples, size, checkpoint)
        self._launch(jobs, size)
        if self._overlaps:
            pace.add_assembly(time.monotonic() - begun_s)
            self._observer.add_seconds(Stage.ASSEMBLE, time.monotonic() - begun_s, checkpoint)
        return True

    def _choose(self, starts_s: float) -> list[Job]:
        """Return the jobs of the next batch; those that are too late are refused."""
        batch: list[Job] = []
        refused: list[tuple[Job, Answer]] = []
        num_samples, key = 0, None
        for job in self._waiting.in_order():
            answer = self._refusal(job, starts_s)
            if answer is not None:
                refused.append((job, answer))
            elif not batch:
                batch, num_samples, key = [job], job.num_samples, self._key(job)
            elif key is not None and num_samples + job.num_samples <= self._max_batch:
                if self._key(job) == key:
                    batch.append(job)
                    num_samples += job.num_samples
            else:
                break
        for job, answer in refused:
            self._drop(job, answer)
        if len(batch) > 1:
            pace = self.paces[batch[0].checkpoint]
            lefts_s = [job.request.expires_s - starts_s - pace.reply_s for job in batch]
            batch = [batch[i] for i in pace.choose([job.num_samples for job in batch], lefts_s)]
        return batch

    def _key(self, job: Job) -> Hashable | None:
        """Return what jobs must share to be computed together; None: this one is computed alone."""
        key = self._stages[job.checkpoint].key(job.staged)
        return None if key is None else (job.checkpoint, key)

    def _refusal(self, job: Job, starts_s: float) -> Answer | None:
        """Return the answer to a job that cannot be answered in time."""
        if job.is_abandoned:
            return Answer(job.request, None)
        pace = self.paces[job.checkpoint]
        needed_s = pace.seconds(pace.size_for(job.num_samples)) + pace.reply_s
        is_alone = self._waiting.num_jobs == 1 and not self._running  # measured times may be wrong: try
        if is_alone or starts_s + needed_s <= job.request.expires_s:
            return None
        expected_s = starts_s + needed_s - time.monotonic()
        return self._refuse(job.request, late(expected_s, job.request))

    def _launch(self, jobs: Sequence[Job], size: int) -> None:
        noises = [job.request.client.noise for job in jobs]
        try:
            stages = self._stages[jobs[0].checkpoint]
            wait = stages.start([(job.request.client, job.staged) for job in jobs], size)
        except Exception as error:  # an error of one request must neither stop the server nor reach other clients
            if len(jobs) == 1:
                self._send(self._refuse(jobs[0].request, error))
                return
            for job, noise in reversed(list(zip(jobs, noises, strict=True))):
                job.request.client.noise = noise
            for job in jobs:
                while self._running:
                    self._complete()
                self._launch([job], job.num_samples)
            return
        self._free_s = max(self._free_s, time.monotonic())
        if self._overlaps:  # else it is over
            self._free_s += self.paces[jobs[0].checkpoint].seconds(size)
        self._running.append(_Batch(jobs, size, wait, self._free_s))

    def _complete(self) -> None:
        """Wait for the batch that was started first, and have its answers finished."""
        if not self._running:
            return
        batch = self._running.popleft()
        try:
            results, seconds = batch.wait()
        except Exception as error:
            for job in batch.jobs:
                self._send(self._refuse(job.request, error))
            return
        ended_s = time.monotonic()
        self._free_s = self._running[-1].ends_s if self._running else ended_s
        first = batch.jobs[0]
        self.paces[first.checkpoint].add_batch(self._key(first), batch.size, seconds)
        for _ in batch.jobs:
            self._observer.add_seconds(Stage.COMPUTE, seconds, first.checkpoint)
        is_alone = len(batch.jobs) == 1 and not self._waiting.num_jobs and self._inbox.empty()
        if (is_alone and self._num_handed == self._num_finished) or not self._threads:
            self._is_idle = not self._running  # before the answer, which the client may answer with a request
            self._finish(batch, results, ended_s)
        else:
            self._num_handed += 1
            self._to_finish.put((batch, results, ended_s))

    def _take(self, job: Job) -> None:
        self._waiting.take(job)
        self._num_taken += job.num_samples

    def _drop(self, job: Job, answer: Answer) -> None:
        self._waiting.remove(job)
        self._num_taken += job.num_samples
        self._send(answer)

    def _end(self) -> None:
        self._is_stopping = True
        while self._running:
            self._complete()
        for _ in range(PREPARING_THREADS):
            self._to_prepare.put(None)
        self._to_finish.put(None)
        for thread in self._threads:
            thread.join()
        while not self._inbox.empty():
            message = self._inbox.get()
            if message is not None and not message[1]:
                self._waiting.put(message[0])
        for job in self._waiting.drain():
            gone = Answer(job.request, None)
            stopping = RefusedError("stopping", f"{SERVER_NAME} is shutting down")
            self._send(gone if job.is_abandoned else self._refuse(job.request, stopping))

    # Other threads.

    def _prepare_jobs(self) -> None:
        while (job := self._to_prepare.get()) is not None:
            if not self._is_stopping:
                self._prepare(job)
                self._inbox.put((job, True))

    def _prepare(self, job: Job) -> None:
        assert job.asked is not None
        started_s = time.monotonic()
        try:
            job.staged = self._stages[job.checkpoint].stage(job.asked.observations(), job.asked.continuation)
        except Exception as error:  # reported to its client
            job.error = error
        self._observer.add_seconds(Stage.PREPARE, time.monotonic() - started_s, job.checkpoint)

    def _finish_batches(self) -> None:
        while (item := self._to_finish.get()) is not None:
            self._finish(*item)
            self._num_finished += 1

    def _finish(self, batch: _Batch, results: Sequence[Any], ended_s: float) -> None:
        for job, result in zip(batch.jobs, results, strict=True):
            started_s = time.monotonic()
            try:
                answer = self._answer(job, result, ended_s)
            except Exception as error:  # such as an action that is not finite
                answer = self._refuse(job.request, error)
            self._observer.add_seconds(Stage.FINISH, time.monotonic() - started_s, job.checkpoint)
            self._send(answer)

    def _answer(self, job: Job, result: Any, ended_s: float) -> Answer:
        assert job.asked is not None
        request = job.request
        chunks = self._stages[job.checkpoint].finish(job.staged, result)
        reply = pack(job.asked.reply(chunks, request.actions_dtype), request.wire)
        return Answer(request, reply, latency_s=time.monotonic() - request.received_s, computed_s=ended_s)
