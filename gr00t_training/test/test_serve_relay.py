# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One address for several servers."""

import asyncio
import contextlib
import socket
import threading

import pytest

pytest.importorskip("msgpack")
pytest.importorskip("zmq")

from test_serve import EMBODIMENT, PATIENCE_S, Serving, SumPolicy, make_observation

from gr00t_test_support.waiting import eventually
from gr00t_training.errors import ServerError
from gr00t_training.serve import relay as relay_module
from gr00t_training.serve.client import PolicyClient
from gr00t_training.serve.relay import Relay


class Relaying:
    """A relay in a thread."""

    def __init__(self):
        self.relay, self.loop = Relay(), asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.listening = self._do(self.relay.listen(socket.create_server(("127.0.0.1", 0))))
        self.port = self.listening.sockets[0].getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listening.close()
        self._do(self.relay.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)
        self.loop.close()

    def use(self, *servers):
        async def use():
            self.relay.use([("127.0.0.1", each.port) for each in servers])

        self._do(use())

    def counts(self):
        return {port: count for (_, port), count in self.relay.num_connections.items()}

    def client(self):
        return PolicyClient(EMBODIMENT, port=self.port, timeout_s=PATIENCE_S)

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)


def ask(client, start):
    """Ask with a marker that the answer must reflect."""
    answer = client.infer_batch([make_observation(start)])[0]
    assert answer.actions["arm"][0, 0] == pytest.approx(start)


def ask_other(relaying):
    with relaying.client() as client:
        ask(client, 0.5)


def fail_to_ask(client):
    with pytest.raises(ServerError, match="connection lost before the answer"):
        client.infer_batch([make_observation(0.2, "wait")])


@pytest.fixture
def relaying():
    with Relaying() as relaying:
        yield relaying


def test_connections_are_shared_out_and_stay_where_they_are(relaying):
    with Serving(SumPolicy()) as first, Serving(SumPolicy()) as second, contextlib.ExitStack() as stack:
        relaying.use(first, second)
        clients = [stack.enter_context(relaying.client()) for _ in range(6)]
        for turn in range(3):
            for number, client in enumerate(clients):
                ask(client, turn + number / 10)
        assert relaying.counts() == {first.port: 3, second.port: 3}
        assert [len(each.policy.asked) for each in (first, second)] == [9, 9]


def test_robots_of_a_server_that_ends_get_another_one(relaying):
    with Serving(SumPolicy()) as first, relaying.client() as client:
        with Serving(SumPolicy()) as second:
            relaying.use(second)
            ask(client, 0.1)
            relaying.use(first, second)
        eventually(client.count_losses, "the connection is closed")
        # the relay still has the address of the server that ended; another one answers
        ask(client, 0.2)
        assert len(first.policy.asked) == 1


def test_connections_of_a_server_that_is_taken_away_are_closed(relaying):
    with Serving(SumPolicy()) as old, Serving(SumPolicy()) as new, relaying.client() as client:
        relaying.use(old)
        ask(client, 0.1)
        relaying.use(new)
        eventually(client.count_losses, "the connection is closed")
        ask(client, 0.2)
        assert [len(each.policy.asked) for each in (old, new)] == [1, 1]


def test_request_is_answered_by_the_server_that_is_taken_away_meanwhile(relaying):
    with Serving(SumPolicy()) as old, Serving(SumPolicy()) as new, relaying.client() as client:
        relaying.use(old)
        ask(client, 0.1)
        answers = []
        waiting = threading.Thread(target=lambda: answers.extend(client.infer_batch([make_observation(0.2, "wait")])))
        waiting.start()
        assert old.policy.is_held.wait(PATIENCE_S)
        relaying.use(new)
        ask_other(relaying)  # connections of others go to the new server at once
        old.policy.release.set()
        waiting.join(PATIENCE_S)
        assert answers[0].actions["arm"][0, 0] == pytest.approx(0.2)
        eventually(client.count_losses, "the connection is closed")
        ask(client, 0.3)
        assert [len(each.policy.asked) for each in (old, new)] == [2, 2]


def test_request_without_end_does_not_keep_a_server(relaying, monkeypatch):
    monkeypatch.setattr(relay_module, "LEAVE_S", 0.1)
    with Serving(SumPolicy()) as old, Serving(SumPolicy()) as new, relaying.client() as client:
        relaying.use(old)
        ask(client, 0.1)
        waiting = threading.Thread(target=lambda: fail_to_ask(client))
        waiting.start()
        assert old.policy.is_held.wait(PATIENCE_S)
        relaying.use(new)
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        ask(client, 0.3)


def test_without_a_server_the_client_gets_an_error(relaying):
    with relaying.client() as client, pytest.raises(ServerError, match="no policy server reached"):
        ask(client, 0.1)
