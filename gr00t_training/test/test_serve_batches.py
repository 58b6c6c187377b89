# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests of several clients in one batch: each gets the answer that it would get alone."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("zmq")
torch = pytest.importorskip("torch")

from test_serve import EMBODIMENT, PATIENCE_S, Asking, Serving, checkpoint, nested  # noqa: E402, F401

from gr00t_test_support.waiting import eventually  # noqa: E402
from gr00t_training.errors import ServerError  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.serve.computing import Answer, Computing  # noqa: E402
from gr00t_training.serve.observer import Observer  # noqa: E402
from gr00t_training.serve.pace import Pace, batch_sizes  # noqa: E402
from gr00t_training.serve.server import MAX_WAITING  # noqa: E402
from gr00t_training.serve.waiting import Client, Job, Request, WaitingJobs  # noqa: E402
from gr00t_training.serve.wire import EncodedImages, Wire  # noqa: E402
from gr00t_training.types import Continuation, Observation  # noqa: E402

NUM_CLIENTS = 8
# float32 on the CPU: two sizes of a batch may use two kernels; actions are of the order of 1
SAME = {"rtol": 1e-4, "atol": 1e-5}


class Batches(Observer):
    """Keeps the batches."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int]] = []

    def add_batch(self, num_samples, size, _):
        self.samples.append((num_samples, size))


class Gate:
    """A policy whose first batch waits, so that requests behind it gather."""

    def __init__(self, checkpoint) -> None:  # noqa: F811
        self.policy = load(checkpoint)
        self.is_held, self.release = threading.Event(), threading.Event()
        self.policy.release = self.release
        self._start = self.policy.start
        self.policy.start = self._wait_once

    def _wait_once(self, *arguments):
        if not self.is_held.is_set():
            self.is_held.set()
            assert self.release.wait(PATIENCE_S)
        return self._start(*arguments)


def load(checkpoint):  # noqa: F811
    torch.set_num_threads(1)
    return Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=1)


def make_observation(number, text="lift the cube"):
    rng = np.random.default_rng(number)
    return Observation(
        {"front": rng.integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)},
        {"arm": rng.uniform(-1, 1, (1, 3)), "gripper": rng.uniform(-1, 1, (1, 1))},
        text,
        number * 10**9,
    )


@pytest.fixture
def gate(checkpoint):  # noqa: F811
    return Gate(checkpoint)


class Crowd:
    """Clients that ask at the same time, behind one that is held."""

    def __init__(self, gate, **options):
        self.batches = Batches()
        self.gate = gate
        self.serving = Serving(gate.policy, observer=self.batches, **options)

    def __enter__(self):
        self.serving.__enter__()
        self._held = self.serving.client()
        self._held_thread = self._thread(lambda: self._held.infer(make_observation(99)))
        assert self.gate.is_held.wait(PATIENCE_S)
        return self

    def __exit__(self, *error):
        self.gate.release.set()
        self._held_thread.join(PATIENCE_S)
        self._held.close()
        self.serving.__exit__(*error)

    def ask(self, calls):
        """Make calls of a client each, all of them waiting before the first is computed; return their results."""
        results = {}

        def run(name, call):
            with self.serving.client() as client:
                try:
                    results[name] = call(client)
                except ServerError as error:
                    results[name] = str(error)

        threads = [self._thread(lambda item=item: run(*item)) for item in calls.items()]
        eventually(
            lambda: self.serving.server.num_waiting + len(results) == 1 + len(calls),
            lambda: f"{self.serving.server.num_waiting} wait, {results} answered",
        )
        eventually(lambda: self.serving.server._computing._to_prepare.empty(), "prepared requests")
        self.gate.release.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        return results

    def _thread(self, call):
        thread = threading.Thread(target=call)
        thread.start()
        return thread


def assert_close(found, expected):
    assert found.start_ns == expected.start_ns
    for key, values in expected.actions.items():
        np.testing.assert_allclose(found.actions[key], values, **SAME)


def test_clients_share_batches_and_get_their_own_answers(checkpoint, gate):  # noqa: F811
    local = load(checkpoint)
    texts = ["lift the red cube", "lift the blue cube"]  # prompts of one length
    observations = [make_observation(i, texts[i % 2]) for i in range(NUM_CLIENTS)]
    expected = []
    for observation in observations:
        local.reset()
        expected.append(local.infer(observation))
    apart = min(
        np.abs(one.actions["arm"] - other.actions["arm"]).max()
        for i, one in enumerate(expected)
        for other in expected[:i]
    )
    assert apart > 100 * SAME["atol"]  # an answer to the wrong client would be seen
    with Crowd(gate) as crowd:
        found = crowd.ask({i: lambda client, i=i: client.infer(observations[i]) for i in range(NUM_CLIENTS)})
    for i, chunk in enumerate(expected):
        assert_close(found[i], chunk)
    samples = crowd.batches.samples
    assert samples[0] == (1, 1)
    assert sum(number for number, _ in samples) == 1 + NUM_CLIENTS
    assert max(samples) >= (4, 4), samples


def test_a_batch_has_room_that_nobody_sees(checkpoint, gate):  # noqa: F811
    local = load(checkpoint)
    with Crowd(gate) as crowd:
        found = crowd.ask({i: lambda client, i=i: client.infer(make_observation(i)) for i in range(3)})
    for i in range(3):
        local.reset()
        assert_close(found[i], local.infer(make_observation(i)))
    assert (3, 4) in crowd.batches.samples


def test_reset_and_noise_of_a_client_change_no_other_one(checkpoint, gate):  # noqa: F811
    local = load(checkpoint)
    first, second = (local.infer(make_observation(5)) for _ in range(2))
    assert np.abs(first.actions["arm"] - second.actions["arm"]).max() > 100 * SAME["atol"]

    def ask_twice(client, resets):
        chunks = [client.infer(make_observation(5))]
        if resets:
            client.reset()
        return [*chunks, client.infer(make_observation(5))]

    with Crowd(gate) as crowd:
        found = crowd.ask({i: lambda client, i=i: ask_twice(client, i % 2) for i in range(6)})
    for i, (one, other) in found.items():
        assert_close(one, first)
        assert_close(other, first if i % 2 else second)


def test_continued_chunks_share_a_batch_with_others(checkpoint, gate):  # noqa: F811
    local = load(checkpoint)
    earlier = local.infer(make_observation(0))
    cases = {0: None, 1: Continuation(earlier, frozen_steps=2), 2: Continuation(earlier, frozen_steps=5)}
    cases[3] = Continuation(earlier, frozen_steps=5, guidance=5.0)  # needs gradients: computed alone
    observation = dataclasses.replace(make_observation(1), stamp_ns=10**8)
    with Crowd(gate) as crowd:
        found = crowd.ask({i: lambda client, c=case: client.infer(observation, c) for i, case in cases.items()})
    for i, case in cases.items():
        local.reset()
        assert_close(found[i], local.infer(observation, case))
    assert (3, 4) in crowd.batches.samples


def test_prompts_of_other_lengths_are_other_batches(checkpoint, gate):  # noqa: F811
    local = load(checkpoint)
    texts = ["lift the cube", "lift the red cube", "lift the cube", "lift the red cube"]
    with Crowd(gate) as crowd:
        found = crowd.ask({i: lambda client, i=i: client.infer(make_observation(i, texts[i])) for i in range(4)})
    for i, text in enumerate(texts):
        local.reset()
        assert_close(found[i], local.infer(make_observation(i, text)))
    assert Counter(crowd.batches.samples)[2, 2] == 2


def test_hostile_input_is_an_error_for_its_client_only(checkpoint, gate):  # noqa: F811
    pytest.importorskip("cv2")
    local = load(checkpoint)

    def send(content):
        def call(_):
            with Asking(crowd.serving.port) as asking:
                return asking.error(content)

        return call

    files = EncodedImages((1, 1, 32, 48, 3), (b"\xff\xd8\xff\xe0 not a picture",))
    with Crowd(gate) as crowd:
        calls = {i: lambda client, i=i: client.infer(make_observation(i)) for i in range(3)}
        calls["size"] = send(nested(video={"front": np.zeros((1, 1, 16, 16, 3), np.uint8)}))
        calls["file"] = send(nested(video={"front": files}))
        found = crowd.ask(calls)
    assert "embodiment 'test_arm' expects uint8 (1, 32, 48, 3)" in found["size"]
    assert "video.front: file 0" in found["file"]
    for i in range(3):
        local.reset()
        assert_close(found[i], local.infer(make_observation(i)))


def test_a_batch_that_fails_is_computed_one_by_one(checkpoint, gate):  # noqa: F811
    """Whatever one request does to the model, the others get their answers, with their own noise."""
    local, start, cause = load(checkpoint), gate._start, make_observation(1).state["arm"]

    def fail(requests, noises, size):
        if any(np.array_equal(request.observations[0].state["arm"], cause) for request in requests):
            raise RuntimeError("the kernel has failed")
        return start(requests, noises, size)

    gate._start = fail
    with Crowd(gate) as crowd:
        found = crowd.ask({i: lambda client, i=i: client.infer(make_observation(i)) for i in range(3)})
    assert "internal error: RuntimeError: the kernel has failed" in found[1]
    for i in (0, 2):
        local.reset()
        assert_close(found[i], local.infer(make_observation(i)))


def test_a_late_request_is_refused_at_once_and_delays_nobody(gate):
    with Crowd(gate) as crowd:
        crowd.serving.server.expect({1: 50.0})
        crowd.serving.server._computing._free_s = time.monotonic() + 50.0  # of the batch that is held
        with crowd.serving.client() as hasty:
            hasty.check_embodiment()
            hasty._timeout_s = 20.0
            words = r"get_action was refused: busy: the answer would take \d+\.\d+ s more, the request is valid for "
            with pytest.raises(ServerError, match=words):  # while the device is held
                hasty.infer(make_observation(1))
            connections = crowd.serving.server._listener._connections
            # read with less priority, its next requests would be late before they are read
            eventually(lambda: all(each.is_trusted for each in connections), "a refused client that is still trusted")
            assert hasty.health()["requests"]["refused"] == 1
            hasty._timeout_s = 20 * PATIENCE_S
            found = crowd.ask({"patient": lambda client: slow(client).infer(make_observation(2))})
    assert found["patient"].horizon == EMBODIMENT.action_horizon
    assert crowd.batches.samples == [(1, 1), (1, 1)]


def slow(client):
    client._timeout_s = 20 * PATIENCE_S
    return client


def test_what_waits_at_the_end_is_refused(gate):
    with Crowd(gate) as crowd:
        release, gate.release = gate.release, SimpleNamespace(set=lambda: None)  # it stays held

        def stop():
            eventually(lambda: crowd.serving.server.num_waiting == 5, "five requests")
            crowd.serving.server.stop()
            release.set()

        stopping = threading.Thread(target=stop)
        stopping.start()
        found = crowd.ask({i: lambda client, i=i: client.infer(make_observation(i)) for i in range(4)})
        stopping.join(PATIENCE_S)
        gate.release = release
    assert all("gr00t_serve is shutting down" in found[i] for i in range(4)), found


def test_a_single_client_waits_for_nobody(checkpoint):  # noqa: F811
    """No hand-over to other threads: the request is prepared and finished where it is computed."""
    policy, threads = load(checkpoint), []
    policy.release = threading.Event()
    stage, finish = policy.stage, policy.finish
    policy.stage = lambda *arguments: (threads.append(threading.current_thread().name), stage(*arguments))[1]
    policy.finish = lambda *arguments: (threads.append(threading.current_thread().name), finish(*arguments))[1]
    with Serving(policy) as serving, serving.client() as client:
        for i in range(3):
            client.infer(make_observation(i))
        assert set(threads) == {serving.thread.name}


# --- the order of requests


def make_job(client, *, expires_s=1.0, num_samples=1):
    connection = SimpleNamespace(state=client, is_closed=False)
    request = Request(connection, (), None, 0, Wire.N1_7, np.float32, 0.0, expires_s)  # type: ignore[arg-type]
    asked = SimpleNamespace(instructions=("",) * num_samples, observations=list, continuation=None)
    return Job(request, asked, is_ready=True)  # type: ignore[arg-type]


def order_of(jobs):
    waiting = WaitingJobs()
    for job in jobs:
        waiting.put(job)
    return list(waiting.in_order())


def test_a_client_with_many_requests_starves_nobody():
    greedy, others = Client(), [Client() for _ in range(3)]
    many = [make_job(greedy) for _ in range(MAX_WAITING)]
    single = [make_job(client, expires_s=9.0) for client in others]
    assert order_of([*many, *single]) == [many[0], *single, *many[1:]]


def test_a_client_pays_for_the_samples_of_its_batches():
    greedy, other = Client(), Client()
    large = [make_job(greedy, num_samples=3) for _ in range(2)]
    small = [make_job(other) for _ in range(4)]
    assert order_of([*large, *small]) == [large[0], *small[:3], large[1], small[3]]


def test_a_client_that_had_a_large_batch_is_behind_the_others_until_they_had_as_much():
    waiting, greedy, others = WaitingJobs(), Client(), [Client() for _ in range(3)]
    for client in (greedy, *others):
        waiting.put(make_job(client, expires_s=1.0 if client is greedy else 2.0, num_samples=1))
    first = next(waiting.in_order())
    assert first.request.client is greedy
    waiting.take(first)
    waiting.put(make_job(greedy, num_samples=9))  # the earliest deadline again: single samples are not charged
    first = next(waiting.in_order())
    assert first.num_samples == 9
    waiting.take(first)
    waiting.put(make_job(greedy))
    taken = []
    for _ in range(40):
        job = next(waiting.in_order())
        waiting.take(job)
        taken.append(job.request.client)
        waiting.put(make_job(job.request.client, expires_s=2.0 if job.request.client in others else 1.0))
    behind = taken.index(greedy)
    assert 12 < behind < 36  # eight samples beyond one, while three others have theirs


def test_the_earliest_deadline_is_first_among_clients():
    jobs = [make_job(Client(), expires_s=seconds) for seconds in (3.0, 1.0, 2.0)]
    assert order_of(jobs) == [jobs[1], jobs[2], jobs[0]]


def test_a_request_that_is_not_ready_keeps_those_behind_it_but_no_other_client():
    client, other = Client(), Client()
    jobs = [make_job(client), make_job(client), make_job(other)]
    jobs[0].is_ready = False
    assert order_of(jobs) == [jobs[2]]


# --- the size of a batch


def test_the_size_with_the_most_answers_per_second_is_computed():
    pace = Pace(batch_sizes(32))
    assert pace.sizes == (1, 2, 4, 8, 16, 32)
    assert batch_sizes(1) == (1,)
    assert batch_sizes(6) == (1, 2, 4, 6)

    def chosen(num_waiting, seconds_left):
        return len(pace.choose([1] * num_waiting, [seconds_left] * num_waiting))

    assert chosen(5, 1.0) == 5  # nothing is known: all together
    pace.begin_with({1: 0.005, 2: 0.006, 4: 0.008, 8: 0.012, 16: 0.020, 32: 0.036})
    assert chosen(3, 1.0) == 3  # 375 per second of four; two would be 333
    assert chosen(17, 1.0) == 16  # 800 per second; 32 would be 472
    assert chosen(31, 1.0) == 31
    assert chosen(31, 0.015) == 8  # they would be late with more
    assert chosen(31, 0.001) == 1
    # 16 in 20 ms without the one that has 15 ms are more per second than 8 in 12 ms with it
    assert pace.choose([1] * 17, [1.0, 0.015, *[1.0] * 15]) == [0, *range(2, 17)]
    assert pace.choose([3, 1, 1], [0.01, 0.01, 0.01]) == [0, 1]
    assert pace.wait_s(40, 1) == pytest.approx(0.036 + 0.020)


def test_the_first_runs_of_a_shape_do_not_count():
    pace = Pace((1, 2))
    for seconds in (5.0, 4.0, 0.01, 0.02, 0.03):
        pace.add_batch("prompt", 1, seconds)
    assert pace.seconds(1) == pytest.approx(0.02)
    assert pace.seconds(2) == pytest.approx(0.02)  # at least
    assert Pace((1, 2)).seconds(2) == 0.0


# --- a device that computes while the server goes on


class Device:
    """Stages that overlap; each batch ends when it is released."""

    overlaps = True

    def __init__(self) -> None:
        self.started: list[list[int]] = []
        self.ends: list[threading.Event] = []

    def stage(self, observations, continuation):
        return observations

    def key(self, staged):
        return "all"

    def start(self, requests, size):
        end = threading.Event()
        self.ends.append(end)
        self.started.append([id(client) for client, _ in requests])

        def wait():
            assert end.wait(PATIENCE_S)
            return [None] * len(requests), 0.0

        return wait

    def finish(self, staged, result):
        raise ServerError("done")

    def reset(self, client):
        raise AssertionError("nobody asked for it")


def test_the_next_batch_starts_before_the_running_one_ends():
    device, answers = Device(), []
    computing = Computing(
        {"": device},
        answers.append,
        lambda request, error: Answer(request, None, str(error)),
        max_batch=2,
        max_wait_s=0.0,
        observer=Observer(),
    )
    clients = [Client() for _ in range(7)]
    for client in clients:
        job = make_job(client, expires_s=time.monotonic() + PATIENCE_S)
        computing.put(job)
        computing._inbox.put((job, True))  # it is prepared
    computing._step()
    computing._step()
    assert [len(batch) for batch in device.started] == [2, 2]
    assert not answers  # neither has ended
    for number in range(2):
        device.ends[number].set()
        computing._step()  # two run: the first ends
        assert len(answers) == 2 * (number + 1)
        computing._step()  # the next one starts
        assert len(device.started) == number + 3
    assert [client for batch in device.started for client in batch] == [id(client) for client in clients]
    assert [id(answer.request.client) for answer in answers] == [id(client) for client in clients[:4]]
