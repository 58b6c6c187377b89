# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes as they are given on a command line: numbers and ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from gr00t_training.errors import DatasetError
from gr00t_training.io.text import printable

EPISODES_HELP = "Episodes as numbers and ranges: 0 3,5 7-9 12-."


def parse_episodes(texts: Iterable[str], indices: Sequence[int]) -> list[int]:
    """Read numbers and ranges (both ends included, `12-`: to the last) of the episodes `indices`.

    Raises:
        DatasetError: a text is not a number or range, or names an episode that is not there.
    """
    present, found = set(indices), set()
    for text in (part for one in texts for part in one.split(",") if part):
        matched = re.fullmatch(r"([0-9]{1,9})(-([0-9]{0,9}))?", text)
        if not matched:
            raise DatasetError(f"episodes '{printable(text)}': expected numbers and ranges like 0 3,5 7-9 12-")
        first = int(matched[1])
        last = first if matched[2] is None else int(matched[3]) if matched[3] else max(indices, default=-1)
        asked = {index for index in present if first <= index <= last}
        if not asked or len(asked) != last - first + 1:
            few = f"{min(indices)} to {max(indices)}" if indices else "none"
            raise DatasetError(f"episodes '{text}': not all of them are in the dataset, which has {few}")
        found |= asked
    return sorted(found)


def ranges_text(numbers: Iterable[int]) -> str:
    """Return numbers as ranges, the way that `parse_episodes` reads them: 0,2-5."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
