# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a repair would change, held in memory: `validate` reads what repair can fix, `commit` carries it out.

A plan never drops a row or a picture: files get new content, another name, or are set aside whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.tools.validate.findings import ALL_ROWS, NO_REPAIR, Finding, fault
from gr00t_training.dataset.tools.validate.videos import VideoFacts
from gr00t_training.embodiment import Embodiment

Map = Callable[..., Iterator[Any]]  # like `map`, possibly in several processes

CORRECT_FPS = "correct fps by hand, or restore the file; repair re-times nothing"


@dataclass
class Plan:
    """Changes to the files of a dataset; names are relative to it, with '/'."""

    root: Path
    notes: list[str] = field(default_factory=list)  # one line per change
    texts: dict[str, str] = field(default_factory=dict)  # name -> new content
    tables: dict[str, pa.Table] = field(default_factory=dict)  # name -> new content
    moves: dict[str, str] = field(default_factory=dict)  # target -> source, a whole file
    retimed: dict[str, int] = field(default_factory=dict)  # video -> frames, to be put at their times
    aside: list[str] = field(default_factory=list)  # files that belong to no episode
    refusals: list[Finding] = field(default_factory=list)  # what the repair cannot decide, with both sides
    fixed: set[str] = field(default_factory=set)  # targets of findings that the plan fixes
    hazards: list[Finding] = field(default_factory=list)  # links, pipes and similar files, for which nothing is planned
    relisted: list[int] = field(default_factory=list)  # episodes with complete files that were not listed
    # what was found out on the way
    scanned: dict[Path, VideoFacts] = field(default_factory=dict)  # videos that stay unchanged
    info: dict[str, Any] | None = None  # `info.json` as it will be; None: there is no finished episode
    embodiment: Embodiment | None = None
    # for the proof
    renumbered: dict[int, int] = field(default_factory=dict)  # episode -> its new number
    relabeled: set[str] = field(default_factory=set)  # data files in which damaged row numbers are replaced
    retimed_rows: set[str] = field(default_factory=set)  # data files in which timestamps are replaced
    retasked: set[str] = field(default_factory=set)  # data files in which task numbers are replaced
    respanned: set[tuple[int, str]] = field(default_factory=set)  # (episode, camera): its place in a video is replaced

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return not (self.texts or self.tables or self.moves or self.retimed or self.aside)

    def refuse(self, subject: str, text: str, remedy: str = NO_REPAIR) -> None:
        """Note what cannot be decided, once."""
        finding = fault(subject, text, remedy=remedy)
        if finding not in self.refusals:
            self.refusals.append(finding)

    def withdraw(self) -> None:
        """Change nothing; what was refused stays."""
        for planned in (self.notes, self.aside, self.texts, self.tables, self.moves, self.retimed, self.fixed):
            planned.clear()

    def write_text(self, name: str, text: str) -> None:
        """Give a text file other content."""
        self.notes.append(f"{name}: {'corrected' if (self.root / name).exists() else 'written'}")
        self.texts[name] = text
        self.fixed.add(name)

    def write_table(self, name: str, table: pa.Table, why: str) -> None:
        """Give a parquet file other content."""
        self.notes.append(f"{name}: {why}")
        self.tables[name] = table
        self.fixed |= {name, ALL_ROWS}

    def move(self, source: str, target: str, why: str = "") -> None:
        """Give a file another name."""
        self.notes.append(f"{source}: becomes {target}{why}")
        self.moves[target] = source
        self.fixed |= {source, target, ALL_ROWS}

    def retime(self, name: str, count: int) -> None:
        """Put the frames of a video at their times, by packets."""
        self.scanned.pop(self.root / name, None)
        self.notes.append(f"{name}: frames put at their times")
        self.retimed[name] = count
        self.fixed.add(name)

    def set_aside(self, name: str, why: str) -> None:
        """Move a file out of the readers' sight."""
        self.notes.append(f"{name}: {why}, set aside in {schema.IGNORED}")
        self.aside.append(name)
        self.fixed.add(name)
