# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy server in a process of its own, for a replica that loads the next checkpoint while this one answers.

Two models in one process would share Python's lock, and the graphs of one could not be captured while the other runs.
The process gets what makes its server on its standard input, writes a line of JSON when it is ready and one per second
with its load, and ends when its input does: it never outlives its replica.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import pkgutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from gr00t_training.errors import ConfigError
from gr00t_training.io.text import one_line
from gr00t_training.serve.observer import Observer, Stage
from gr00t_training.serve.server import PolicyServer

LOAD_S = 1.0  # between two reports
LEAVE_S = 10.0  # longest time that a server waits for its robots to leave
STOP_S = 5.0  # for the last answers
POLL_S = 0.05
MAX_REASON = 500  # characters
LEAVE = b"leave\n"

MakeServer = Callable[[str, str, Observer], PolicyServer]  # of a checkpoint, the host to listen on, and an observer


@dataclass(frozen=True)
class Recipe:
    """How to make a server, in a form that a new process can read."""

    maker: str  # module:function; its first arguments are `arguments`, the others those of `MakeServer`
    arguments: tuple[Any, ...] = ()

    def make(self, checkpoint: str, host: str, observer: Observer) -> PolicyServer:
        """Load the policy and listen on any free port of a host."""
        return pkgutil.resolve_name(self.maker)(*self.arguments, checkpoint, host, observer)


class ServerProcess:
    """A running server and its process."""

    def __init__(self, recipe: Recipe, checkpoint: str, host: str) -> None:
        """Start it and wait until it is ready.

        Raises:
            ConfigError: it ended before; names the reason.
        """
        self.checkpoint = checkpoint
        self.load = 0.0  # mean number of unanswered requests in the last second
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # a signal of the terminal is for the command, which ends its replicas
        )
        assert self._process.stdin and self._process.stdout
        self._input: IO[bytes] = self._process.stdin
        try:
            pickle.dump((recipe, checkpoint, host), self._input)
            self._input.flush()
            first = self._process.stdout.readline()
        except OSError:
            first = b""
        found = json.loads(first) if first else {"error": "it ended while it loaded; see its log"}
        if "error" in found:
            self.stop()
            raise ConfigError(f"{checkpoint}: {found['error']}")
        self.address = (host, int(found["port"]))
        embodiment, statistics = found["served"]
        self.served: tuple[str, str | None] = embodiment, statistics
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def leave(self) -> None:
        """End it when its robots have left, or after a time; returns when it has ended."""
        try:
            self._input.write(LEAVE)
            self._input.flush()
            self._process.wait(LEAVE_S + STOP_S)
        except (OSError, subprocess.TimeoutExpired):
            pass  # it has ended, or `stop` ends it
        self.stop()

    def stop(self) -> None:
        """End it now; the running inferences are answered if that takes little time."""
        with contextlib.suppress(OSError):  # it has ended
            self._input.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self.load = float(json.loads(line)["load"])


class LoadObserver(Observer):
    """Measures how many requests are unanswered on average: the sum of their times by the time (Little's law)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds, self._since_s = 0.0, time.monotonic()

    def add_seconds(self, stage: Stage, seconds: float, checkpoint: str) -> None:
        """Take the time of a stage (`Observer.add_seconds`)."""
        if stage is Stage.TOTAL:
            with self._lock:
                self._seconds += seconds

    def take(self) -> float:
        """Return the mean since the last call."""
        with self._lock:
            now_s = time.monotonic()
            mean = self._seconds / max(now_s - self._since_s, 1e-3)
            self._seconds, self._since_s = 0.0, now_s
        return mean


def main() -> int:
    """Serve as the standard input says, until it ends."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no report
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    recipe, checkpoint, host = pickle.load(sys.stdin.buffer)
    observer = LoadObserver()
    try:
        server = recipe.make(checkpoint, host, observer)
    except Exception as error:  # the replica reports it
        logging.exception("%s: not served", checkpoint)
        _tell(output, {"error": one_line(error)[:MAX_REASON] or type(error).__name__})
        return 2
    threading.Thread(target=_obey, args=(server,), daemon=True).start()
    threading.Thread(target=_report, args=(output, observer), daemon=True).start()
    _tell(output, {"port": server.port, "served": server.served})
    server.serve()
    return 0


def _obey(server: PolicyServer) -> None:
    """Stop the server when its replica says so, or ends."""
    if sys.stdin.buffer.readline() == LEAVE:
        end_s = time.monotonic() + LEAVE_S
        while server.num_connections and time.monotonic() < end_s:
            time.sleep(POLL_S)
    server.stop()


def _report(output: IO[str], observer: LoadObserver) -> None:
    while True:
        time.sleep(LOAD_S)
        _tell(output, {"load": observer.take()})


def _tell(output: IO[str], report: Mapping[str, Any]) -> None:
    try:
        output.write(json.dumps(report) + "\n")
        output.flush()
    except OSError:
        pass  # the replica has ended; so does the input


if __name__ == "__main__":
    sys.exit(main())
