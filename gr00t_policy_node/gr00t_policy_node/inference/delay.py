# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hold answers of a policy back until a time, so that what latency costs can be measured on any machine.

Answers are given out by the thread that asks, at a time of the node's clock. In lock-step with a simulator the clock
waits for the inference and not for the delay, so that a run can be repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple


class Held(NamedTuple):
    """An answer that waits."""

    made_ns: int
    due_ns: int
    deliver: Callable[[], object]


class DelayedAnswers:
    """Answers that wait for their time, oldest first. Every method may be called from any thread."""

    def __init__(self) -> None:
        """Begin without answers."""
        self._lock = threading.Lock()
        self._held: list[Held] = []

    def add(self, made_ns: int, due_ns: int, deliver: Callable[[], object]) -> None:
        """Hold an answer of time `made_ns` back until `release` is called with `due_ns` or later."""
        with self._lock:
            self._held.append(Held(made_ns, due_ns, deliver))

    def release(self, now_ns: int) -> None:
        """Deliver what is due, in order; drop answers that were made after `now_ns`: the clock was set back."""
        with self._lock:
            held = [each for each in self._held if each.made_ns <= now_ns]
            due = [each for each in held if each.due_ns <= now_ns]
            self._held = [each for each in held if each.due_ns > now_ns]
        for each in due:
            each.deliver()

    def clear(self) -> None:
        """Drop all answers."""
        with self._lock:
            self._held = []
