# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Cores, memory and priority that this process has, with the limits of its container."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")  # version 2, as the process sees its own
_UNKNOWN_BYTES = 8 * 2**30  # where the system does not tell
_scheduling_lock = threading.Lock()  # two that restore at once would restore what the other one's library set


def num_cores() -> int:
    """Return the number of cores."""
    cores = len(os.sched_getaffinity(0))
    quota = _words("cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def available_bytes() -> int:
    """Return the memory that can be used without swapping [bytes]."""
    found = _UNKNOWN_BYTES
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) * 1024
    limit, used = _words("memory.max"), _words("memory.current")
    if limit and used and limit[0].isdigit():
        found = min(found, max(0, int(limit[0]) - int(used[0])))
    return found


def shared_memory_bytes() -> int:
    """Return the free memory that processes can share [bytes]."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """Undo what a library does to the scheduling of this process's threads; new threads get the caller's.

    SVT-AV1 gives every thread of a process that runs as root the highest real-time priority (SCHED_FIFO, 99) when an
    encoder is opened: on a robot it would then run before the driver's control loop.
    """
    with _scheduling_lock:
        own = _scheduling(0)
        before = {thread: _scheduling(thread) for thread in _threads()}
        try:
            yield
        finally:
            for thread in _threads():
                wanted = before.get(thread, own)
                if wanted and _scheduling(thread) != wanted:
                    with contextlib.suppress(OSError):  # it has ended
                        os.sched_setscheduler(thread, wanted[0], os.sched_param(wanted[1]))


def _threads() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]


def _scheduling(thread: int) -> tuple[int, int] | None:
    """Return policy and priority of a thread, None if it has ended."""
    try:
        return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    except OSError:
        return None


def _words(name: str) -> list[str]:
    return (_lines(_CONTAINER / name) or [""])[0].split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
