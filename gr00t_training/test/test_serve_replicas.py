# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Replicas of Ray Serve behind one address, with real Ray."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading

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
COMMAND = [sys.executable, "-m", "gr00t_training.cli.serve"]
OPTIONS = ["--device", "cpu", "--denoising-steps", "1", "--seed", "7", "--port", "0"]
# as the command, but it does not wait so long before it changes the number of replicas
QUICK = """
import sys
from gr00t_training.cli import serve_replicas
serve_replicas.UPSCALE_S = serve_replicas.DOWNSCALE_S = 1.0
from gr00t_training.cli.serve import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return checkpoints of the same robot with other weights, and what they answer alone to each client."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = [make_checkpoint(folder / name, EMBODIMENT, seed=seed) for seed, name in enumerate(("old", "new"))]
    answers = {}
    for path in paths:
        alone = Policy.from_checkpoint(path, device="cpu", seed=7, denoising_steps=1)
        for number in range(NUM_CLIENTS):
            alone.reset()
            answers[path.name, number] = alone.infer_batch([observation(number)])[0].actions
    return *paths, answers


@pytest.fixture(scope="module")
def cluster():
    """Return the address of a cluster on this machine."""
    pytest.importorskip("ray.serve")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(port), "--num-cpus", "4"]
    words += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--disable-usage-stats"]
    words += ["--object-store-memory", str(100 * 2**20), "--temp-dir"]
    with (
        tempfile.TemporaryDirectory(prefix="ray_", ignore_cleanup_errors=True) as folder,  # short: for Unix sockets
        subprocess.Popen([sys.executable, *words, folder], stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout and any("Ray runtime started" in line for line in process.stdout)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def serving(cluster, checkpoint, *words, starter=COMMAND):
    """Start replicas; yield the command's process, their port and their name."""
    given = [*starter, str(checkpoint), *OPTIONS, "--ray-address", cluster, *words]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            line = next(line for line in process.stdout if line.startswith("gr00t_serve: ready"))
            port = int(line.split("tcp://127.0.0.1:")[1].split(":")[0])
            name = line.split("name ")[1].split(",")[0]
            yield process, port, name
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    eventually(lambda: not replicas(name), "no replica is left")


def update(cluster, name, checkpoint):
    words = [str(checkpoint), "--update", name, "--ray-address", cluster]
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)


def observation(number):
    """Return an observation whose answer differs from those of the others."""
    rng = np.random.default_rng(number)
    images = {"front": rng.integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)}
    state = {"arm": rng.uniform(-1, 1, (1, 3)), "gripper": rng.uniform(-1, 1, (1, 1))}
    return Observation(images, state, "lift the cube", number * 10**9)


def replicas(name):
    """Return the processes of replicas by the name that Ray gives them."""
    found = subprocess.run(["pgrep", "-f", f"ray::ServeReplica:{name}:"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


class Robot:
    """A client that asks for the first answer of an episode."""

    def __init__(self, port, number, answers):
        self.number, self.answers = number, answers
        self.client = PolicyClient(EMBODIMENT, port=port, timeout_s=DEADLINE_S)
        self.holds = []

    def ask(self):
        """Return the name of the checkpoint whose answer came; None: none came, the robot holds."""
        try:
            self.client.reset()
            actions = self.client.infer_batch([observation(self.number)])[0].actions
        except ServerError as error:
            self.holds.append(str(error))
            return None
        for name in ("old", "new"):
            expected = self.answers[name, self.number]
            if all(np.allclose(actions[key], expected[key], rtol=1e-4, atol=1e-5) for key in expected):
                return name
        raise AssertionError(f"robot {self.number}: a wrong answer")


@contextlib.contextmanager
def working(robots):
    """Let robots ask all the time; yield what they were answered (`Robot.ask`), in order."""
    is_over, served = threading.Event(), [[] for _ in robots]

    def work(robot, names):
        while not is_over.is_set():
            names.append(robot.ask())

    threads = [threading.Thread(target=work, args=each) for each in zip(robots, served, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield served
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.ray
def test_robots_get_answers_again_after_a_replica_is_killed(cluster, checkpoints):
    old, _, answers = checkpoints
    with serving(cluster, old, "--replicas", "2") as (_, port, name):
        robots = [Robot(port, number, answers) for number in range(NUM_CLIENTS)]
        assert [robot.ask() for robot in robots] == ["old"] * NUM_CLIENTS
        before = replicas(name)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        for robot in robots:
            eventually(robot.ask, f"robot {robot.number} is answered again")
        eventually(lambda: len(set(replicas(name)) - {before[0]}) == 2, "a new replica runs")


@pytest.mark.slow
@pytest.mark.ray
def test_two_commands_on_one_cluster_keep_apart(cluster, checkpoints):
    old, new, answers = checkpoints
    with serving(cluster, old, "--replicas", "1") as (_, port, name):
        assert name == f"gr00t_serve_{port}"
        words = [*COMMAND, str(new), *OPTIONS[:-1]]
        for option, reason in (
            ([str(port)], f"127.0.0.1:{port}: cannot listen"),
            (["0", "--name", name], f"--name {name}: replicas of this name run"),
        ):
            given = [*words, *option, "--replicas", "1", "--ray-address", cluster]
            second = subprocess.run(given, capture_output=True, text=True, check=False)
            assert second.returncode == 2 and reason in second.stderr
        with serving(cluster, new, "--replicas", "1", "--name", "other") as (_, other_port, other):
            assert other == "other"
            assert [Robot(each, 0, answers).ask() for each in (port, other_port)] == ["old", "new"]
        assert Robot(port, 0, answers).ask() == "old"


@pytest.mark.slow
@pytest.mark.ray
def test_update_under_load_costs_no_robot_an_answer(cluster, checkpoints, tmp_path):
    old, new, answers = checkpoints
    other = make_checkpoint(tmp_path / "other", make_embodiment(fps=5))
    with serving(cluster, old, "--replicas", "2") as (_, port, name):
        robots = [Robot(port, number, answers) for number in range(NUM_CLIENTS)]
        with working(robots) as served:
            refused = update(cluster, name, other)
            assert refused.returncode == 2 and "embodiment differ" in refused.stderr
            assert update(cluster, name, new).returncode == 0
            for names in served:
                eventually(lambda names=names: names[-1:] == ["new"], "the new checkpoint answers")
        for robot, names in zip(robots, served, strict=True):
            assert len(robot.holds) <= 1 and names.count(None) == len(robot.holds), robot.holds
            found = [each for each in names if each]
            assert found == sorted(found, reverse=True)  # all of the old one before those of the new one
            assert robot.client.health()["name"] == "new"
        os.kill(replicas(name)[0], signal.SIGKILL)
        eventually(lambda: len(replicas(name)) == 2, "a new replica runs")
        eventually(lambda: all(robot.ask() == "new" for robot in robots), "the new checkpoint answers")


@pytest.mark.slow
@pytest.mark.ray
def test_replicas_are_added_and_removed_by_their_load(cluster, checkpoints):
    old, _, answers = checkpoints
    words = ("--replicas", "1..2", "--max-batch", "1")
    with serving(cluster, old, *words, starter=[sys.executable, "-c", QUICK]) as (_, port, name):
        robots = [Robot(port, number, answers) for number in range(NUM_CLIENTS)]
        with working(robots) as served:
            eventually(lambda: len(replicas(name)) == 2, "a replica is added")
            late = Robot(port, 0, answers)

            def is_elsewhere():  # the new replica has no other robot
                late.client.close()
                late.client = PolicyClient(EMBODIMENT, port=port, timeout_s=DEADLINE_S)
                return late.ask() and late.client.health()["connections"] == 1

            eventually(is_elsewhere, "a robot that comes gets the new replica")
        assert all(None not in names for names in served)  # robots stay where they are
        eventually(lambda: len(replicas(name)) == 1, "a replica is removed")
        for robot in (*robots, late):
            eventually(robot.ask, "robots of either replica are answered")
            assert len(robot.holds) <= 1, robot.holds


def test_without_ray_the_option_says_what_to_install(checkpoints, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main([str(checkpoints[0]), "--replicas", "2", "--device", "cpu"]) == 2
    assert "--replicas: Ray is not installed" in capsys.readouterr().err
