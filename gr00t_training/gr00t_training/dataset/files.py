# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Changing the files of a dataset so that a reader, or a crash at any instant, finds each as it was or as it is to be.

New content is written into the hidden staging folder, synced, and moved to its place by a rename.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema


class DatasetFiles:
    """The folder of a dataset, seen by its one writer. Names are paths relative to it, with '/'."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def staged(self, name: str) -> Path:
        """Return where a file's new content is built before it is moved to `name`."""
        return self.root / schema.STAGING / (name.replace("/", "_") + schema.STAGED_SUFFIX)

    def stage_text(self, name: str, text: str) -> dict[str, Path]:
        """Build a text file; return what there is to move: nothing where it stands there already.

        Raises:
            OSError: it cannot be written.
        """
        current = self.root / name
        content = text.encode()
        if current.exists() and current.read_bytes() == content:
            return {}
        path = self.staged(name)
        path.write_bytes(content)
        sync_file(path)
        return {name: path}

    def stage_table(self, name: str, table: pa.Table) -> dict[str, Path]:
        """Build a parquet file; return what there is to move.

        Raises:
            OSError: it cannot be written.
        """
        path = self.staged(name)
        pq.write_table(table, path, compression="snappy")
        sync_file(path)
        return {name: path}

    def move(self, staged: Mapping[str, Path]) -> None:
        """Move staged files to their places, in order, each rename on disk before the next.

        Raises:
            OSError: one of them cannot be moved; those before it are.
        """
        for name, path in staged.items():
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            sync_folder(target.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that nothing refers to any more; those that are gone already do no harm.

        Raises:
            OSError: one of them cannot be removed.
        """
        folders = set()
        for name in names:
            path = self.root / name
            if path.exists():
                os.unlink(path)
                folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    def set_aside(self, name: str) -> Path:
        """Move a file that no metadata knows out of the readers' sight; return where it is.

        Raises:
            OSError: it cannot be moved.
        """
        target = self.ignored_path(name.replace("/", "_") + schema.STAGED_SUFFIX)
        os.rename(self.root / name, target)
        return target

    def ignored_path(self, name: str) -> Path:
        """Return an unused path for something that is set aside."""
        path, number = self.root / schema.IGNORED / name, 1
        while path.exists():
            path, number = path.with_name(f"{name}-{number}"), number + 1
        return path

    def find(self, *patterns: str) -> list[str]:
        """Return the names of the files that fit one of the patterns, sorted."""
        found = {path.relative_to(self.root).as_posix() for pattern in patterns for path in self.root.glob(pattern)}
        return sorted(name for name in found if (self.root / name).is_file())


class GrowingText:
    """A text file that grows by lines, at the cost of the new ones, and is always whole.

    Two files take turns: while readers have one, the lines it has more are added to the other, which then takes its
    name. Needs hard links; without them (FAT) the file is copied each time.
    """

    def __init__(self, files: DatasetFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._next = files.staged(name)  # becomes the file
        self._resting = self._next.with_name(self._next.name + ".rest")  # the file that readers had before
        self.reset()

    def reset(self) -> None:
        """Forget what the other file has; to be called when the file was written as a whole."""
        self._lag: str | None = None
        self._resting.unlink(missing_ok=True)

    def stage(self, lines: str) -> dict[str, Path]:
        """Build the file with `lines` added; return what there is to move.

        Raises:
            OSError: it cannot be written.
        """
        current = self._files.root / self._name
        if self._lag is not None and self._resting.exists() and not self._resting.samefile(current):
            os.replace(self._resting, self._next)
            missing = self._lag + lines
        else:
            self._next.unlink(missing_ok=True)
            if current.exists():
                shutil.copyfile(current, self._next)
            missing = lines
        with open(self._next, "ab") as file:
            file.write(missing.encode())
            file.flush()
            os.fsync(file.fileno())
        self._lag = None
        self._resting.unlink(missing_ok=True)
        try:
            os.link(current, self._resting)
            self._lag = lines
        except OSError:  # there is no file yet, or the file system has no links
            pass
        return {self._name: self._next}


def sync_file(path: Path) -> None:
    """Have a file's content on disk.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Have a folder's list of files on disk.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
