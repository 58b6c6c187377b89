# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Journal of an unfinished episode: every added row is on disk at once, so that a kill loses none.

One JSON object per line: a header, then the rows. Numbers read back equal. The file is flushed after each row but not
synced: it survives the end of the process, and a power failure up to what the system had written. A truncated last line
is ignored.
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
    """Content of the journal of an episode."""

    index: int  # of the episode, had it been finished
    task: str
    embodiment: Embodiment
    codec: str  # of the videos
    version: str  # of the dataset
    frames: list[Frame]  # without images
    has_source: bool = False  # whether rows say who commanded


class JournalWriter:
    """Appends rows to a journal."""

    def __init__(
        self,
        path: Path,
        *,
        index: int,
        task: str,
        embodiment: Embodiment,
        codec: str,
        version: str,
        has_source: bool = False,
    ) -> None:
        """Start the journal of an episode.

        Raises:
            OSError: it cannot be written.
        """
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        head: dict[str, Any] = {"episode_index": index, "task": task, "codec": codec, "version": version}
        if has_source:
            head["has_source"] = True
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
        if frame.command_source is not None:
            row["command_source"] = frame.command_source
        self._write(row)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_journal(path: Path) -> Journal:
    """Read a journal up to the first incomplete line.

    Raises:
        DatasetError: missing, or its first line is incomplete.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")
        head = json.loads(first)
        embodiment = parse_settings(Embodiment, json.dumps(head["embodiment"]), str(path))
        journal = Journal(
            index=head["episode_index"],
            task=head["task"],
            embodiment=embodiment,
            codec=head["codec"],
            version=head["version"],
            frames=[],
            has_source=bool(head.get("has_source")),
        )
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); no row can be recovered") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise DatasetError(f"{path}: its first line is damaged ({error}); no row can be recovered") from error
    for line in lines[:-1]:  # after the last line break is nothing, or a truncated line
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
        command_source=row.get("command_source"),
    )


def _lists(values: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    return {key: np.asarray(value).tolist() for key, value in values.items()}
