# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for the policy: who is admitted, and in which order they are taken.

Order: the oldest requests of all clients first, by deadline; behind them their second ones, and so on, so that a
client with many requests delays no other one. Samples beyond one of a request, and a request that is taken while more
of its client wait, put the client back until the others had as many. A client's own requests keep their order, which
fixes the noise that each of them gets. Nobody else overtakes, so what is admitted of a client that waits for its answer
can be answered in time; where not all can be, those that were refused before are admitted first.

`Admission` belongs to the network thread, `WaitingJobs` to the policy thread.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from gr00t_training.errors import ServerError
from gr00t_training.serve.listener import Connection
from gr00t_training.serve.messages import ActionRequest
from gr00t_training.serve.wire import Wire

OVERLOAD_S = 1.0  # for so long after a refusal, not all of a request's time may be over before it is answered
FRESH_SHARE = 0.5  # of its time for a client that was not refused last; it rises with each refusal


class RefusedError(ServerError):
    """A request that the server does not answer now, with the cause for its statistics: busy, deadline, ..."""

    def __init__(self, cause: str, reason: str) -> None:
        """Store cause and reason."""
        super().__init__(reason)
        self.cause = cause


@dataclass(eq=False)
class Client:
    """State that the server keeps per connection."""

    waiting: deque[Job] = field(default_factory=deque)  # in order of arrival; policy thread
    num_unanswered: int = 0  # including those that are computed; network thread
    num_late: int = 0  # requests since the last answered one that could not be answered in time; network thread
    turn: float = 0.0  # until which `WaitingJobs` owes it nothing; policy thread
    noise: Mapping[str, Any] = field(default_factory=dict)  # by checkpoint, after its last request; policy thread


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
    checkpoint: str = ""  # that is to answer

    @property
    def client(self) -> Client:
        """State of the client that sent it."""
        return self.connection.state


@dataclass(eq=False)
class Job:
    """Work for the policy: a request for actions, or the start of an episode."""

    request: Request
    asked: ActionRequest | None  # None: start of an episode
    staged: Any = None  # by the policy's first stage
    error: Exception | None = None  # of that stage
    is_ready: bool = False  # staged or failed
    is_alone: bool = False  # it is prepared by the policy thread

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint that is to answer."""
        return self.request.checkpoint

    @property
    def num_samples(self) -> int:
        """Number of samples; 0 for the start of an episode."""
        return 0 if self.asked is None else len(self.asked.instructions)

    @property
    def is_abandoned(self) -> bool:
        """Whether the client no longer waits for it."""
        return time.monotonic() > self.request.expires_s or self.request.connection.is_closed


class Admission:
    """Limit what clients may have waiting."""

    def __init__(self, max_jobs: int, max_bytes: int) -> None:
        """Start empty.

        Args:
            max_jobs: of one client, including those that are computed.
            max_bytes: of all unanswered requests.
        """
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
        self._held_bytes = 0
        self._late_s = -OVERLOAD_S  # when a request was refused as late
        self.num_jobs = 0  # unanswered ones
        self.num_clients = 0  # with unanswered ones

    def check(self, request: Request) -> None:
        """Refuse a request beyond a limit.

        Raises:
            RefusedError: too many unanswered requests of this client, or too many bytes of all clients.
        """
        unanswered = request.client.num_unanswered
        if unanswered >= self._max_jobs:
            raise RefusedError("busy", f"busy: {unanswered} requests wait already; ask again later")
        if self._held_bytes + request.num_bytes > self._max_bytes:
            raise RefusedError(
                "busy",
                f"busy: requests of {self._held_bytes} bytes wait already (limit {self._max_bytes}); ask again later, "
                "or start the server with a larger --max-request-mib",
            )

    def check_deadline(self, request: Request, expected_s: float) -> None:
        """Refuse a request that cannot be answered in time, or whose place another client needs more.

        Args:
            request: not yet counted as waiting.
            expected_s: time until its answer.

        Raises:
            RefusedError: names the expected time and that of the request.
        """
        now_s = time.monotonic()
        left_s = request.expires_s - now_s
        if expected_s > left_s:
            self.count_late(request.client)
            raise late(expected_s, request)
        share = 1 - (1 - FRESH_SHARE) ** (1 + request.client.num_late)
        if now_s - self._late_s < OVERLOAD_S and expected_s > share * left_s:
            self.count_late(request.client)
            raise RefusedError(
                "deadline",
                "busy: more is asked than can be answered in time, and clients that were refused before come first; "
                "ask less often, allow more time, or start another server",
            )

    def count_late(self, client: Client) -> None:
        """Count a request of this client that could not be answered in time."""
        client.num_late += 1
        self._late_s = time.monotonic()

    def add(self, request: Request) -> None:
        """Count a request as waiting."""
        self.num_clients += request.client.num_unanswered == 0
        request.client.num_unanswered += 1
        self.num_jobs += 1
        self._held_bytes += request.num_bytes

    def remove(self, request: Request) -> None:
        """Count a request as answered."""
        request.client.num_unanswered -= 1
        self.num_clients -= request.client.num_unanswered == 0
        self.num_jobs -= 1
        self._held_bytes -= request.num_bytes


class WaitingJobs:
    """Jobs in the order in which they are taken."""

    def __init__(self) -> None:
        """Start empty."""
        self._clients: dict[Client, None] = {}  # with waiting jobs
        self._turn = 0.0  # samples that each waiting client could have had
        self._numbers = count()
        self.num_jobs = 0

    def put(self, job: Job) -> None:
        """Add a job behind the others of its client."""
        client = job.request.client
        client.waiting.append(job)
        self._clients[client] = None
        self.num_jobs += 1

    def remove(self, job: Job) -> None:
        """Take a job out, wherever it is."""
        client = job.request.client
        client.waiting.remove(job)
        if not client.waiting:
            del self._clients[client]
        self.num_jobs -= 1

    def take(self, job: Job) -> None:
        """Take a job that is computed now."""
        client = job.request.client
        is_ahead = len(client.waiting) > 1  # else its next request is as new as those of others
        client.turn = max(self._turn, client.turn) + job.num_samples - (not is_ahead)
        self._turn += job.num_samples / len(self._clients)
        self.remove(job)

    def first(self) -> list[Job]:
        """Return the oldest job of each client."""
        return [client.waiting[0] for client in self._clients]

    def in_order(self) -> Iterator[Job]:
        """Yield the jobs that are ready, in the order in which they are to be taken; behind one that is not, none."""
        heap = [self._entry(client, 0, 0) for client in self._clients if _can_run(client.waiting[0])]
        heapq.heapify(heap)
        while heap:
            *_, client, place, num_ahead = heapq.heappop(heap)
            job = client.waiting[place]
            yield job
            if place + 1 < len(client.waiting) and _can_run(client.waiting[place + 1]):
                heapq.heappush(heap, self._entry(client, place + 1, num_ahead + job.num_samples))

    def drain(self) -> list[Job]:
        """Take all jobs out."""
        jobs = [job for client in self._clients for job in client.waiting]
        for job in jobs:
            self.remove(job)
        return jobs

    def _entry(self, client: Client, place: int, num_ahead: int) -> tuple[float, float, int, Client, int, int]:
        """Return an entry of the heap; `num_ahead`: the client's own samples before this job."""
        turn = max(client.turn - self._turn, num_ahead)
        return turn, client.waiting[place].request.expires_s, next(self._numbers), client, place, num_ahead


def _can_run(job: Job) -> bool:
    return job.is_ready and job.asked is not None


def late(expected_s: float, request: Request) -> RefusedError:
    """Return the refusal of a request whose answer is expected to take longer than it is valid."""
    valid_s = request.expires_s - request.received_s
    return RefusedError(
        "deadline",
        f"busy: the answer would take {max(expected_s, 0.001):.3f} s more, the request is valid for {valid_s:.3f} s; "
        "ask less often, allow more time, or start another server",
    )
