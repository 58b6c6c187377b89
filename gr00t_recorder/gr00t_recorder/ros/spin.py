# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run one node from start to a clean end, whatever number of signals arrives.

Data is taken by a single executor thread: several threads lose messages in rclpy (the executor's known race).
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import ok, try_shutdown

from gr00t_training.errors import Gr00tError

try:
    from rclpy._rclpy_pybind11 import RCLError
except ImportError:  # another rclpy may keep it elsewhere; it is a RuntimeError there as well
    RCLError = RuntimeError

SPIN_TIMEOUT_S = 0.2  # longest delay of a signal
LAST_CALLBACKS = 20
LAST_CALLBACK_TIMEOUT_S = 0.01
EXIT_CONFIG = 2


def run_node(factory: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Initialise ROS, spin the node of `factory` until SIGINT, SIGTERM or a shutdown of the context, and clean up.

    A node with a method `close()` has it called first, while the context is still valid: publishers, action results
    and the clock work in it. Further signals are ignored from then on.

    Returns:
        Exit code: 0 after a signal, 2 when the node could not be made from its configuration.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stop = _StopSignal()
    # our own handlers: those of rclpy invalidate the context before a node could save anything
    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    node: Node | None = None
    executor: SingleThreadedExecutor | None = None
    exit_code = 0
    try:
        node = factory()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while ok() and not stop.is_set:
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    except ExternalShutdownException:
        pass
    except Gr00tError as error:
        print(error, file=sys.stderr)
        exit_code = EXIT_CONFIG
    except (RCLError, InvalidHandle):
        if ok():  # a fault of ours; otherwise the context ended under a running call
            raise
    finally:
        stop.ignore_from_now()
        _shut_down(node, executor)
    return exit_code


class _StopSignal:
    """Remembers that SIGINT or SIGTERM came; a launch file may send either twice."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: object) -> None:
        self.is_set = True

    def ignore_from_now(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
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
