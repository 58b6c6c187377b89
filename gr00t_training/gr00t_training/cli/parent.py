# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""End a process when its parent ends for any reason: exit, crash or kill.

A node that outlives its launcher would continue to command a robot without any way to stop it. The parent requests this
in the environment (`parent_environment`); the child calls `end_with_parent` after it has installed its signal
handlers. Linux only: other systems have no such signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT_VARIABLE = "GR00T_PARENT_PID"
_PR_SET_PDEATHSIG = 1  # prctl(2)
_MAX_ANCESTORS = 100


def parent_environment() -> dict[str, str]:
    """Return environment variables for child processes, so that they get SIGTERM when this process ends.

    Start them from a thread that lives as long as this process: the kernel watches the thread.
    """
    return {PARENT_VARIABLE: str(os.getpid())}


def end_with_parent() -> None:
    """Request SIGTERM for this process when its parent ends, if the parent asked for it.

    If the parent has already ended, the signal comes at once.
    """
    wanted = os.environ.pop(PARENT_VARIABLE, "")  # not for the children of this process
    if not wanted.isdigit() or not sys.platform.startswith("linux"):
        return
    arguments = [ctypes.c_ulong(value) for value in (signal.SIGTERM, 0, 0, 0)]  # as prctl reads them
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, *arguments) != 0:
        error = os.strerror(ctypes.get_errno())
        print(f"cannot watch parent process {wanted} ({error}); stop this process by hand", file=sys.stderr)
    # after prctl: it does not report a parent that ended before
    if int(wanted) not in _ancestors():
        os.kill(os.getpid(), signal.SIGTERM)


def _ancestors() -> set[int]:
    """Return the process ids of all ancestors; a debugger or a shell may be between child and launcher."""
    found: set[int] = set()
    pid = os.getppid()
    while pid > 0 and pid not in found and len(found) < _MAX_ANCESTORS:
        found.add(pid)
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
    return found
