# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a command and end it with an exit code and at most one line of error, never a traceback.

`SIGTERM` and a closed terminal end a command as Ctrl-C does: `finally` blocks and context managers run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from gr00t_training.cli.parent import end_with_parent
from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import one_line, printable

EXIT_ERROR = 2
MAX_MESSAGE = 4000  # [characters] of an error
MAX_FOREIGN = 1000  # [characters] of an error that is not ours
EXIT_BUG = 70  # EX_SOFTWARE: an unexpected error
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM
EXIT_PIPE = 141  # 128 + SIGPIPE
TRACEBACK_VARIABLE = "GR00T_TRACEBACK"  # set it to see the traceback of an unexpected error
_SHOWN: ContextVar[dict[str, str]] = ContextVar("shown names of commands", default={})  # noqa: B039 - never changed


class TerminatedError(BaseException):
    """SIGTERM or SIGHUP arrived; not an Exception, so that `except Exception` does not catch it."""


def run_command(name: str, action: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Call `action` and return the exit code.

    Args:
        name: of the command; starts the line of an error.
        action: does the work; returns the exit code, None for 0.
        interrupted: message after Ctrl-C or SIGTERM, such as how to continue.
    """
    restore = _raise_on_termination()
    try:
        end_with_parent()
        return _flushed(action)
    except Gr00tError as error:
        return fail(name, f"error: {error}", EXIT_ERROR)
    except KeyboardInterrupt:
        return fail(name, interrupted, EXIT_INTERRUPTED)
    except TerminatedError:
        return fail(name, interrupted, EXIT_TERMINATED)
    except BrokenPipeError:  # `| head`: the reader has ended
        return EXIT_PIPE
    except MemoryError:
        return fail(name, "error: out of memory; close other programs or use a smaller input", EXIT_ERROR)
    except OSError as error:
        subject = f"{error.filename}: " if error.filename else ""
        return fail(name, f"error: {subject}{error.strerror or error}; check path, permissions and disk", EXIT_ERROR)
    except Exception as error:
        return fail_unexpected(name, error)
    finally:
        _leave_broken_stdout()
        restore()


def fail(name: str, message: str, code: int) -> int:
    """Print the line of an error or an interruption to stderr and return `code`."""
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"{shown_name(name)}: {printable(one_line(message), MAX_MESSAGE)}", file=sys.stderr)
    return code


def fail_unexpected(name: str, error: Exception) -> int:
    """Print the line of an error that is a bug of the suite, and the traceback if the environment asks for it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exc()
    what = printable(one_line(f"{type(error).__name__}: {error}"), MAX_FOREIGN)
    remedy = f"a bug in this program; run again with {TRACEBACK_VARIABLE}=1 and report the output"
    return fail(name, f"error: {what}; {remedy}", EXIT_BUG)


@contextlib.contextmanager
def shown_as(name: str, shown: str) -> Iterator[None]:
    """Show a command by another name in help and messages: `gr00t finetune` instead of `gr00t_finetune`."""
    token = _SHOWN.set({**_SHOWN.get(), name: shown})
    try:
        yield
    finally:
        _SHOWN.reset(token)


def shown_name(name: str) -> str:
    """Return the name that the user typed for the command `name`."""
    return _SHOWN.get().get(name, name)


class StopRequest:
    """Turns the first signal into a request to finish the current step.

    Signals are Ctrl-C, SIGTERM, SIGHUP and SIGUSR1, with which SLURM announces the end of a job (`--signal`). A second
    one ends at once if one of both is Ctrl-C. A context manager, inside `run_command`; does nothing outside the main
    thread.
    """

    def __init__(self, notice: str, has_work: Callable[[], bool] = lambda: True) -> None:
        """Prepare.

        Args:
            notice: printed when the signal arrives; empty: nothing is.
            has_work: whether there is something to save; without it, the first signal ends at once.
        """
        self._notice = notice
        self._has_work = has_work
        self._before: dict[int, Any] = {}
        self.number: int | None = None  # of the signal that arrived

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """Exit code of a command that saved its work after this signal: a scheduler counts only 0 as success."""
        return EXIT_INTERRUPTED if self.number == signal.SIGINT else 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        self.number = number
        self.__exit__()
        # a cluster may repeat its signals; only a person's second signal cuts the saving short
        for each in (signal.SIGUSR1, *(() if number == signal.SIGINT else (signal.SIGTERM, signal.SIGHUP))):
            signal.signal(each, signal.SIG_IGN)
        if not self._has_work():
            raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError
        if not self._notice:
            return
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(f"\n{self._notice}", file=sys.stderr, flush=True)


def _raise_on_termination() -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def handle(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGHUP):  # a second signal must not interrupt the cleanup
            signal.signal(each, signal.SIG_IGN)
        raise TerminatedError

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        if before[number] is not signal.SIG_IGN:  # nohup
            signal.signal(number, handle)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


def _flushed(action: Callable[[], int | None]) -> int:
    """Call `action` and flush stdout here, where a closed pipe can still be handled."""
    try:
        code = action() or 0
    except SystemExit:  # of the parser: after help or an error
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def _leave_broken_stdout() -> None:
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter would flush again at its end and print the error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
