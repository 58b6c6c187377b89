# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Results of checks: one line each with place, found value, expected value and remedy."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from gr00t_training.dataset.metadata.model import READ_ERRORS
from gr00t_training.dataset.schema import INFO_FILE
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.text import printable

MAX_SHOWN = 2000  # [characters] of a line
REPAIR = "run gr00t_dataset repair"
NO_REPAIR = "gr00t_dataset repair cannot decide it; restore it from a copy"
STATS_AGAIN = "run gr00t_dataset stats"
ENCODE_AGAIN = "encode it again as h264, yuv420p"
RECORD_AGAIN = "restore it from a copy or record the episode again"


# what a repair has to fix, if a file holds several things that may be wrong
TABLE_ORDER = "order of meta/episodes"
TABLE_ROWS = "places of rows in meta/episodes"
TABLE_STATISTICS = "statistics in meta/episodes"
ALL_ROWS = "numbers of rows"  # whatever follows from them
UNFINISHED = "unfinished episodes"


@dataclass(frozen=True)
class Finding:
    """A fault or an oddity that a reader of the dataset may meet."""

    is_fault: bool  # some supported reader fails or learns from wrong data; else a warning
    subject: str  # file, episode, column or key
    text: str  # what was found
    expected: str = ""
    remedy: str = ""
    targets: tuple[str, ...] = ()  # files or parts of them of which a repair has to fix one; empty: the subject
    otherwise: str = ""  # remedy if repair cannot fix it

    def __str__(self) -> str:
        expected = f", expected {self.expected}" if self.expected else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        kind = "fault" if self.is_fault else "warning"
        return printable(f"{kind}: {self.subject}: {self.text}{expected}{remedy}", MAX_SHOWN)


fault = functools.partial(Finding, True)
warning = functools.partial(Finding, False)


def guarded(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Turn an exception of a check into a finding: what it reads may have any form."""
    try:
        yield from findings
    except READ_ERRORS as error:
        yield unreadable(subject, error)


def unreadable(subject: str, error: Exception) -> Finding:
    """Return the finding for something that cannot be read."""
    if isinstance(error, (DatasetError, ConfigError)):
        text = str(error)
        return fault(subject, text.partition(f"{subject}: ")[2] or text)  # the subject once
    return fault(subject, f"not of the expected form: {error!r}", remedy="restore the file from a copy")


def places_in(file: str) -> str:
    """Return what a repair has to fix if episodes have wrong places in a shared video."""
    return f"places in {file}"


def camera_of(feature: str) -> str:
    """Return what a repair has to fix if info.json describes a camera wrongly."""
    return f"{INFO_FILE} ({feature})"


def length_of(episode: int) -> str:
    """Return what a repair has to fix if the list has a wrong length of an episode."""
    return f"length of episode {episode}"


def statistics_of(episode: int, feature: str = "") -> str:
    """Return what a repair has to fix if v2.1 has wrong or no statistics of an episode, or of one column of it."""
    return f"statistics of episode {episode} {feature}"


def tasks_of(episode: int) -> str:
    """Return what a repair has to fix if the list has other tasks of an episode than its rows."""
    return f"tasks of episode {episode}"


def times_in(file: str) -> str:
    """Return what a repair has to fix if a data file has wrong timestamps."""
    return f"timestamps in {file}"
