# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Texts from outside: instructions with a length limit, and names that are safe to print."""

from __future__ import annotations

import re
from enum import Enum

from gr00t_training.errors import Gr00tError

MAX_INSTRUCTION = 1000  # [characters]; the longest published task text has under 300
MAX_SHOWN = 200  # [characters] of a foreign text in a message


class TextFault(str, Enum):
    """What is wrong with a text."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    CONTROL_CHARACTER = "control_character"


class TextError(Gr00tError, ValueError):
    """A text from outside that cannot be taken."""

    def __init__(self, fault: TextFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def check_instruction(text: str, subject: str = "the instruction") -> str:
    """Return an instruction, or another text named by `subject`, without surrounding white space.

    Raises:
        TextError: empty, longer than `MAX_INSTRUCTION`, or with control characters other than white space.
    """
    stripped = text.strip()
    if not stripped:
        raise TextError(TextFault.EMPTY, f"{subject} is empty; say what to do")
    if len(stripped) > MAX_INSTRUCTION:
        raise TextError(
            TextFault.TOO_LONG, f"{subject} has {len(stripped)} characters (limit {MAX_INSTRUCTION}); shorten it"
        )
    for character in "" if stripped.isprintable() else stripped:
        if not character.isprintable() and not character.isspace():
            raise TextError(
                TextFault.CONTROL_CHARACTER, f"{subject} has the control character {character!r}; remove it"
            )
    return stripped


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """Return a foreign text for a log or terminal: control characters escaped, cut to `limit` characters."""
    shown = text[:limit] + ("..." if len(text) > limit else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def one_line(error: object) -> str:
    """Return an error of a library as one line."""
    return re.sub(r"\s+", " ", str(error)).strip()


def duration_text(seconds: float) -> str:
    """Format a duration for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def size_text(size_bytes: float) -> str:
    """Format a size for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
