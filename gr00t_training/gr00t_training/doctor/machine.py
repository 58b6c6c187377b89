# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The machine as the checks see it: files below a root, environment, programs, and Python in other processes.

Checks reach the machine through this view only. So a test can plant any fault, and an installation that hangs or
crashes takes a child process with it, never the doctor.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_training.doctor.findings import NotCheckedError
from gr00t_training.io.text import one_line, printable

PROGRAM_S = 10.0  # for a program that only asks the system
PYTHON_S = 60.0  # for imports: torch takes half a minute from a slow disk
CHILDREN = "gr00t_training.doctor.children"
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Answer:
    """How a program ended."""

    code: int
    output: str
    error: str = ""
    failure: str = ""  # why it did not run to its end; empty: it did


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the suite."""

    executable: str
    version: tuple[int, int]
    prefix: str
    base_prefix: str

    @property
    def is_virtual(self) -> bool:
        """Whether it is a virtual environment."""
        return self.prefix != self.base_prefix

    @property
    def name(self) -> str:
        """Name with version."""
        return f"Python {self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class Machine:
    """Everything that a check may look at."""

    root: Path
    environment: Mapping[str, str]
    python: Interpreter
    run: Callable[[Sequence[str], float], Answer]  # words, time limit [s]
    may_use: Callable[[Path], bool]  # read and write a device
    space: Callable[[Path], tuple[int, int]]  # size and free part of a file system [bytes]
    _imported: dict[str, Imported] = field(default_factory=dict, repr=False)

    def path(self, name: str) -> Path:
        """Return a path of the machine below the root of this view."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """Return the text of a small file without white space around it, None if it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """Return the existing paths that match, sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def variable(self, name: str) -> str:
        """Return a variable of the environment, empty if it is not set."""
        return self.environment.get(name, "").strip()

    def paths_of(self, variable: str) -> list[str]:
        """Return the entries of a variable such as PYTHONPATH."""
        return [entry for entry in self.variable(variable).split(os.pathsep) if entry]

    def program(self, *words: str, seconds: float = PROGRAM_S) -> str:
        """Return what a program prints.

        Raises:
            NotCheckedError: it is not installed, failed or took too long.
        """
        answer = self.run(words, seconds)
        if answer.failure or answer.code:
            raise NotCheckedError(_why(words[0], answer))
        return answer.output

    def ask(self, module: str, *arguments: str, seconds: float = PYTHON_S) -> Any:
        """Return what a module that runs in a Python of its own prints as JSON in its last line.

        Raises:
            NotCheckedError: it failed, crashed or took too long.
        """
        answer = self.run([self.python.executable, "-m", module, *arguments], seconds)
        lines = answer.output.strip().splitlines()
        try:
            if answer.failure or answer.code:
                raise ValueError
            return json.loads(lines[-1])
        except (ValueError, IndexError):
            raise NotCheckedError(_why(module.rpartition(".")[2], answer)) from None

    def import_module(self, name: str) -> Imported:
        """Import a module in another process, once."""
        if name not in self._imported:
            try:
                self._imported[name] = Imported(**self.ask(f"{CHILDREN}.importing", name))
            except NotCheckedError as error:
                self._imported[name] = Imported(error=str(error))
        return self._imported[name]


@dataclass(frozen=True)
class Imported:
    """What became of the import of a module."""

    version: str = ""
    file: str = ""
    error: str = ""  # empty: it was imported
    is_installed: bool = True


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    python = Interpreter(sys.executable, sys.version_info[:2], sys.prefix, sys.base_prefix)
    return Machine(Path("/"), dict(os.environ), python, run_program, _may_use, _space)


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _space(path: Path) -> tuple[int, int]:
    total, _, free = shutil.disk_usage(path)
    return total, free


def run_program(words: Sequence[str], seconds: float) -> Answer:
    """Run a program; at the time limit it is killed with everything that it started."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONSAFEPATH": "1"}  # no module of the current folder
    try:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Answer(-1, "", failure=error.strerror or str(error))
    _running.add(process)
    try:
        output, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        return Answer(-1, "", failure=f"took longer than {seconds:g} s")
    except BaseException:  # Ctrl-C: nothing is left behind
        _kill_group(process)
        raise
    finally:
        _running.discard(process)
    return Answer(process.returncode, output.decode("utf-8", "replace"), error.decode("utf-8", "replace"))


def end_programs() -> None:
    """Kill what still runs; the threads that started it cannot be interrupted."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
    process.wait()


def _why(name: str, answer: Answer) -> str:
    if answer.failure:
        return f"{name}: {answer.failure}"
    if answer.code < 0:
        return f"{name}: ended by signal {-answer.code}"
    lines: Iterator[str] = (line for line in reversed(answer.error.splitlines()) if line.strip())
    return f"{name}: {printable(one_line(next(lines, f'exit code {answer.code}')), 300)}"
