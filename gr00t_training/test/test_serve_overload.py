# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""More robots than a server can answer: who is answered, when, and who is refused, on a clock that only the test moves.

The device takes the times of N1 2B on an H200, so that 32 samples at once are 890 answers a second.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_training.serve import computing, waiting
from gr00t_training.serve.computing import Answer, Computing
from gr00t_training.serve.observer import Observer
from gr00t_training.serve.waiting import Admission, Client, Job, RefusedError, Request
from gr00t_training.serve.wire import Wire

SECONDS_OF = {1: 0.0052, 2: 0.0063, 4: 0.0083, 8: 0.0120, 16: 0.0205, 32: 0.0360}
CAPACITY_HZ = 32 / SECONDS_OF[32]
RATE_HZ = 5.0  # of a robot
VALID_S = 0.1
PREPARE_S = 0.003
START_S = 0.001  # to assemble a batch


class World:
    """The clock, and what happens at which time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple] = []
        self._numbers = itertools.count()

    def at(self, time_s, call):
        heapq.heappush(self._events, (time_s, next(self._numbers), call))

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.advance_to(self.now_s + seconds)

    def advance_to(self, time_s):
        while self._events and self._events[0][0] <= time_s:
            self.step()
        self.now_s = max(self.now_s, time_s)

    def step(self):
        at_s, _, call = heapq.heappop(self._events)
        self.now_s = max(self.now_s, at_s)
        call()

    @property
    def next_s(self):
        return self._events[0][0] if self._events else float("inf")


class Device:
    """A GPU that computes one batch after another."""

    overlaps = True

    def __init__(self, world) -> None:
        self._world, self._free_s = world, 0.0

    def key(self, staged):
        return "all"

    def start(self, requests, size):
        world = self._world
        world.sleep(START_S)
        end_s = self._free_s = max(world.now_s, self._free_s) + SECONDS_OF[size]

        def wait():
            world.advance_to(end_s)
            return [None] * len(requests), SECONDS_OF[size]

        return wait


class Simulated(Computing):
    """Waits on the world's clock."""

    def __init__(self, world, answers) -> None:
        super().__init__(
            {"": Device(world)},
            answers.append,
            lambda request, error: Answer(request, None, refused=str(error)),
            max_batch=32,
            max_wait_s=0.002,
            observer=Observer(),
        )
        self._world = world

    def _wait_for_message(self, timeout_s):
        end_s = float("inf") if timeout_s is None else self._world.now_s + max(timeout_s, 1e-6)
        while self._inbox.empty() and self._world.next_s <= end_s:
            self._world.step()
        if self._inbox.empty():
            self._world.advance_to(min(end_s, self._world.now_s + 1.0))
        self._read_inbox()

    def _prepare(self, job):
        self._world.sleep(PREPARE_S)

    def _complete(self):
        batch = self._running.popleft()
        batch.wait()
        self._free_s = self._running[-1].ends_s if self._running else self._world.now_s
        for job in batch.jobs:
            self._send(Answer(job.request, b"", latency_s=self._world.now_s - job.request.received_s))


class Robots:
    """Robots that ask in open loop for some seconds."""

    def __init__(self, world, load, seconds):
        self.world, self.answers = world, []
        self.computing = Simulated(world, self.answers)
        self.computing.paces[""].begin_with(SECONDS_OF)
        self.admission = Admission(4, 2**40)
        self.clients = [Client() for _ in range(round(load * CAPACITY_HZ / RATE_HZ))]
        self.num_refused_at_once = 0
        self.asked, self._num_settled = dict.fromkeys(map(id, self.clients), 0), 0
        rng = np.random.default_rng(0)
        for client in self.clients:
            for due_s in np.arange(rng.uniform(0, 1 / RATE_HZ), seconds, 1 / RATE_HZ):
                world.at(due_s, lambda client=client: self._ask(client))

    def _ask(self, client):
        self.asked[id(client)] += 1
        self._settle()
        now_s = self.world.now_s
        connection = SimpleNamespace(state=client, is_closed=False)
        request = Request(connection, (), None, 0, Wire.N1_7, np.float32, now_s, now_s + VALID_S)  # type: ignore[arg-type]
        try:
            self.admission.check(request)
            self.admission.check_deadline(request, self.computing.expected_s(request, self.admission.num_clients))
        except RefusedError:
            self.num_refused_at_once += 1
            return
        self.admission.add(request)
        job = Job(request, SimpleNamespace(instructions=("",), continuation=None))  # type: ignore[arg-type]
        self.computing.put(job)
        if not job.is_alone:
            self.world.at(now_s + PREPARE_S, lambda: self.computing._inbox.put((job, True)))

    def _settle(self):
        for answer in self.answers[self._num_settled :]:
            self.admission.remove(answer.request)
            if answer.refused is not None:
                self.admission.count_late(answer.request.client)
            else:
                answer.request.client.num_late = 0
        self._num_settled = len(self.answers)

    def run(self):
        while self.world.next_s < float("inf"):
            self.computing._step()
        while self.computing._waiting.num_jobs or self.computing._running:
            self.computing._step()
        return self


@pytest.fixture
def world(monkeypatch):
    made = World()
    for module in (computing, waiting):
        monkeypatch.setattr(module, "time", made)
    return made


def test_at_half_of_its_capacity_a_server_refuses_nobody(world):
    robots = Robots(world, load=0.5, seconds=2.0).run()
    latencies = [answer.latency_s for answer in robots.answers]
    assert robots.num_refused_at_once == 0
    assert len(latencies) == sum(robots.asked.values())
    assert np.percentile(latencies, 99) < VALID_S


def test_at_twice_its_capacity_a_server_answers_as_many_in_time_and_refuses_the_rest_at_once(world):
    seconds = 4.0
    robots = Robots(world, load=2.0, seconds=seconds).run()
    served = [answer for answer in robots.answers if answer.latency_s is not None]
    assert len(served) > 0.95 * CAPACITY_HZ * seconds
    assert max(answer.latency_s for answer in served) <= VALID_S + 1e-6
    num_refused = sum(robots.asked.values()) - len(served)
    assert robots.num_refused_at_once > 0.99 * num_refused  # before they are read
    num_served = Counter(id(answer.request.client) for answer in served)
    shares = [num_served[client] / asked for client, asked in robots.asked.items()]
    assert min(shares) > 0.25  # each about every second time
