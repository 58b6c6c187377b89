# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows of an unfinished episode, on disk as they come, so that a kill loses none that were added.

One JSON object a line: first what the episode is, then a row each. Numbers are written so that they read back equal.
The file is handed to the system after each row but not synced: it survives the end of the process, and of the machine
up to what the system had written. A last line that was cut is left out when reading.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.embodiment import Embodiment, to_mapping
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.settings import parse_settings
from gr00t_training.types import Frame

JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True)
class Journal:
    """What the journal of an episode holds."""

    index: int  # that the episode would have got
    task: str
    embodiment: Embodiment
    codec: str  # of the videos
    version: str  # of the dataset
    frames: list[Frame]  # without images


class JournalWriter:
    """Appends rows to a journal."""

    def __init__(self, path: Path, *, index: int, task: str, embodiment: Embodiment, codec: str, version: str) -> None:
        """Start the journal of an episode.

        Raises:
            OSError: it cannot be written.
        """
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        head = {"episode_index": index, "task": task, "codec": codec, "version": version}
        self._write({**head, "embodiment": to_mapping(embodiment)})

    def add(self, frame: Frame) -> None:
        """Append a row.

        Raises:
            OSError: it cannot be written.
        """
        row: dict[str, Any] = {
            "tick_ns": frame.tick_ns,
            "state": _lists(frame.state),
            "action": _lists(frame.action),
            "task": frame.task,
        }
        if frame.ages_ns:
            row["ages_ns"] = dict(frame.ages_ns)
        if frame.filled:
            row["filled"] = sorted(frame.filled)
        self._write(row)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_journal(path: Path) -> Journal:
    """Read what a journal holds, up to the first line that is not whole.

    Raises:
        DatasetError: missing, or not even its first line is whole.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")
        head = json.loads(first)
        embodiment = parse_settings(Embodiment, json.dumps(head["embodiment"]), str(path))
        journal = Journal(head["episode_index"], head["task"], embodiment, head["codec"], head["version"], [])
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); no row can be recovered") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise DatasetError(f"{path}: its first line is damaged ({error}); no row can be recovered") from error
    for line in lines[:-1]:  # behind the last line break is nothing, or a line that was cut
        try:
            journal.frames.append(_parse_frame(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            break
    return journal


def _parse_frame(row: Mapping[str, Any]) -> Frame:
    return Frame(
        tick_ns=row["tick_ns"],
        state={key: np.array(values, np.float64) for key, values in row["state"].items()},
        action={key: np.array(values, np.float64) for key, values in row["action"].items()},
        images={},
        task=row["task"],
        ages_ns=row.get("ages_ns", {}),
        filled=frozenset(row.get("filled", ())),
    )


def _lists(values: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    return {key: np.asarray(value).tolist() for key, value in values.items()}
