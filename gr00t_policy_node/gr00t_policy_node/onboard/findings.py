# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a check finds, with the file and line to correct."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How much a finding matters."""

    FAULT = "fault"  # recorder or policy node would refuse it, or hold
    WARNING = "warning"  # it works, but probably not as wanted
    NOTE = "note"  # a person must look


@dataclass(frozen=True)
class Finding:
    """One finding."""

    level: Level
    file: str
    line: int  # from 1; 0: the file as a whole
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.level.value}: {self.text}"
