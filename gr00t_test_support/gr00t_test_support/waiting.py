# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Wait for what other threads and processes do; without ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 300.0  # a node on two cores that thirty processes share needs two minutes to start; usually two seconds
PERIOD_S = 0.02


def eventually(condition: Callable[[], Any], what: Callable[[], str] | str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of the condition, made true by other threads or processes; fails at the deadline."""
    end_s = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(PERIOD_S)
