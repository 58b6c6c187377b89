# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What both kinds of repair need of tables and of files that may be damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.tools.validate.metadata import TIME_TOLERANCE_S
from gr00t_training.dataset.tools.validate.videos import VideoFacts
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import TEXT_LIMIT, open_regular


def with_column(table: pa.Table, name: str, values: np.ndarray) -> pa.Table | None:
    """Return the table with other values in a column, or a new column; None if they are these already."""
    if name not in table.column_names:
        return table.append_column(name, pa.array(values))
    kind = table.schema.field(name).type
    current = table[name].to_numpy()
    if name == schema.TIMESTAMP_COLUMN:
        if np.abs(current - values).max(initial=0) <= TIME_TOLERANCE_S:
            return None
    elif np.array_equal(current, values):
        return None
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values).cast(kind, safe=False))


def numeric(table: pa.Table, name: str) -> np.ndarray | None:
    """Return a column of numbers, `(N,)` or `(N, D)`; None if it holds something else or nothing."""
    if name not in table.column_names:
        return None
    try:
        values = column_rows(table[name])
    except DatasetError:
        return None
    return values if values.dtype.kind in "fiu" and len(values) else None


def task_numbers(table: pa.Table | None) -> list[int]:
    """Return the task numbers of the rows, each once, in order of appearance."""
    if table is None or schema.TASK_COLUMN not in table.column_names:
        return []
    return list(dict.fromkeys(number for number in table[schema.TASK_COLUMN].to_pylist() if number is not None))


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if it is missing or damaged."""
    try:
        content = schema.read_json(path)
    except DatasetError:
        return None
    return content if isinstance(content, dict) else None


def whole_lines(path: Path, key: str = "episode_index") -> list[dict[str, Any]]:
    """Return the lines of a file that can be read and have `key`; the others are what has to be repaired."""
    return [entry for entry in _parsed(path) if isinstance(entry, dict) and isinstance(entry.get(key), int)]


def has_whole_lines(path: Path, key: str = "episode_index") -> bool:
    """Whether a file is there and all of its lines can be read."""
    if not path.is_file():
        return False
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    return bool(lines) and len(whole_lines(path, key)) == len(lines)


def _parsed(path: Path) -> Iterator[Any]:
    if not path.is_file():
        return
    with open_regular(path, DatasetError, TEXT_LIMIT) as file:
        text = file.read().decode(errors="replace")
    for line in text.split("\n"):
        try:
            yield schema.parse_json(line, str(path))
        except DatasetError:
            continue


def agree_text(path: Path, text: str) -> bool:
    """Whether a file says the same, whichever way it is laid out."""
    if path.suffix == ".jsonl":
        return path.is_file() and list(_parsed(path)) == [json.loads(line) for line in text.splitlines()]
    return read_object(path) == json.loads(text)


def agree(found: Any, expected: Any) -> bool:
    """Whether two nested structures are equal up to the rounding of other writers."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or set(found) != set(expected):
            return False
        return all(agree(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return False
        if expected and isinstance(expected[0], (dict, list)):
            return all(agree(a, b) for a, b in zip(found, expected, strict=True))
        if expected and isinstance(expected[0], (int, float)) and not isinstance(expected[0], bool):
            try:
                return bool(np.allclose(np.asarray(found, float), np.asarray(expected, float), rtol=1e-3, atol=1e-4))
            except (TypeError, ValueError):
                return False
    return found == expected


def complete_camera(feature: dict[str, Any], videos: list[VideoFacts], fps: float) -> None:
    """Describe a camera so that every reader takes it, as far as its videos agree."""
    names = feature.get("names") or []
    is_known = ("info" if "channels" in names else "video_info") in feature and "height" in names and "width" in names
    if not is_known and all(list(facts.size) == list(feature["shape"][:2]) for facts in videos):
        feature["names"] = ["height", "width", "channels"]
        height, width = videos[0].size
        feature["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": videos[0].codec,
            "video.pix_fmt": videos[0].pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(fps) if fps == int(fps) else fps,
            "video.channels": 3,
            "has_audio": False,
        }
    block = feature.get("info") or feature.get("video_info")
    if block is not None and len({facts.codec for facts in videos}) == 1:
        block["video.codec"] = videos[0].codec
