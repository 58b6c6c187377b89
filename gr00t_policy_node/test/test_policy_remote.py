# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node with its model behind a server: the same chunks, a hold while the server is away, no crash."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

import torch
from gr00t_msgs.msg import PolicyStatus
from test_policy_node import Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_policy_node.inference.policies import RemotePolicy, connect_remote
from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.builders import make_embodiment
from gr00t_training.errors import ConfigError, ServerError
from gr00t_training.policy.policy import Policy
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.server import PolicyServer, ServerSettings
from gr00t_training.serve.wire import Wire

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy(files: dict[str, Path]) -> Policy:  # noqa: F811
    return Policy.from_checkpoint(files["checkpoint_path"], device="cpu", seed=0)


@contextmanager
def serving(policy: Policy, port: int = 0) -> Iterator[PolicyServer]:
    """Serve in a thread of this process."""
    with PolicyServer(policy, ServerSettings(port=port)) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


def test_a_server_that_goes_and_comes_back(files: dict[str, Path], policy: Policy) -> None:  # noqa: F811
    remote = {name: path for name, path in files.items() if name != "checkpoint_path"}
    domain = next_domain()
    with serving(policy) as server:
        port = server.port
        parameters = {"server": f"127.0.0.1:{port}", "server_timeout_s": 2.0}
        robot, node = Robot(domain), start_node(remote, domain, **parameters)
        with robot, node:
            robot.until_state(PolicyStatus.IDLE)
            robot.instruct()
            robot.until_state(PolicyStatus.RUNNING)

            def is_lost() -> bool:
                told = any(words in robot.status.reason for words in ("lost", "no policy server"))
                return robot.status.state == PolicyStatus.HOLDING and told

            chunk = robot.until(lambda: robot.chunks, "chunk")[-1]
            assert (list(chunk.keys), len(chunk.data)) == (["arm", "gripper"], 16 * 4)
            server.stop()
            robot.until(is_lost, "hold without the server")
            positions = robot.new_commands(5)
            assert (positions == positions[0]).all()
            with serving(policy, port):
                robot.until_state(PolicyStatus.RUNNING)
            assert node.process.poll() is None


def remote_policy(address: str) -> RemotePolicy:
    return RemotePolicy(address, Wire.N1_7, "", 1.0, ImageForm.RAW)


def test_a_server_of_another_robot_is_refused_and_an_absent_one_may_still_come(policy: Policy) -> None:
    with serving(policy) as server:
        with pytest.raises(ServerError, match=r"fps.*20"):
            connect_remote(remote_policy(f"127.0.0.1:{server.port}"), make_embodiment(fps=20))
        port = server.port
    connect_remote(remote_policy(f"127.0.0.1:{port}"), make_embodiment()).close()
    with pytest.raises(ConfigError, match="expected host:port"):
        connect_remote(remote_policy("localhost"), make_embodiment())
