# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Cores and memory that this process may use, with the limits of its container."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")  # version 2, as the process sees its own
_UNKNOWN_BYTES = 8 * 2**30  # where the system does not tell


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


def _words(name: str) -> list[str]:
    return (_lines(_CONTAINER / name) or [""])[0].split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
