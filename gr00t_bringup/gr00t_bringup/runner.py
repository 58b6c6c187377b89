# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Start and stop the suite's executables without `ros2 launch`, which does not exist outside a ROS installation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import yaml

from gr00t_bringup.launch_files import SuiteNode
from gr00t_bringup.robots import profile_environment
from gr00t_training.cli.parent import parent_environment
from gr00t_training.errors import Gr00tError

# How long a process may take to end after each signal before the next, harsher one.
STOP_SIGNALS = ((signal.SIGINT, 60.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOCAL_DOMAIN = "87"


class ProcessError(Gr00tError):
    """A process ended with an error or did not start."""


class Runner:
    """Processes of one run; as a context it stops them all at the end, the newest first."""

    def __init__(self, folder: Path, *, domain_id: str | None = None, is_shown: bool = False) -> None:
        """Write each process's output to `<folder>/<name>.log`.

        Args:
            folder: of logs and parameters; is made.
            domain_id: ROS domain; None: that of the environment, or a private one, to avoid real robots.
            is_shown: processes print to this one's output, and talk to what the environment says: real robots.
        """
        self._folder, self._is_shown = folder, is_shown
        self._folder.mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, **profile_environment()} if is_shown else ros_environment(domain_id)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # a second signal must not leave processes behind
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTIONS}
        self.stop_all()
        for number, handler in previous.items():
            signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start an executable of the suite in the background; call it from the main thread.

        Raises:
            ProcessError: there is no such executable.
        """
        with ExitStack() as opened:
            log = None if self._is_shown else opened.enter_context(self._log(name).open("wb"))
            self._processes[name] = subprocess.Popen(
                [executable(str(command[0])), *map(str, command[1:])],
                env={**self.environment, **parent_environment()},  # none is left when this program is killed
                stdin=subprocess.DEVNULL if self._is_shown else None,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this program only, which then stops them in order
            )

    def start_node(
        self, node: SuiteNode, *, parameters: Sequence[str] = (), namespace: str = "/", log_level: str = ""
    ) -> None:
        """Start a node of the suite, as launch does.

        Args:
            node: what is started.
            parameters: over its own, each `name:=value`.
            namespace: full name.
            log_level: empty: the default.
        """
        own = node.without_parameters(*(each.partition(":=")[0] for each in parameters))
        words = [word for each in parameters for word in ("-p", each)]
        command = node_command(own, self._folder, namespace=namespace, log_level=log_level)
        self.start(node.executable, [*command, *words])

    def follow(self, leaders: Collection[str] = ()) -> None:
        """Wait until one of the leaders or every process has ended; another that fails does not end the rest.

        Raises:
            ProcessError: a process has failed, at the end.
        """
        failures: dict[str, int] = {}
        while self._processes:
            ended = {name: process for name, process in self._processes.items() if process.poll() is not None}
            for name, process in ended.items():
                del self._processes[name]
                print(f"{name} has ended, exit code {process.returncode}", flush=True)
                failures |= {name: process.returncode} if process.returncode else {}
            if set(leaders) & set(ended):
                break
            time.sleep(0.05)
        for name, code in failures.items():
            raise ProcessError(f"{name} failed with exit code {code}; its last lines are above")

    def run(self, name: str, command: Sequence[str | Path], *, timeout_s: float) -> None:
        """Start an executable and wait for its end.

        Raises:
            ProcessError: it failed or took too long; names its log.
        """
        self.start(name, command)
        self.wait(name, timeout_s=timeout_s)

    def wait(self, name: str, *, timeout_s: float) -> None:
        """Wait for the end of a process, while every other one must live.

        Raises:
            ProcessError: it or another one failed, or it took too long; names the log.
        """
        deadline_s = time.monotonic() + timeout_s
        process = self._processes[name]
        while process.poll() is None:
            self.check()
            if time.monotonic() > deadline_s:
                self.stop(name)
                raise ProcessError(f"{name} did not end within {timeout_s:.0f} s; see {self._log(name)}")
            time.sleep(0.05)
        del self._processes[name]
        if process.returncode != 0:
            raise ProcessError(f"{name} failed with exit code {process.returncode}: {self._last_line(name)}")

    def check(self) -> None:
        """Raise ProcessError when a background process has failed."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                raise ProcessError(f"{name} failed with exit code {process.returncode}: {self._last_line(name)}")

    def stop(self, name: str) -> None:
        """Let a process finish, with growing insistence."""
        process = self._processes.pop(name)
        for number, patience_s in STOP_SIGNALS:
            if process.poll() is not None:
                return
            # it may end by itself in this very moment
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)

    def stop_all(self) -> None:
        """Stop every process, the newest first."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'no output'} (log: {self._log(name)})"


def node_command(node: SuiteNode, folder: Path, *, namespace: str = "/", log_level: str = "") -> list[str]:
    """Return the words that launch would execute for a node.

    Args:
        node: what is started.
        folder: of the file with the parameters that are no file's; it is written.
        namespace: full name.
        log_level: empty: the default.
    """
    full_name = f"{namespace.rstrip('/')}/{node.name}"
    files = [str(node.settings.file)] if node.settings.file else []
    if node.settings.overrides:
        path = folder / f"{node.name}.parameters.yaml"
        section = {full_name: {"ros__parameters": dict(node.settings.overrides)}}
        path.write_text(yaml.safe_dump(section, allow_unicode=True), encoding="utf-8")
        files.append(str(path))
    words = [node.executable, *node.options, "--ros-args", *(["--log-level", log_level] if log_level else [])]
    words += ["-r", f"__node:={node.name}", "-r", f"__ns:={namespace}"]
    return [*words, *(word for file in files for word in ("--params-file", file))]


def ros_environment(domain_id: str | None = None) -> dict[str, str]:
    """Return the environment for nodes that talk on this host only, with room for images in shared memory."""
    environment = dict(os.environ)
    environment["ROS_DOMAIN_ID"] = domain_id or environment.get("ROS_DOMAIN_ID", LOCAL_DOMAIN)
    if environment.get("ROS_DISTRO") == "humble":
        environment.setdefault("ROS_LOCALHOST_ONLY", "1")
    else:
        environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.update(profile_environment())
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def executable(name: str) -> str:
    """Return the path of one of the suite's executables.

    pip installs them next to Python, colcon into `lib/<package>` of a workspace.

    Raises:
        ProcessError: it is not installed.
    """
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    built = [path for prefix in prefixes for path in sorted(prefix.glob(f"lib/*/{name}"))]
    for path in (*built, Path(sys.executable).parent / name):
        if path.is_file():
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise ProcessError(
            f"executable '{name}' not found next to {sys.executable} or in a workspace; install the suite"
        )
    return found
