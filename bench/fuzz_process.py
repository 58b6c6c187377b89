# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run one command on one hostile input in a separate process, and judge how it ended.

The process is forked, so that imports run only once; the parent must have no threads of its own.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CPU_LIMIT_S = 10  # processor time: a loaded machine makes no hang of a slow one
WALL_LIMIT_S = 600.0
MEMORY_LIMIT_BYTES = 2**30
KILL_ABOVE_BYTES = 2 * MEMORY_LIMIT_BYTES
SANCTIONED_CODES = frozenset({0, 1, 2})
BUG_CODE = 70


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int  # exit code, negative for a signal
    cpu_s: float
    peak_bytes: int  # resident
    output: str
    is_late: bool = False  # it was killed at `WALL_LIMIT_S`

    def faults(self, codes: frozenset[int] = SANCTIONED_CODES) -> list[str]:
        """What is wrong with it, as words for a count; empty if it ended as promised."""
        found = []
        if "Traceback (most recent call last)" in self.output or self.code == BUG_CODE:
            found.append("traceback")
        if self.is_late or self.code == -signal.SIGXCPU or self.cpu_s > CPU_LIMIT_S:
            found.append("hang")
        elif self.code < 0:
            found.append(f"killed by signal {-self.code}")
        if self.peak_bytes > MEMORY_LIMIT_BYTES:
            found.append("memory")
        if not found and self.code not in codes:
            found.append(f"exit code {self.code}")
        return found


def attempt(command: Callable[[], int | None], log: Path) -> Outcome:
    """Call `command` in a forked process with its output in `log`; return how it ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    start_s = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(command, log)
    is_late = False
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - start_s > WALL_LIMIT_S and not is_late:
            is_late = True
            os.killpg(child, signal.SIGKILL)
        elif _resident_bytes(child) > KILL_ABOVE_BYTES:  # counted as memory; it must not take the machine with it
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    output = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return Outcome(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output, is_late)


def _resident_bytes(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended
        return 0
    return pages * resource.getpagesize()


def _run(command: Callable[[], int | None], log: Path) -> None:
    """The child: never returns."""
    code = BUG_CODE
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S + 1, CPU_LIMIT_S + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            code = command() or 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
