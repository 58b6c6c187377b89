# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Running totals of a dataset on disk, so that opening a large one need not read all its rows again.

They are stored with the change times of all folders that a writer changes, and sizes and times of the files in them.
Where one of these is not as it was left (another tool, a truncated file, a restored backup), nothing is remembered and
everything is read and checked. The file is removed before a change begins and written after it: a kill in between is
followed by a full check too.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.statistics.running import RunningStatistics
from gr00t_training.dataset.writing.files import staging_folder
from gr00t_training.dataset.writing.totals import Totals
from gr00t_training.io.files import replacing

REMEMBERED_FILE = f"{schema.STAGING}/totals.npz"
_FORM = 1  # of the file; another number is not read
_ARRAYS = ("min", "max", "mean", "squares", "lowest", "highest")
# How many levels of folders are below these, in any version.
_FOLDERS = {"data": 1, "videos": 2, "depth": 2, schema.META: 2}


def remember(root: Path, totals: Totals) -> None:
    """Store totals that agree with the files of the dataset; where that fails, the next opening takes longer."""
    if not totals.num_episodes:
        return
    columns = {name: [column.tail, column.count] for name, column in totals.columns.items()}
    arrays = {f"{name}/{part}": getattr(column, part) for name, column in totals.columns.items() for part in _ARRAYS}
    numbers = [totals.num_episodes, totals.num_frames, list(totals.tasks), totals.described]
    with contextlib.suppress(OSError, TypeError, ValueError):
        header = json.dumps({"form": _FORM, "state": _state(root), "totals": numbers, "columns": columns})
        staging_folder(root)
        with replacing(root / REMEMBERED_FILE) as file:
            np.savez(file, header=np.frombuffer(header.encode(), np.uint8), **arrays)


def forget(root: Path) -> None:
    """Remove what is remembered, before a change of the dataset."""
    with contextlib.suppress(OSError):  # the change will be seen by its times
        (root / REMEMBERED_FILE).unlink(missing_ok=True)


def recall(root: Path) -> Totals | None:
    """Return the totals of a dataset; None if they are not stored, or files have changed since."""
    try:
        with np.load(root / REMEMBERED_FILE, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            if header["form"] != _FORM or header["state"] != _state(root):
                return None
            num_episodes, num_frames, tasks, described = header["totals"]
            columns = {
                name: RunningStatistics(tail, count, *(stored[f"{name}/{part}"] for part in _ARRAYS))
                for name, (tail, count) in header["columns"].items()
            }
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        return None
    return Totals(num_episodes, num_frames, tuple(tasks), columns, described)


def _state(root: Path) -> Mapping[str, Any]:
    """Return of each folder its time, and number, bytes and newest time of the files in it; times in nanoseconds."""
    found: dict[str, Any] = {}
    for name, depth in _FOLDERS.items():
        for folder, files in _folders(root / name, depth):
            status = [entry.stat() for entry in files]
            found[folder[len(str(root)) :]] = [
                os.stat(folder).st_mtime_ns,
                len(status),
                sum(each.st_size for each in status),
                max((each.st_mtime_ns for each in status), default=0),
            ]
    return found


def _folders(path: Path | str, depth: int) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield a folder and those below it with their files, down to a depth."""
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        inside = list(entries)
    yield str(path), [entry for entry in inside if entry.is_file()]
    if depth:
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                yield from _folders(entry.path, depth - 1)
