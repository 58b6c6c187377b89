# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Text tables: counts of every stream of every episode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_training.io.text import printable

MAX_CELL = 1000  # characters in a table
TABLE_HEADER = (
    "bag",
    "episode",
    "rows",
    "stream",
    "received",
    "used",
    "filled",
    "late",
    "dropped",
    "invalid",
    "largest age",
)


def format_table(reports: Sequence[BagReport]) -> str:
    """Return a text table with one line per episode and stream."""
    paths = [Path(report.bag) for report in reports]
    # folders often have the same name, such as run_1/bag and run_2/bag
    depth = 1 if len({path.name for path in paths}) == len(paths) else 2
    labels = ["/".join(path.parts[-depth:]) for path in paths]
    lines = (line for report, label in zip(reports, labels, strict=True) for line in _table_lines(report, label))
    return aligned([TABLE_HEADER, *lines])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text in columns; the last column is not padded."""
    lines = [[printable(cell, MAX_CELL) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _table_lines(report: BagReport, bag: str) -> Iterator[tuple[str, ...]]:
    if report.error:
        yield (bag, "-", "0", "refused", *[""] * 7)
    for episode in report.episodes:
        yield from _episode_lines(bag, episode)


def _episode_lines(bag: str, episode: EpisodeResult) -> Iterator[tuple[str, ...]]:
    if episode.report is None:
        yield (bag, "-", str(episode.num_frames), "discarded" if episode.is_discarded else "empty", *[""] * 7)
        return
    for name, counts in episode.report["streams"].items():
        numbers = [str(counts[key]) for key in ("received", "used", "filled", "late", "dropped", "invalid")]
        yield (bag, str(episode.index), str(episode.num_frames), name, *numbers, f"{counts['largest_age_s']:.3f} s")
