# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run one node from start to a clean end, however many signals arrive.

Data is taken by a single executor thread: several threads lose messages in rclpy (the executor's known race).
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import ok, try_shutdown

from gr00t_recorder.ros.node_arguments import check_arguments, command_line, wants_help, wants_version
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.service_guard import guard_services
from gr00t_training.cli.command import fail, fail_unexpected, run_command, shown_name
from gr00t_training.cli.parent import end_with_parent
from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.io.version import suite_version

try:
    from rclpy._rclpy_pybind11 import RCLError
except ImportError:  # another rclpy may keep it elsewhere; it is a RuntimeError there as well
    RCLError = RuntimeError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SPIN_TIMEOUT_S = 0.2  # longest delay of a signal
LAST_CALLBACKS = 20
LAST_CALLBACK_TIMEOUT_S = 0.01
EXIT_CONFIG = 2


def run_node(
    factory: Callable[[], Node],
    args: Sequence[str] | None = None,
    command: NodeCommand | None = None,
    *,
    name: str = "",
) -> int:
    """Check the command line, initialize ROS, spin the node of `factory` until a signal, and clean up.

    The node ends at SIGINT, SIGTERM, SIGHUP, a shutdown of the context, or with its parent where that asked for it
    (`gr00t_training.cli.parent`). A node with a method `close()` has it called first, while the context is still valid:
    publishers, action results and the clock work in it. Further signals are ignored from then on.

    Args:
        factory: makes the node.
        args: words of the command line without the name of the program; None: those of this process.
        command: what the executable is; checks the command line and prints help. None: neither.
        name: of the program in messages, where there is no `command`.

    Returns:
        Exit code: 0 after a signal or help, 2 when the command line or the configuration is wrong, 70 after an error
        that was not foreseen.
    """
    name = command.name if command else name or Path(sys.argv[0]).name
    words = command_line(args)
    if command is not None and (wants_help(words) or wants_version(words)):
        text = command.help_text() if wants_help(words) else f"{shown_name(name)} {suite_version()}"
        return run_command(name, lambda: print(text))
    stop = _StopSignal()
    try:
        if command is not None:
            check_arguments(command, words)
        _run(factory, words, stop)
    except Gr00tError as error:
        return fail(name, f"error: {error}", EXIT_CONFIG)
    except Exception as error:
        return fail_unexpected(name, error)
    if stop.number is not None:
        fail(name, f"stopped by {signal.Signals(stop.number).name}", 0)
    return 0


def _run(factory: Callable[[], Node], words: list[str], stop: _StopSignal) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    end_with_parent()
    try:
        # our own handlers: those of rclpy invalidate the context before a node could save anything
        rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
    except (RCLError, RuntimeError, ValueError) as error:
        raise ConfigError(f"ROS does not start: {error}") from error
    node: Node | None = None
    executor: SingleThreadedExecutor | None = None
    try:
        if stop.number is not None:
            return
        node = factory()
        guard_services(node)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while ok() and stop.number is None:
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    except ExternalShutdownException:
        pass
    except (RCLError, InvalidHandle):
        if ok():  # a fault of ours; otherwise the context ended under a running call
            raise
    finally:
        stop.ignore_from_now()
        _shut_down(node, executor)


class _StopSignal:
    """Remembers that a signal to end came; a launch file may send several."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the first signal
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._set)

    def _set(self, number: int, frame: object) -> None:
        self.number = self.number or number

    def ignore_from_now(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _shut_down(node: Node | None, executor: SingleThreadedExecutor | None) -> None:
    try:
        if node is not None:
            close = getattr(node, "close", None)
            if close is not None and ok():
                close()
                _deliver(executor)
            node.destroy_node()
    finally:
        try_shutdown()


def _deliver(executor: SingleThreadedExecutor | None) -> None:
    """Run what the close has made ready: action results, last states."""
    if executor is None:
        return
    for _ in range(LAST_CALLBACKS):
        executor.spin_once(timeout_sec=LAST_CALLBACK_TIMEOUT_S)
