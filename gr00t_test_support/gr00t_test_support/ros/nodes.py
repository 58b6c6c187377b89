# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A node with a parent that can be killed, a node of this process that talks to others, and waiting for them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Future

from gr00t_recorder.ros.processes import NodeProcess
from gr00t_test_support.forked_python import python
from gr00t_test_support.waiting import DEADLINE_S, eventually
from gr00t_training.cli.parent import parent_environment


class ForkedNode(NodeProcess):
    """A node that starts sooner: forked from a process that has imported torch and others."""

    def _python(self) -> str:
        return python()


class LaunchedNode(NodeProcess):
    """A node below a parent that does nothing but have started it; for tests of what the end of a launcher does."""

    def __init__(self, module: str, *arguments: str | Path, domain: int, **variables: str) -> None:
        """Start the parent, and wait until it has started the node."""
        super().__init__("gr00t_test_support.ros.nodes", module, *arguments, domain=domain, **variables)
        pattern = re.compile(r"^node: (\d+)$", re.MULTILINE)
        self.node_pid = int(eventually(lambda: pattern.search(self.output), lambda: self.output)[1])

    @property
    def has_node_ended(self) -> bool:
        """Whether the node's process has ended; its parent may not have read the exit code."""
        try:
            status = Path(f"/proc/{self.node_pid}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            return True
        return status.rpartition(")")[2].split()[0] == "Z"

    def stop(self) -> int:
        """End the parent, and the node if it lives on."""
        self.process.kill()
        try:
            eventually(lambda: self.has_node_ended, lambda: f"end of the node: {self.output}")
        except AssertionError:
            os.kill(self.node_pid, signal.SIGKILL)
            raise
        return self.process.wait()


class _Untended(MutuallyExclusiveCallbackGroup):
    """Subscriptions that the executor does not wait for."""

    def can_execute(self, entity: Any) -> bool:
        return False


class Peer:
    """A node in this process, in the domain of the nodes under test.

    Topics are read all at once and up to the last message, see `catch_up`. An executor takes one message of each topic
    in turn: on a loaded machine a status is then read while commands from before it still wait.
    """

    def __init__(self, domain: int, name: str = "peer") -> None:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._untended = _Untended()
        self._heard: list[tuple[Subscription, list[Any]]] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def listen(self, message_type: Any, topic: str, qos: Any = 1000) -> list[Any]:
        """Subscribe; return the list that fills with the messages."""
        received: list[Any] = []
        subscription = self.node.create_subscription(
            message_type, topic, received.append, qos, callback_group=self._untended
        )
        self._heard.append((subscription, received))
        return received

    def catch_up(self) -> None:
        """Take every message that is here. One that a process sent before another one that was taken is then taken."""
        is_new = True
        while is_new:
            is_new = False
            for subscription, received in self._heard:
                with subscription.handle:
                    while (taken := subscription.handle.take_message(subscription.msg_type, False)) is not None:
                        received.append(taken[0])
                        is_new = True

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Spin until the condition holds, and return its value; AssertionError names `what` when it never does."""
        end_s = time.monotonic() + deadline_s
        while True:
            self.catch_up()
            value = condition()
            if value:
                return value
            if time.monotonic() > end_s:
                raise AssertionError(f"{what}: did not happen within {deadline_s:.0f} s")
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, service_type: Any, name: str, **fields: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(service_type, name)
        self.until(client.service_is_ready, f"service {name}")
        response = self.result(client.call_async(service_type.Request(**fields)), f"answer of {name}")
        self.node.destroy_client(client)
        return response

    def result(self, future: Future, what: str) -> Any:
        """Spin until a future is done, and return its result."""
        self.until(future.done, what)
        return future.result()


def call(node: Node, service_type: Any, name: str, request: Any) -> Any:
    """Call a service through a node that a thread spins; return the response."""
    client = node.create_client(service_type, name)
    try:
        assert client.wait_for_service(DEADLINE_S), f"service {name} is not there"
        future = client.call_async(request)
        eventually(future.done, f"answer of {name}")
        return future.result()
    finally:
        node.destroy_client(client)


def parameter_arguments(**values: Any) -> list[str]:
    """Return the command line arguments that set parameters of a node."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return ["--ros-args", *(part for name, text in texts.items() for part in ("-p", f"{name}:={text}"))]


def main() -> int:
    """Start a node as a launcher would, and wait for its end: `MODULE ARGUMENT...`."""
    module, *arguments = sys.argv[1:]
    command = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *arguments]
    process = subprocess.Popen(command, env={**os.environ, **parent_environment()})
    print(f"node: {process.pid}", flush=True)
    return process.wait()
