# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a check finds, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  # it works, but not in every situation
    FAULT = "fault"  # something that the suite does will fail
    UNKNOWN = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    text: str
    remedy: str = ""  # what to do; empty where there is nothing to do


class NotCheckedError(Exception):
    """What a check looks at cannot be found out; the message says why."""


def ok(text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Level.OK, text)


def warning(text: str, remedy: str) -> Finding:
    """Return what may go wrong."""
    return Finding(Level.WARNING, text, remedy)


def fault(text: str, remedy: str) -> Finding:
    """Return what is wrong."""
    return Finding(Level.FAULT, text, remedy)


def unknown(text: str) -> Finding:
    """Return what was not checked, and why."""
    return Finding(Level.UNKNOWN, text)
