# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of metadata files: whole numbers and rates, also where another tool wrote them as text or as floats."""

from __future__ import annotations

import math
from typing import Any

from gr00t_training.errors import DatasetError
from gr00t_training.io.text import printable

MAX_INDEX = 10**9  # of episodes, tasks and files
MAX_ROWS = 10**7  # of one episode: 55 h at 50 Hz
MIN_FPS, MAX_FPS = 0.01, 10_000.0  # [Hz]


def whole(value: Any, subject: str, low: int = 0, high: int = MAX_INDEX) -> int:
    """Return a whole number between `low` and `high`; `subject` names it in errors.

    Raises:
        DatasetError: something else, or outside.
    """
    number = value
    if isinstance(value, str) and len(value) <= 20:
        try:
            number = int(value)
        except ValueError:
            number = None
    elif isinstance(value, float) and math.isfinite(value) and value == int(value):
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise DatasetError(f"{subject} is {shown(value)}, expected a whole number from {low} to {high}")
    return number


def real(value: Any, subject: str, low: float, high: float) -> float | int:
    """Return a number between `low` and `high`, whole ones as they are; raises as `whole` does."""
    number = value
    if isinstance(value, str) and len(value) <= 40:
        try:
            number = int(value) if value.strip().isdecimal() else float(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
        raise DatasetError(f"{subject} is {shown(value)}, expected a number from {low:g} to {high:g}")
    return number


def shown(value: Any) -> str:
    """Return a foreign value for a message."""
    return "missing" if value is None else printable(repr(value), 80)
