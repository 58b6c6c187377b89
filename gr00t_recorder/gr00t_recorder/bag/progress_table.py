# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A file with the state of every bag of a conversion, one line a bag; it is replaced while the conversion runs.

For thousands of bags: `column -t -s $'\\t' FILE`, `watch`, or a spreadsheet. The line of a refused bag has the cause.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.bag.sources import BagSource
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import replacing
from gr00t_training.io.text import printable

HEADER = ("bag", "state", "read", "episodes", "rows", "cause")
PERIOD_S = 1.0  # between two versions of the file; a finished bag is shown at once
MAX_CAUSE = 500  # [characters]


class ProgressTable:
    """The table of one conversion."""

    def __init__(self, path: Path, sources: Sequence[BagSource], todo: Collection[BagSource]) -> None:
        """Write the table: bags that are not in `todo` were converted before; DatasetError if that fails."""
        self._path, self._sources = path, sources
        self._number_of = {source.path: number for number, source in enumerate(sources)}
        waiting = {source.path for source in todo}
        self._lines = [
            [source.name, "waiting" if source.path in waiting else "converted before", "", "", "", ""]
            for source in sources
        ]
        self._written_s = 0.0
        self._write()

    def show(self, todo: Sequence[BagSource], shares: Sequence[float]) -> None:
        """Show how much of each bag is read."""
        for source, share in zip(todo, shares, strict=True):
            line = self._lines[self._number_of[source.path]]
            if line[1] in ("waiting", "converting") and share:
                line[1:3] = ["converting", f"{share:.0%}"]
        if time.monotonic() - self._written_s > PERIOD_S:
            self._write()

    def finish(self, source: BagSource, report: BagReport) -> None:
        """Show the result of a bag."""
        saved = [episode for episode in report.episodes if episode.is_saved]
        rows = sum(episode.num_frames for episode in saved)
        state = "refused" if report.error else "converted"
        cause = printable(report.error, MAX_CAUSE)
        self._lines[self._number_of[source.path]][1:] = [state, "100%", str(len(saved)), str(rows), cause]
        self._write()

    def _write(self) -> None:
        lines = [HEADER, *self._lines]
        text = "".join("\t".join(printable(cell) for cell in line) + "\n" for line in lines)
        try:
            with replacing(self._path) as file:
                file.write(text.encode("utf-8", "replace"))
        except OSError as error:
            raise DatasetError(f"{self._path}: cannot be written ({error.strerror}); check --progress") from error
        self._written_s = time.monotonic()
