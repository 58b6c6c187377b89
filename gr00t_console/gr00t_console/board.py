# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The newest value of everything that the page shows, and who still has to get it.

A browser gets what has changed since it was last sent something. So a slow one misses values in between and never makes
another browser, or the robot, wait; memory is one value per section, however many browsers there are.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any


class Board:
    """Sections with a text or bytes each; `post` may be called from any thread, everything else in the event loop."""

    def __init__(self) -> None:
        """Begin empty; values that come before `start` are kept."""
        self._values: dict[str, tuple[int, Any]] = {}
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: set[BoardReader] = set()

    def start(self) -> None:
        """Belong to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def post(self, section: str, value: Any) -> None:
        """Replace the value of a section: bytes, or what `plain` makes JSON of."""
        content = value if isinstance(value, bytes) else json.dumps(plain(value), separators=(",", ":"))
        loop = self._loop
        if loop is None:
            self._set(section, content)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._set, section, content)

    def drop(self, section: str) -> None:
        """Forget a section; in the event loop."""
        self._values.pop(section, None)

    def reader(self) -> BoardReader:
        """Return a reader that has seen nothing yet."""
        reader = BoardReader(self)
        self._readers.add(reader)
        return reader

    @property
    def num_readers(self) -> int:
        """How many browsers listen."""
        return len(self._readers)

    def _set(self, section: str, content: Any) -> None:
        self._number += 1
        self._values[section] = (self._number, content)
        for reader in self._readers:
            reader.changed.set()


class BoardReader:
    """What one browser has been sent."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen = 0
        self.changed = asyncio.Event()
        self.changed.set()

    def take(self) -> dict[str, Any]:
        """Return the sections that have changed since the last call."""
        self.changed.clear()
        fresh = {name: value for name, (number, value) in self._board._values.items() if number > self._seen}
        self._seen = self._board._number
        return fresh

    def close(self) -> None:
        """Stop listening."""
        self._board._readers.discard(self)


def plain(value: Any) -> Any:
    """Return a value as JSON can have it: numbers that are not finite become null, others keep six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) and abs(value) < 1e6 else _long(value)
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def _long(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None  # times since 1970 need more digits
