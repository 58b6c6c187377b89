# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""JSON that somebody else wrote, read within limits: size, number of values and depth; duplicate keys are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gr00t_training.errors import Gr00tError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import printable

SIZE_LIMIT = 32 * 2**20  # [bytes]; statistics of a release with 30 embodiments have about 5 MB
VALUE_LIMIT = 2_000_000  # values, counted by their separators; an empty list in a text of 3 bytes takes 64 in memory


def read_json_object(path: Path, error: type[Gr00tError], remedy: str, limit: int = SIZE_LIMIT) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: file to read.
        error: type of the errors.
        remedy: ends the errors, such as "copy it again".
        limit: largest size [bytes].

    Raises:
        error: missing, not a regular file, too large, not UTF-8, not JSON, or not an object; names the file.
    """
    content = parse_json(read_text(path, error, limit), str(path), error, remedy)
    if not isinstance(content, dict):
        raise error(f"{path}: holds {type(content).__name__}, expected an object; {remedy}")
    return content


def parse_json(text: str, source: str, error: type[Gr00tError], remedy: str) -> Any:
    """Return the value of a JSON text; `source` names it in errors.

    Raises:
        error: not JSON, nested too deep, with more values than `VALUE_LIMIT` or a duplicate key.
    """
    count = text.count(",") + text.count("[") + text.count("{")
    if count > VALUE_LIMIT:
        raise error(f"{source}: has about {count} values (limit {VALUE_LIMIT}); is it the right file?")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as reason:
        raise error(f"{source}: nested too deep; {remedy}") from reason
    except ValueError as reason:  # also whole numbers of more than 4300 digits
        raise error(f"{source}: not JSON ({printable(str(reason))}); {remedy}") from reason


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key '{key}'")
            seen.add(key)
    return found
