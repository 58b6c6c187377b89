# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run nodes of the suite as separate processes, and a node of this process next to them; for measurements."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from gr00t_training.cli.parent import parent_environment

DEADLINE_S = 300.0  # a loaded machine with two cores; nothing waits this long when all is well
NUM_DOMAINS = 100  # 0 to 101 are safe on Linux; 0 is what a user's own nodes have
SHARE_VARIABLE = "GR00T_DOMAIN_SHARE"  # 2/3: of three processes at the same time, this is the second
_domains = itertools.count(os.getpid())


def next_domain() -> int:
    """Return a ROS domain that no other test of this process uses, nor of another one with another share."""
    part, _, parts = os.environ.get(SHARE_VARIABLE, "1/1").partition("/")
    size = NUM_DOMAINS // int(parts)
    return 1 + (int(part) - 1) * size + next(_domains) % size


class NodeProcess:
    """One of the suite's executables in a separate process; a context that ends it as Ctrl-C does."""

    def __init__(self, module: str, *arguments: str | Path, domain: int, **variables: str) -> None:
        """Start `main()` of a module with arguments; `variables` are added to the environment."""
        self.module = module
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "PYTHONUNBUFFERED": "1",
            # none is left when the tests are killed; the end of another thread would be taken for that
            **(parent_environment() if threading.current_thread() is threading.main_thread() else {}),
            **variables,
        }
        command = [self._python(), "-c", f"import sys; from {module} import main; sys.exit(main())"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    def _python(self) -> str:
        return sys.executable

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


@contextmanager
def spinning_node(name: str, domain: int, namespace: str = "") -> Iterator[Node]:
    """Give a node of this process, spun by a separate thread."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node(name, namespace=namespace, context=context)
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
