# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the statuses of the nodes say, and what is worth a line when they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Level(str, Enum):
    """How serious a line is; the names are those of Rerun."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


LEVELS = {"holding": Level.WARN, "stopped": Level.ERROR, "failed": Level.ERROR}  # others: information


@dataclass(frozen=True)
class Line:
    """One line of the log."""

    level: Level
    text: str


@dataclass(frozen=True)
class PolicyNote:
    """Status of a policy node."""

    stamp_ns: int
    state: str  # idle, running, holding, stopped
    reason: str = ""
    instruction: str = ""
    source: str = ""  # who commands
    device: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # "hold", "stop", "clamp", "gate" -> by cause
    totals: Mapping[str, int] = field(default_factory=dict)
    latencies_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # stage -> median, 95 %
    ages_s: Mapping[str, float] = field(default_factory=dict)  # by stream; without those that have no sample


@dataclass(frozen=True)
class RecorderNote:
    """Status of a recorder."""

    stamp_ns: int
    state: str  # idle, recording, saving, failed
    reason: str = ""
    warning: str = ""
    task: str = ""
    totals: Mapping[str, int] = field(default_factory=dict)  # episodes, rows of the running one, rows that wait
    ages_s: Mapping[str, float] = field(default_factory=dict)


def policy_lines(before: PolicyNote | None, now: PolicyNote) -> Iterator[Line]:
    """Yield a line for a new state, instruction or commander, and one for each count that rose."""
    if before is None or _told(before) != _told(now):
        device = f"; '{now.device}' has control" if now.device else ""
        instruction = f" [{now.instruction}]" if now.instruction else ""
        yield Line(LEVELS.get(now.state, Level.INFO), f"{now.state}{_because(now.reason)}{device}{instruction}")
    if before is None:
        return  # what happened before the view began is in the totals
    for kind, causes in now.counts.items():
        earlier = before.counts.get(kind, {})
        rises = {cause: _rise(earlier.get(cause, 0), count) for cause, count in causes.items()}
        parts = [f"{cause}{f' {rise} times' if rise > 1 else ''}" for cause, rise in rises.items() if rise]
        if parts:
            yield Line(Level.ERROR if kind == "stop" else Level.WARN, f"{kind}: {', '.join(parts)}")


def recorder_lines(before: RecorderNote | None, now: RecorderNote) -> Iterator[Line]:
    """Yield a line for a new state or warning."""
    if before is None or (before.state, before.reason, before.task) != (now.state, now.reason, now.task):
        task = f" [{now.task}]" if now.task else ""
        yield Line(LEVELS.get(now.state, Level.INFO), f"{now.state}{_because(now.reason)}{task}")
    if now.warning and (before is None or _without_digits(before.warning) != _without_digits(now.warning)):
        yield Line(Level.WARN, now.warning)


def _rise(before: int, now: int) -> int:
    return now - before if now >= before else now  # it counts from zero again: the node was started again


def _told(note: PolicyNote) -> tuple[str, ...]:
    return note.state, _without_digits(note.reason), note.instruction, note.device


def _without_digits(text: str) -> str:
    return "".join(c for c in text if not c.isdigit())  # ages in a reason change with each status


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
