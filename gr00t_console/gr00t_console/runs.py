# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Curves of fine-tunes, read from the TensorBoard files that they write, while they run.

The files are records of length, checksum, message; of a message only step, time and plain numbers matter here
(TensorFlow's `record_writer` and `event.proto`). So a machine that shows a run needs neither torch nor TensorBoard.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_training.train.run_names import EVENT_FILES, LAST_STEP, LOG_FOLDER

MAX_POINTS = 600  # of a curve on the page
MAX_RECORD = 2**20  # [bytes]; numbers have a hundred
NEWEST = 20  # entries from which the time left follows
SILENT_S = 120.0  # a run whose newest entry is older, and older than ten entries take, has ended or hangs
_HEADER = struct.Struct("<QI")
_FOOTER = 4


@dataclass
class RunCurves:
    """What was read of a run so far."""

    path: Path
    offsets: dict[Path, int] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)  # tag -> step -> value; a resumed run replaces
    times_s: dict[int, float] = field(default_factory=dict)  # step -> time since 1970

    def read(self) -> None:
        """Read what was added since the last call."""
        for file in sorted((self.path / LOG_FOLDER).glob(EVENT_FILES)):
            with file.open("rb") as opened:
                opened.seek(self.offsets.get(file, 0))
                for time_s, step, values in _records(opened):
                    self.offsets[file] = opened.tell()
                    for tag, value in values:
                        self.curves.setdefault(tag, {})[step] = value
                    if values:
                        self.times_s[step] = time_s

    def section(self, now_s: float) -> dict[str, Any]:
        """Return curves and progress.

        Args:
            now_s: seconds since 1970.
        """
        steps = sorted(self.times_s)
        last = max((int(value) for value in self.curves.get(LAST_STEP, {}).values()), default=0)
        recent = steps[-NEWEST:]
        step_s = None
        if len(recent) > 1:
            step_s = (self.times_s[recent[-1]] - self.times_s[recent[0]]) / (recent[-1] - recent[0])
        entry_s = (self.times_s[recent[-1]] - self.times_s[recent[0]]) / (len(recent) - 1) if len(recent) > 1 else 0.0
        silence_s = now_s - self.times_s[steps[-1]] if steps else 0.0
        step = steps[-1] if steps else 0
        is_done = bool(last) and step >= last
        is_running = bool(steps) and not is_done and silence_s < max(SILENT_S, 10 * entry_s)
        return {
            "id": run_id(self.path),
            "name": self.path.name,
            "path": str(self.path),
            "step": step,
            "last_step": last or None,
            "is_running": is_running,
            "is_done": is_done,
            "silence_s": silence_s,
            "left_s": (last - step) * step_s if is_running and last and step_s else None,
            "curves": {tag: _thinned(curve) for tag, curve in sorted(self.curves.items()) if tag != LAST_STEP},
        }


class Runs:
    """The runs below some folders."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take folders of runs, or folders that contain some."""
        self._folders = [folder.resolve() for folder in folders]
        self._known: dict[Path, RunCurves] = {}

    def sections(self) -> list[dict[str, Any]]:
        """Return every run, the newest first."""
        found = []
        for folder in self._folders:
            children = [] if _is_run(folder) or not folder.is_dir() else sorted(folder.iterdir())
            for path in (folder, *children):
                if _is_run(path):
                    run = self._known.setdefault(path, RunCurves(path))
                    run.read()
                    found.append(run.section(time.time()))
        return sorted(found, key=lambda run: run["silence_s"])


def run_id(path: Path) -> str:
    """Return a name of a run that is no path."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]


def _is_run(path: Path) -> bool:
    return any((path / LOG_FOLDER).glob(EVENT_FILES))


def _thinned(curve: dict[int, float]) -> list[tuple[int, float]]:
    points = sorted(curve.items())
    stride = -(-len(points) // MAX_POINTS) or 1
    return points[::stride] if stride == 1 else [*points[:-1:stride], points[-1]]


def _records(opened: Any) -> Iterator[tuple[float, int, list[tuple[str, float]]]]:
    """Yield time, step and numbers of every complete record; stops at one that is being written, or damaged."""
    while True:
        start = opened.tell()
        header = opened.read(_HEADER.size)
        if len(header) < _HEADER.size:
            break
        length = _HEADER.unpack(header)[0]
        message = opened.read(length) if length <= MAX_RECORD else b""
        if len(message) < length or len(opened.read(_FOOTER)) < _FOOTER:
            break
        try:
            yield _event(message)
        except (ValueError, IndexError, struct.error):
            break
    opened.seek(start)


def _event(message: bytes) -> tuple[float, int, list[tuple[str, float]]]:
    time_s, step, values = 0.0, 0, []
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            time_s = struct.unpack("<d", value)[0]
        elif number == 2 and isinstance(value, int):
            step = value
        elif number == 5 and isinstance(value, bytes):
            values += [_number(each) for tag, each in _fields(value) if tag == 1 and isinstance(each, bytes)]
    return time_s, step, [(tag, value) for tag, value in values if tag and value is not None]


def _number(message: bytes) -> tuple[str, float | None]:
    tag, value = "", None
    for number, found in _fields(message):
        if number == 1 and isinstance(found, bytes):
            tag = found.decode("utf-8", "replace")
        elif number == 2 and isinstance(found, bytes) and len(found) == 4:
            value = struct.unpack("<f", found)[0]
    return tag, value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of the fields of a protocol buffer; fixed-width values as their bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
