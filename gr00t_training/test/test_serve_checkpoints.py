# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Several checkpoints behind one server: clients name one, each is computed in batches of its own."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import pytest

pytest.importorskip("zmq")
torch = pytest.importorskip("torch")

from test_serve import EMBODIMENT, Asking, Serving, SumPolicy, checkpoint, nested  # noqa: E402, F401
from test_serve_batches import Crowd, Gate, assert_close, make_observation  # noqa: E402

from gr00t_training.cli.serve import checkpoint_paths  # noqa: E402
from gr00t_training.errors import ConfigError, ServerError  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402

torch.set_num_threads(1)

OTHER = dataclasses.replace(EMBODIMENT, fps=EMBODIMENT.fps + 5)


def load(checkpoint, steps):  # noqa: F811
    """Return a policy; with another number of denoising steps it has other answers."""
    return Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=steps)


def test_clients_of_two_checkpoints_get_the_answers_of_theirs(checkpoint):  # noqa: F811
    steps = {"": 1, "slow": 3}  # "": the client names none
    expected = {}
    for name, count in steps.items():
        local = load(checkpoint, count)
        expected[name] = [local.infer(make_observation(5)) for _ in range(2)]
    apart = np.abs(expected[""][0].actions["arm"] - expected["slow"][0].actions["arm"]).max()
    assert apart > 1e-3  # an answer of the wrong checkpoint would be seen

    def ask(name, resets):
        def call(held):
            with crowd.serving.client(checkpoint=name) as client:
                chunks = [client.infer(make_observation(5))]
                if resets:
                    client.reset()
                return [*chunks, client.infer(make_observation(5))]

        return call

    with Crowd(Gate(checkpoint), others={"slow": (load(checkpoint, 3), "gr00t_n1")}) as crowd:
        found = crowd.ask({(name, resets): ask(name, resets) for name in steps for resets in (False, True)})
    for (name, resets), (first, second) in found.items():
        assert_close(first, expected[name][0])
        assert_close(second, expected[name][not resets])


def test_each_checkpoint_is_a_batch_of_its_own(checkpoint):  # noqa: F811
    slow = load(checkpoint, 3)
    starts, start = [], slow.start
    slow.start = lambda requests, noises, size: (starts.append(len(requests)), start(requests, noises, size))[1]
    with Crowd(Gate(checkpoint), others={"slow": (slow, "gr00t_n1")}) as crowd:
        clients = [crowd.serving.client(checkpoint=name) for name in ("test", "slow") for _ in range(2)]
        for client in clients:
            client.check_embodiment()
        crowd.ask({i: lambda _, client=client: client.infer(make_observation(1)) for i, client in enumerate(clients)})
        for client in clients:
            client.close()
    assert sorted(crowd.batches.samples) == [(1, 1), (2, 2), (2, 2)]
    assert starts == [2]


def test_a_client_is_checked_against_the_checkpoint_that_it_names():
    with Serving(SumPolicy(), others={"towel": (SumPolicy(OTHER), "gr00t_n1_7")}) as serving:
        with serving.client(embodiment=OTHER, checkpoint="towel") as client:
            client.check_embodiment()
            health = client.health()
            assert (health["name"], health["model"]) == ("towel", "gr00t_n1_7")
            assert health["checkpoints"] == ["test", "towel"]
            assert client.infer(make_observation(0)).step_ns == OTHER.step_ns
        with serving.client(embodiment=OTHER) as client, pytest.raises(ServerError, match="serves another embodiment"):
            client.check_embodiment()
        with serving.client(checkpoint="socks") as client:
            words = r"client\.checkpoint: found 'socks', this server has 'test', 'towel'; ask for one of them, or start"
            with pytest.raises(ServerError, match=words):
                client.infer(make_observation(0))
        with Asking(serving.port) as asking:  # a client of the releases knows nothing of it
            assert asking.ask(nested())[0]["arm"].shape[1] == EMBODIMENT.action_horizon
            assert "client.checkpoint: found 3" in asking.error({**nested(), "client": {"checkpoint": 3}})


def test_a_server_that_cannot_choose_is_refused():
    with Serving(SumPolicy()) as serving:
        serving.server._served["test"].description["extensions"].remove("checkpoint")
        words = r"is older and has one checkpoint .found 'test'.; update it"
        with serving.client(checkpoint="test") as client, pytest.raises(ServerError, match=words):
            client.infer(make_observation(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run2"], "--checkpoint: found 'run2', expected NAME=PATH"),
        (["=run2"], "--checkpoint: found '=run2', expected NAME=PATH"),
        (["towel=a", "towel=b"], "--checkpoint: duplicate name 'towel'"),
        (["run=b"], "--checkpoint: duplicate name 'run'"),
    ],
)
def test_names_of_checkpoints(given, message):
    with pytest.raises(ConfigError, match=message):
        checkpoint_paths(argparse.Namespace(checkpoint="a/run/", checkpoints=given))


def test_the_first_checkpoint_has_the_name_of_its_folder():
    options = argparse.Namespace(checkpoint="a/run/", checkpoints=["towel=b=c"])
    assert list(checkpoint_paths(options).items()) == [("run", "a/run/"), ("towel", "b=c")]
