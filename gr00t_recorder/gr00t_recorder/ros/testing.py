# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes of their own, and a peer that talks to them: for tests and benchmarks."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

DEADLINE_S = 60.0  # a loaded machine with two cores; nothing waits this long when all is well
NUM_DOMAINS = 100  # 0 to 101 are safe on Linux; 0 is what a user's own nodes have
_domains = itertools.count(os.getpid())


def next_domain() -> int:
    """Return a ROS domain that no other test of this process uses."""
    return 1 + next(_domains) % NUM_DOMAINS


class NodeProcess:
    """One of the suite's executables in a process of its own; a context that ends it as Ctrl-C does."""

    def __init__(self, module: str, *arguments: str | Path, domain: int, **variables: str) -> None:
        """Start `main()` of a module with arguments; `variables` are added to the environment."""
        self.module = module
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        command = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- {self.module}\n{self.output}")
        self.stop()

    @property
    def output(self) -> str:
        """What the process has printed so far."""
        self._log.seek(0)
        return self._log.read()

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(DEADLINE_S)

    def interrupt(self, times: int = 1) -> None:
        """Send SIGINT, as Ctrl-C does."""
        for _ in range(times):
            self.process.send_signal(signal.SIGINT)

    def stop(self) -> int:
        """Interrupt the process if it runs, and wait for its end; return the exit code."""
        if self.process.poll() is None:
            self.interrupt()
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return code


class Peer:
    """A node in this process, in the domain of the nodes under test."""

    def __init__(self, domain: int, name: str = "peer") -> None:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def listen(self, message_type: Any, topic: str, qos: Any = 50) -> list[Any]:
        """Subscribe; return the list that fills with the messages."""
        received: list[Any] = []
        self.node.create_subscription(message_type, topic, received.append, qos)
        return received

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Spin until the condition holds, and return its value; AssertionError names `what` when it never does."""
        end_s = time.monotonic() + deadline_s
        while True:
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


@contextmanager
def spinning_node(name: str, domain: int) -> Iterator[Node]:
    """Give a node of this process, spun by a thread of its own."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stop = threading.Event()

    def spin() -> None:
        try:
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
        except (ExternalShutdownException, ShutdownException):
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield node
    finally:
        stop.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


def eventually(condition: Callable[[], Any], what: Callable[[], str] | str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of the condition, made true by other threads or processes; fails at the deadline."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s:.0f} s: {what if isinstance(what, str) else what()}")


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
