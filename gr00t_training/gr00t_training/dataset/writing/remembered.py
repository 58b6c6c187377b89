# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Running totals of a dataset on disk, so that opening a large one need not read all its rows again.

They are stored with the change times of all folders that a writer changes, and sizes and times of files.
Where one of these is not as it was left (another tool, a truncated file, a restored backup), nothing is remembered and
everything is read and checked. The file is removed before a change begins and written after it: a kill in between is
followed by a full check too.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.statistics.running import RunningStatistics
from gr00t_training.dataset.writing.files import staging_folder
from gr00t_training.dataset.writing.totals import Totals
from gr00t_training.io.files import replacing

REMEMBERED_FILE = f"{schema.STAGING}/totals.npz"
_FORM = 2  # of the file; another number is not read
_ARRAYS = ("min", "max", "mean", "squares", "lowest", "highest")
# How many levels of folders are below these, in any version. Files of videos and depth are not looked at: opening a
# dataset does not read them, and one that is missing changes its folder.
_FOLDERS = {"data": 1, "videos": 2, "depth": 2, schema.META: 2}
_WITHOUT_FILES = ("/videos", "/depth")


_State = dict[str, list[int]]  # by folder: its time, folders and files in it, bytes and newest time of the files [ns]


class Remembered:
    """What is remembered of one dataset, for its only writer."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: _State = {}  # folders that this process has looked at

    def remember(self, totals: Totals) -> None:
        """Store totals that agree with the files of the dataset; where that fails, the next opening takes longer."""
        if not totals.num_episodes:
            return
        columns = {name: [column.tail, column.count] for name, column in totals.columns.items()}
        arrays = {
            f"{name}/{part}": getattr(column, part) for name, column in totals.columns.items() for part in _ARRAYS
        }
        numbers = [totals.num_episodes, totals.num_frames, list(totals.tasks), totals.described]
        with contextlib.suppress(OSError, TypeError, ValueError):
            self._known = _state(self._root, self._known)
            header = json.dumps({"form": _FORM, "state": self._known, "totals": numbers, "columns": columns})
            staging_folder(self._root)
            with replacing(self._root / REMEMBERED_FILE) as file:
                np.savez(file, header=np.frombuffer(header.encode(), np.uint8), **arrays)

    def forget(self) -> None:
        """Remove what is remembered, before a change of the dataset."""
        with contextlib.suppress(OSError):  # the change will be seen by its times
            (self._root / REMEMBERED_FILE).unlink(missing_ok=True)

    def recall(self) -> Totals | None:
        """Return the totals of the dataset; None if they are not stored, or files have changed since."""
        try:
            with np.load(self._root / REMEMBERED_FILE, allow_pickle=False) as stored:
                header = json.loads(stored["header"].tobytes())
                if header["form"] != _FORM or header["state"] != (state := _state(self._root, {})):
                    return None
                num_episodes, num_frames, tasks, described = header["totals"]
                columns = {
                    name: RunningStatistics(tail, count, *(stored[f"{name}/{part}"] for part in _ARRAYS))
                    for name, (tail, count) in header["columns"].items()
                }
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
            return None
        self._known = state
        return Totals(num_episodes, num_frames, tuple(tasks), columns, described)


def _state(root: Path, known: _State) -> _State:
    """Look at all folders; those without folders that have not changed since they were `known` need no second look."""
    found: _State = {}
    for name, depth in _FOLDERS.items():
        _look(root / name, depth, len(str(root)), known, found)
    return found


def _look(path: Path | str, depth: int, start: int, known: _State, found: _State) -> None:
    if not os.path.isdir(path):
        return
    name, time_ns = str(path)[start:], os.stat(path).st_mtime_ns
    if name in known and known[name][:2] == [time_ns, 0]:
        found[name] = known[name]
        return
    if not depth and name.startswith(_WITHOUT_FILES):
        found[name] = [time_ns, 0, 0, 0, 0]
        return
    with os.scandir(path) as entries:
        inside = list(entries)
    folders = [entry.path for entry in inside if entry.is_dir(follow_symlinks=False)]
    status = [entry.stat() for entry in inside if entry.is_file()]
    num_bytes, newest_ns = sum(each.st_size for each in status), max((each.st_mtime_ns for each in status), default=0)
    found[name] = [time_ns, len(folders), len(status), num_bytes, newest_ns]
    if depth:
        for folder in folders:
            _look(folder, depth - 1, start, known, found)
