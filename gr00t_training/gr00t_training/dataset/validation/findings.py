# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a check has to say: one line with place, what was found, what was expected and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gr00t_training.errors import ConfigError, DatasetError

REPAIR = "run gr00t_dataset repair"
RECORD_AGAIN = "restore it from a copy or record the episode again"


@dataclass(frozen=True)
class Finding:
    """Something that a reader may stumble over."""

    is_fault: bool  # some supported reader fails or learns from wrong data; else a warning
    subject: str  # file, episode, column or key
    text: str  # what was found
    expected: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        expected = f", expected {self.expected}" if self.expected else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{'fault' if self.is_fault else 'warning'}: {self.subject}: {self.text}{expected}{remedy}"


def fault(subject: str, text: str, expected: str = "", remedy: str = "") -> Finding:
    """Return a finding that makes the dataset unfit for use."""
    return Finding(True, subject, text, expected, remedy)


def warning(subject: str, text: str, expected: str = "", remedy: str = "") -> Finding:
    """Return a finding that a dataset can live with."""
    return Finding(False, subject, text, expected, remedy)


def guarded(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Turn a check that stumbles into a finding: what it reads may have any form."""
    try:
        yield from findings
    except (DatasetError, ConfigError) as error:
        yield fault(subject, str(error))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        yield fault(subject, f"not of the expected form: {error!r}", remedy="restore the file from a copy")
