# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Replicas of Ray Serve behind one address, with real Ray."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("msgpack")
torch = pytest.importorskip("torch")

from gr00t_test_support.builders import make_checkpoint, make_embodiment  # noqa: E402
from gr00t_test_support.waiting import DEADLINE_S, eventually  # noqa: E402
from gr00t_training.cli import serve as command  # noqa: E402
from gr00t_training.errors import ServerError  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.serve.client import PolicyClient  # noqa: E402
from gr00t_training.types import Observation  # noqa: E402

EMBODIMENT = make_embodiment()
NUM_CLIENTS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", EMBODIMENT)


def observation(number):
    """Return an observation whose answer differs from those of the others."""
    rng = np.random.default_rng(number)
    images = {"front": rng.integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)}
    state = {"arm": rng.uniform(-1, 1, (1, 3)), "gripper": rng.uniform(-1, 1, (1, 1))}
    return Observation(images, state, "lift the cube", number * 10**9)


def replicas():
    """Return the processes of replicas by the name that Ray gives them."""
    found = subprocess.run(
        ["pgrep", "-f", "ray::ServeReplica:gr00t_serve"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.ray
def test_robots_get_answers_again_after_a_replica_is_killed(checkpoint):
    pytest.importorskip("ray.serve")
    words = [sys.executable, "-m", "gr00t_training.cli.serve", str(checkpoint), "--replicas", "2", "--device", "cpu"]
    words += ["--denoising-steps", "1", "--seed", "7", "--port"]
    with subprocess.Popen([*words, "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            line = next(line for line in process.stdout if line.startswith("gr00t_serve: ready"))
            port = int(line.split("tcp://127.0.0.1:")[1].split(":")[0])
            clients = [PolicyClient(EMBODIMENT, port=port, timeout_s=DEADLINE_S) for _ in range(NUM_CLIENTS)]
            alone = Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=1)

            def is_answered(number):
                alone.reset()
                expected = alone.infer_batch([observation(number)])[0]
                try:
                    clients[number].reset()
                    answer = clients[number].infer_batch([observation(number)])[0]
                except ServerError:
                    return False  # the robot holds
                for key, actions in expected.actions.items():
                    np.testing.assert_allclose(answer.actions[key], actions, rtol=1e-4, atol=1e-5)
                return True

            assert all(is_answered(number) for number in range(NUM_CLIENTS))
            second = subprocess.run([*words, str(port)], capture_output=True, text=True, check=False)
            assert second.returncode == 2 and f"127.0.0.1:{port}: cannot listen" in second.stderr
            before = replicas()
            assert len(before) == 2
            os.kill(before[0], signal.SIGKILL)
            for number in range(NUM_CLIENTS):
                eventually(lambda number=number: is_answered(number), f"client {number} is answered again")
            eventually(lambda: len(set(replicas()) - {before[0]}) == 2, "a new replica runs")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    eventually(lambda: not replicas(), "no replica is left")


def test_without_ray_the_option_says_what_to_install(checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main([str(checkpoint), "--replicas", "2", "--device", "cpu"]) == 2
    assert "--replicas: needs Ray Serve" in capsys.readouterr().err
