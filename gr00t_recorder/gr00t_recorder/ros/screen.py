# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The operator's screen as text: state of the recorder, every stream, and the keys. No terminal and no ROS here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

SILENT_S = 3.0  # the status comes every second
LABEL_WIDTH = 9
KEYS = (
    ("s", "start"), ("k", "stop, keep"), ("d", "stop, discard"), ("x", "cancel"), ("r", "redo"),
    ("u", "take last back"), ("y", "success"), ("n", "failure"), ("v", "valid"), ("i", "invalid"), ("t", "task"),
    ("c", "note"), ("q", "quit"),
)  # fmt: skip
HEADINGS = ("stream", "state", "rate", "age", "used", "late", "dropped", "topic")
ALIGNED_LEFT = (0, 1, 7)


class Style(str, Enum):
    """How a line is to be shown; the value is its ANSI code."""

    PLAIN = "0"
    HEAD = "1"
    GOOD = "32"
    BUSY = "1;31"
    WARN = "33"
    BAD = "31"


class Line(NamedTuple):
    """One line of the screen."""

    text: str
    style: Style = Style.PLAIN


@dataclass(frozen=True, kw_only=True)
class StreamView:
    """One subscribed topic."""

    name: str
    topic: str
    state: str  # ok, waiting, stale, invalid
    reason: str  # why it is not ok
    rate_hz: float
    age_s: float | None
    used: int
    late: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class View:
    """State of a recorder, for the screen."""

    node: str
    state: str  # idle, recording, saving, failed
    reason: str
    warning: str
    dataset: str
    episode_index: int
    num_episodes: int
    task: str
    num_frames: int
    num_queued: int
    num_spilled: int
    progress: float
    duration_s: float
    success: bool | None
    valid: bool | None
    note: str
    can_redo: bool
    has_ended_by_itself: bool  # the last episode, which is kept until the operator discards it
    free_bytes: int
    left_s: float
    bag_path: str
    bag_messages: int
    bag_dropped: int
    streams: Sequence[StreamView]
    silent_s: float = 0.0  # since the status came


def render(
    view: View | None, width: int, height: int, *, message: str = "", prompt: str = "", has_keys: bool = True
) -> list[Line]:
    """Return at most `height` lines of at most `width` characters.

    Args:
        view: the recorder; None: it has not been heard of yet.
        width: columns of the terminal.
        height: rows of the terminal.
        message: answer to the last key.
        prompt: question and the text typed so far; empty: no question.
        has_keys: whether the keys are listed at the bottom.
    """
    top = list(_state_lines(view)) if view else [Line("waiting for the recorder's status", Style.WARN)]
    bottom = [Line(text) for text in _key_lines(width)] if has_keys else []
    if message:
        bottom.append(Line(message, Style.HEAD))
    if prompt:
        bottom.append(Line(f"{prompt}_", Style.HEAD))
    table = _table_lines(view, max(height - len(top) - len(bottom) - 2, 0)) if view else []
    lines = [*top, *([Line("")] if table else []), *table, *([Line("")] if bottom else []), *bottom]
    if len(lines) > height:  # the last lines have the question: cut the top
        lines = [*lines[: max(height - len(bottom), 0)], *bottom][:height]
    return [Line(_cut(line.text, width), line.style) for line in lines]


def paint(lines: Sequence[Line]) -> str:
    """Return the control sequences that draw the lines over the content of a terminal."""
    drawn = "\r\n".join(f"\x1b[{line.style.value}m{line.text}\x1b[0m\x1b[K" for line in lines)
    return f"\x1b[H{drawn}\x1b[J"


def _state_lines(view: View) -> Iterator[Line]:
    if view.silent_s >= SILENT_S:
        yield _labeled("recorder", f"{view.node}  SILENT for {view.silent_s:.0f} s", Style.BAD)
    else:
        styles = {"recording": Style.BUSY, "saving": Style.WARN, "failed": Style.BAD}
        yield _labeled(
            "recorder", f"{view.node}  {view.state.upper()}  {_doing(view)}", styles.get(view.state, Style.GOOD)
        )
    yield _labeled("task", view.task or "- (press t)", Style.PLAIN if view.task else Style.WARN)
    said = f"success {_answer(view.success)}  valid {_answer(view.valid)}"
    yield _labeled("marks", f"{said}  {view.note}".rstrip())
    room = f"{view.free_bytes / 1e9:.1f} GB free, room for {_long_time(view.left_s)}"
    style = Style.PLAIN if view.left_s > 300 else Style.BAD
    yield _labeled("dataset", f"{view.dataset}  {view.num_episodes} episodes  {room}", style)
    if view.num_queued:
        spilled = f", {view.num_spilled} of them on disk" if view.num_spilled else ""
        yield _labeled("encoder", f"{view.num_queued} rows wait{spilled}", Style.WARN if spilled else Style.PLAIN)
    if view.bag_path:
        style = Style.BAD if view.bag_dropped else Style.PLAIN
        yield _labeled("bag", f"{view.bag_path}  {view.bag_messages} messages, {view.bag_dropped} dropped", style)
    if view.warning:
        yield _labeled("warning", view.warning, Style.BAD)
    if view.has_ended_by_itself:
        ended = f"episode {view.episode_index - 1} ended by itself; [d] discards it, [k] keeps it"
        yield _labeled("ended", ended, Style.BAD)
    if view.reason:
        yield _labeled("reason", view.reason, Style.BAD)


def _doing(view: View) -> str:
    if view.state == "recording":
        return f"episode {view.episode_index}  {_clock(view.duration_s)}  {view.num_frames} rows"
    if view.state == "saving":
        return f"episode {view.episode_index}  {view.num_frames} rows written, {view.progress:.0%}"
    return f"next is episode {view.episode_index}"


def _table_lines(view: View, height: int) -> list[Line]:
    """Return the table of the streams, without reasons where they do not fit."""
    rows = [_cells(stream) for stream in view.streams]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    styles = {"ok": Style.PLAIN, "waiting": Style.WARN}
    lines = [Line(_row(HEADINGS, widths), Style.HEAD)]
    reasons = sum(1 for stream in view.streams if stream.reason)
    has_reasons = 1 + len(rows) + reasons <= height
    for stream, cells in zip(view.streams, rows, strict=True):
        style = styles.get(stream.state, Style.BAD)
        if stream.dropped and style is Style.PLAIN:
            style = Style.WARN
        lines.append(Line(_row(cells, widths), style))
        if stream.reason and has_reasons:
            lines.append(Line(f"{'':{widths[0]}}  {stream.reason}", style))
    return lines[:height]


def _cells(stream: StreamView) -> tuple[str, ...]:
    age = "-" if stream.age_s is None else f"{stream.age_s:.3f} s" if stream.age_s < 100 else f"{stream.age_s:.0f} s"
    counts = (str(stream.used), str(stream.late), str(stream.dropped))
    return (stream.name, stream.state, f"{stream.rate_hz:.1f} Hz", age, *counts, stream.topic)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if number in ALIGNED_LEFT else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _key_lines(width: int) -> list[str]:
    lines = [""]
    for key, meaning in KEYS:
        entry = f"[{key}] {meaning}"
        if lines[-1] and len(lines[-1]) + 2 + len(entry) > width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + entry
    return lines


def _labeled(label: str, text: str, style: Style = Style.PLAIN) -> Line:
    return Line(f"{label:{LABEL_WIDTH}}{text}", style)


def _answer(answer: bool | None) -> str:
    return {None: "-", True: "yes", False: "no"}[answer]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(seconds, 0.0), 60)
    return f"{minutes:.0f}:{math.floor(rest * 10) / 10:04.1f}"


def _long_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 1e6 else "weeks"


def _cut(text: str, width: int) -> str:
    # control characters in a task or a topic name must not reach the terminal
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= width else clean[: max(width - 1, 0)] + "~"[:width]


class LineEditor:
    """One line being typed."""

    def __init__(self, question: str, text: str = "") -> None:
        self.question = question
        self.text = text
        self.is_done = False
        self.is_given_up = False

    @property
    def prompt(self) -> str:
        """Text on the screen."""
        return f"{self.question}: {self.text}"

    def press(self, key: str) -> None:
        """Add a character: Return ends, Escape cancels, Backspace and Ctrl-U delete."""
        if key in "\r\n":
            self.is_done = True
        elif key == "\x1b":
            self.is_done = self.is_given_up = True
        elif key in "\x7f\b":
            self.text = self.text[:-1]
        elif key == "\x15":
            self.text = ""
        elif key.isprintable():
            self.text += key
