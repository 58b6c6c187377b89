# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Starting worker processes."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver

_STOPS = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}  # that a cluster sends to all processes of a job


def start_forkserver(modules: Sequence[str]) -> None:
    """Start the process that workers are forked from; meanwhile it imports `modules`, which all workers then have.

    It ends with this process. Signals that stop a run are left to this process. A second call does nothing.
    """
    multiprocessing.set_forkserver_preload(list(modules))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        with starting_workers():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def starting_workers() -> Iterator[None]:
    """Keep Ctrl-C and SIGUSR1 from processes that are started here; this process still receives them.

    In a terminal Ctrl-C reaches the whole process group, and SLURM sends SIGUSR1 to all processes of a job. A worker
    that is still importing its modules, before it can ignore the signal, would end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})  # inherited by the processes
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
