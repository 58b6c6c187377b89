# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The recording quality of an episode: age of every sample in every row, filled rows, the operator's marks.

One JSON file per episode in `meta/quality`, which readers of LeRobot and GR00T ignore. Its members are the operator's
marks, the recorder's report (counts per stream) and what `QualityRecorder` gathers about rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.errors import DatasetError

SUCCESS, VALID, NOTE = "success", "valid", "note"  # members of a report or quality file with the operator's marks


@dataclass(frozen=True)
class Marks:
    """The operator's verdict on an episode; None if there is none."""

    is_success: bool | None = None
    is_valid: bool | None = None
    note: str = ""

    @classmethod
    def of_report(cls, report: Mapping[str, Any]) -> Marks:
        """Read the marks of a report or quality file.

        Raises:
            DatasetError: a mark has the wrong type.
        """
        marks = cls(report.get(SUCCESS), report.get(VALID), report.get(NOTE) or "")
        for name, value in ((SUCCESS, marks.is_success), (VALID, marks.is_valid)):
            if value is not None and not isinstance(value, bool):
                raise DatasetError(f"mark '{name}' is {value!r}, expected true, false or null")
        if not isinstance(marks.note, str):
            raise DatasetError(f"mark '{NOTE}' is {marks.note!r}, expected a text")
        return marks

    def updated(self, other: Marks) -> Marks:
        """Return these marks, updated with those that `other` sets."""
        return Marks(
            self.is_success if other.is_success is None else other.is_success,
            self.is_valid if other.is_valid is None else other.is_valid,
            other.note or self.note,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the marks as members of a quality file."""
        return {SUCCESS: self.is_success, VALID: self.is_valid, NOTE: self.note}


@dataclass(frozen=True, eq=False)
class EpisodeQuality:
    """Recording quality of every row of an episode, by stream ("state.arm", "video.front"), and of the whole."""

    start_ns: int  # tick of the first row on the robot's clock
    ages_ns: Mapping[str, np.ndarray]  # (N,) int64: tick - stamp of the sample; 0 where there was none
    filled: Mapping[str, np.ndarray]  # (N,) bool: the sample was older than the stream's tolerance
    valid: Mapping[str, np.ndarray]  # (N,) bool: there was a sample, and not one filled in
    marks: Marks
    report: Mapping[str, Any]  # what the recorder counted


class QualityRecorder:
    """Collects the quality of an episode's rows while frames arrive."""

    def __init__(self) -> None:
        self._ages_ns: dict[str, list[int | None]] = {}
        self._filled: dict[str, list[int]] = {}
        self._num_rows = 0

    def add(self, ages_ns: Mapping[str, int], filled: frozenset[str]) -> None:
        """Add the next row."""
        for stream in ages_ns:
            if stream not in self._ages_ns:
                self._ages_ns[stream] = [None] * self._num_rows
        for stream, ages in self._ages_ns.items():
            ages.append(ages_ns.get(stream))
        for stream in filled:
            self._filled.setdefault(stream, []).append(self._num_rows)
        self._num_rows += 1

    def to_mapping(self) -> dict[str, Any]:
        """Return the members of the quality file that describe rows."""
        summary = {}
        for stream, ages in self._ages_ns.items():
            known = [age for age in ages if age is not None]
            summary[stream] = {"mean": round(sum(known) / len(known)), "max": max(known)}
        return {"filled_rows": self._filled, "ages_ns": summary, "row_ages_ns": self._ages_ns}


def quality_text(quality: Mapping[str, Any]) -> str:
    """Format a quality file, one member per line: readable, and compact where there is a number per row.

    Raises:
        TypeError, ValueError: a value is not plain JSON, or not finite.
    """
    members = (
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in quality.items()
    )
    return "{\n" + ",\n".join(members) + "\n}\n"


def parse_quality(members: Mapping[str, Any], num_rows: int, subject: str) -> EpisodeQuality:
    """Parse the quality file of an episode with `num_rows` rows; `subject` names the file in errors.

    Raises:
        DatasetError: damaged, or with a different number of rows.
    """
    try:
        ages: dict[str, np.ndarray] = {}
        filled: dict[str, np.ndarray] = {}
        valid: dict[str, np.ndarray] = {}
        rows_filled: Mapping[str, list[int]] = members.get("filled_rows", {})
        rows_ages: Mapping[str, list[int | None]] = members.get("row_ages_ns", {})
        for stream in dict.fromkeys([*rows_ages, *rows_filled]):
            known = rows_ages.get(stream, [None] * num_rows)
            if len(known) != num_rows:
                raise DatasetError(f"{subject}: {len(known)} rows of {stream}, the episode has {num_rows}")
            ages[stream] = np.array([age or 0 for age in known], np.int64)
            filled[stream] = np.zeros(num_rows, bool)
            filled[stream][rows_filled.get(stream, [])] = True
            valid[stream] = np.array([age is not None for age in known], bool) & ~filled[stream]
        report, start_ns = members.get("report") or {}, members.get("start_ns", 0)
        streams = report.get("streams") or {}
        if not isinstance(start_ns, int) or not all(isinstance(counts, Mapping) for counts in streams.values()):
            raise DatasetError(f"{subject}: start_ns or report.streams has an unexpected form; restore it from a copy")
        return EpisodeQuality(start_ns, ages, filled, valid, Marks.of_report(members), report)
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise DatasetError(f"{subject}: unexpected form ({error!r}); restore it from a copy") from error
