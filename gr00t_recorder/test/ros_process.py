# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs nodes as processes of their own in a ROS domain of their own, and waits on conditions with a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node

DEADLINE_S = 20.0


def environment(domain: int) -> dict[str, str]:
    """Return this process's environment, confined to one domain of this machine."""
    return {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def eventually(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of `condition`; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s:g} s: {what}")


class RosProcess:
    """A module run by this Python, its output kept in a file."""

    def __init__(self, module: str, arguments: Sequence[str], domain: int, log: Path) -> None:
        self._log = log
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], env=environment(domain), stdout=output, stderr=output
            )

    @property
    def output(self) -> str:
        """Everything the process has printed."""
        return self._log.read_text()

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Return the exit code."""
        return self.process.wait(deadline_s)

    def interrupt(self, times: int = 1) -> None:
        """Send SIGINT, as Ctrl-C does."""
        for _ in range(times):
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Make sure that nothing is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(module: str, arguments: Sequence[str], domain: int, log: Path) -> Iterator[RosProcess]:
    """Run a module for the time of the block."""
    process = RosProcess(module, arguments, domain, log)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def spinning_node(name: str, domain: int) -> Iterator[Node]:
    """Give a node of this process in the domain, spun by a thread."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = rclpy.Context()
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
        rclpy.shutdown(context=context)


def call(node: Node, kind: Any, name: str, request: Any) -> Any:
    """Call a service and return its response."""
    client = node.create_client(kind, name)
    try:
        assert client.wait_for_service(DEADLINE_S), f"service {name} is not there"
        future = client.call_async(request)
        eventually(future.done, f"answer of {name}")
        return future.result()
    finally:
        node.destroy_client(client)
