# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A command of the suite as a value: its names, its job and where its code is.

Each package lists its commands in a module that imports nothing heavy, and declares the list as an entry point of the
group `gr00t.commands`, where `gr00t` finds it. Calling a command imports its code and runs it. Ctrl-C during the
import, which takes seconds with torch, ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from importlib.util import find_spec

from gr00t_training.cli.command import EXIT_ERROR, EXIT_INTERRUPTED, TRACEBACK_VARIABLE, fail, shown_as

GROUP = "gr00t.commands"  # of entry points


class Job(str, Enum):
    """What a command is used for; the order is that of `gr00t --help`."""

    COLLECT = "collect"
    DATASET = "dataset"
    TRAIN = "train"
    RUN = "run"


@dataclass(frozen=True)
class Need:
    """A module without which a command cannot run, and what installs it."""

    module: str
    remedy: str


MODEL = Need("torch", "pip install 'gr00t_training[model]'")
TRAIN = Need("torch", "pip install 'gr00t_training[train]'")
ROS = (
    Need("rclpy", "source the setup.bash of ROS 2"),
    Need("gr00t_msgs", "build gr00t_msgs and source the workspace"),
)


@dataclass(frozen=True)
class Command:
    """One executable; calling it runs it.

    Ctrl-C ends a command with one line and code 130. A node, which runs until it is stopped, ends with code 0 after
    SIGINT, SIGTERM and SIGHUP: `ros2 launch` and containers report any other code as a failure.
    """

    name: str  # of the executable: gr00t_finetune
    word: str  # after `gr00t`: finetune; empty: not offered there
    target: str  # module:function; the function takes the words of the command line and returns the exit code
    job: Job
    summary: str  # one line
    needs: tuple[Need, ...] = ()
    is_node: bool = False

    def __call__(self, arguments: Sequence[str] | None = None, name: str = "") -> int:
        """Import the code, run it and return the exit code.

        Args:
            arguments: words of the command line without the name of the program; None: those of this process, which
                ends then.
            name: shown instead of `self.name` in help and messages.
        """
        with shown_as(self.name, name or self.name):
            try:
                return self._run(arguments)
            except KeyboardInterrupt:
                return fail(self.name, "interrupted", self._interrupted)
            finally:
                if arguments is None and threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done; no traceback from the shutdown

    def missing(self) -> Need | None:
        """Return the first need that is not installed."""
        return next((need for need in self.needs if find_spec(need.module) is None), None)

    @property
    def _interrupted(self) -> int:
        return 0 if self.is_node else EXIT_INTERRUPTED

    def _run(self, arguments: Sequence[str] | None) -> int:
        missing = self.missing()
        if missing:
            return fail(self.name, f"error: {missing.module} is not installed; {missing.remedy}", EXIT_ERROR)
        try:
            main = self._load()
        except ImportError as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                traceback.print_exc()
            remedy = f"check the installation; {TRACEBACK_VARIABLE}=1 shows where"
            return fail(self.name, f"error: cannot be loaded: {error}; {remedy}", EXIT_ERROR)
        code = main(arguments)
        return self._interrupted if code == EXIT_INTERRUPTED else code

    def _load(self) -> Callable[[Sequence[str] | None], int]:
        module, _, function = self.target.partition(":")
        with _ending_at_interrupt(self.name, self._interrupted):
            return getattr(import_module(module), function)


@contextmanager
def _ending_at_interrupt(name: str, code: int) -> Iterator[None]:
    """End the process at once at Ctrl-C: an exception could be swallowed by the library that is being imported."""

    def end(number: int, frame: object) -> None:
        fail(name, "interrupted", code)
        os._exit(code)

    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in the background of a shell
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
