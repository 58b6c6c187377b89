# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A client reports to a control loop that its server is lost, without a call and without waiting."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("zmq")

from test_serve import PATIENCE_S, Serving, SumPolicy, make_observation

from gr00t_test_support.waiting import eventually
from gr00t_training.types import ActionChunk


def test_a_server_that_has_gone_is_told_between_two_calls():
    policy = SumPolicy()
    with Serving(policy) as serving:
        client = serving.client()
        assert client.count_losses() == 0
        client.infer(make_observation())
        assert client.count_losses() == 0
        port = serving.port
    with client:
        eventually(client.count_losses, "loss")
        assert client.count_losses() == client.count_losses() == 1
        with Serving(policy, port=port):
            assert client.infer(make_observation(3.0)).actions["arm"][0, 0] == 3.0
            assert client.count_losses() == 1


class Blocked(SumPolicy):
    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def infer_batch(self, observations, continuations=None) -> list[ActionChunk]:
        self.is_asked.set()
        assert self.may_answer.wait(PATIENCE_S)
        return super().infer_batch(observations, continuations)


def test_asking_does_not_wait_for_a_call_that_runs():
    policy = Blocked()
    with Serving(policy) as serving, serving.client(timeout_s=PATIENCE_S) as client:
        thread = threading.Thread(target=client.infer, args=(make_observation(),))
        thread.start()
        assert policy.is_asked.wait(PATIENCE_S)
        assert client.count_losses() == 0
        assert thread.is_alive()
        policy.may_answer.set()
        thread.join(PATIENCE_S)
