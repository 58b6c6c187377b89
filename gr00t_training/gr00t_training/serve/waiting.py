# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Queue requests for the policy: one queue per client, served round-robin."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gr00t_training.errors import ServerError
from gr00t_training.serve.listener import Connection
from gr00t_training.serve.wire import Wire


@dataclass
class Client:
    """State that the server keeps per connection."""

    waiting: deque[Job] = field(default_factory=deque)
    num_unanswered: int = 0  # including the running one
    noise: Any = None  # noise state of the policy after its last request; None: the initial one


@dataclass(frozen=True)
class Request:
    """A request with a checked token."""

    connection: Connection
    route: tuple[memoryview, ...]  # message parts that route the reply
    data: Any
    num_bytes: int
    wire: Wire  # of the reply
    actions_dtype: type[np.floating]
    received_s: float
    expires_s: float

    @property
    def client(self) -> Client:
        """State of the client that sent it."""
        return self.connection.state


@dataclass(frozen=True)
class Job:
    """Work for the policy."""

    request: Request
    run: Callable[[], bytes]
    is_inference: bool


class WaitingJobs:
    """Pass jobs from the network thread to the policy thread."""

    def __init__(self, max_jobs: int, max_bytes: int) -> None:
        """Start empty.

        Args:
            max_jobs: of one client, including the running one.
            max_bytes: of all queued requests, including the running one.
        """
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
        self._lock = threading.Lock()  # never taken by `stop`, which may come from a signal handler
        self._clients: deque[Client] = deque()  # those with queued jobs, in the order of their turns
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one per job; False: stop
        self._num_jobs = self._held_bytes = 0

    @property
    def num_jobs(self) -> int:
        """Number of queued and running jobs."""
        return self._num_jobs

    def put(self, job: Job) -> None:
        """Add a job to the queue.

        Raises:
            ServerError: too many queued requests of this client, or too many bytes of all clients.
        """
        request, client = job.request, job.request.client
        if client.num_unanswered >= self._max_jobs:
            raise ServerError(f"busy: {client.num_unanswered} requests wait already; ask again later")
        if self._held_bytes + request.num_bytes > self._max_bytes:
            raise ServerError(
                f"busy: requests of {self._held_bytes} bytes wait already (limit {self._max_bytes}); ask again later, "
                "or start the server with a larger --max-request-mib"
            )
        client.num_unanswered += 1
        self._num_jobs += 1
        self._held_bytes += request.num_bytes
        with self._lock:
            if not client.waiting:
                self._clients.append(client)
            client.waiting.append(job)
        self._calls.put(True)

    def finish(self, request: Request) -> None:
        """Count a job as answered; call it in the thread that calls `put`."""
        request.client.num_unanswered -= 1
        self._num_jobs -= 1
        self._held_bytes -= request.num_bytes

    def get(self) -> Job | None:
        """Wait for the next job; None after `stop`."""
        return self._next() if self._calls.get() else None

    def drain(self) -> list[Job]:
        """Return all queued jobs."""
        jobs = []
        while self._clients:
            jobs.append(self._next())
        return jobs

    def stop(self) -> None:
        """Make `get` return None. Thread-safe; may be called in a signal handler."""
        self._calls.put(False)

    def _next(self) -> Job:
        with self._lock:
            client = self._clients.popleft()
            job = client.waiting.popleft()
            if client.waiting:
                self._clients.append(client)
        return job
