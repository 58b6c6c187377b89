# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Atomic file replacement in a dataset: a reader or a crash sees either the old or the new version of a file.

New content is written into the hidden staging folder, synced, and renamed to its place.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import inside, open_new


class DatasetFiles:
    """The folder of a dataset, as its single writer uses it. Names are paths relative to it, with '/'."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def staged(self, name: str) -> Path:
        """Return the path where new content for `name` is written before the move; its folder exists.

        Raises:
            OSError: the staging folder cannot be created.
            DatasetError: it is a symbolic link.
        """
        path = staging_folder(self.root) / (name.replace("/", "_") + schema.STAGED_SUFFIX)
        if path.is_symlink():  # writing would go where it points to
            path.unlink()
        return path

    def path(self, name: str) -> Path:
        """Return the path of a file of the dataset; DatasetError if a symbolic link is part of it."""
        return inside(self.root, name, DatasetError)

    def stage_text(self, name: str, text: str) -> dict[str, Path]:
        """Write the new content of a text file; return the staged file, or nothing if the content is unchanged.

        Raises:
            OSError: it cannot be written.
        """
        current = self.root / name
        content = text.encode()
        if current.is_file() and current.read_bytes() == content:
            return {}
        path = self.staged(name)
        with open_new(path) as file:
            file.write(content)
        sync_file(path)
        return {name: path}

    def stage_lines(self, name: str, lines: Iterable[str]) -> dict[str, Path]:
        """Write the new content of a text file line by line; return as `stage_text` does.

        Raises:
            OSError: it cannot be written.
        """
        path, current = self.staged(name), self.root / name
        with open_new(path) as file:
            for line in lines:
                file.write(line.encode())
        if current.is_file() and filecmp.cmp(path, current, shallow=False):
            path.unlink()
            return {}
        sync_file(path)
        return {name: path}

    def stage_appended(self, name: str, lines: str) -> dict[str, Path]:
        """Write a text file with `lines` after its present content; return the staged file.

        Raises:
            OSError: it cannot be written.
        """
        path, current = self.staged(name), self.root / name
        with open_new(path) as new:
            if current.exists():
                with open(current, "rb") as old:
                    shutil.copyfileobj(old, new)
            new.write(lines.encode())
        sync_file(path)
        return {name: path}

    def append(self, name: str, lines: str) -> None:
        """Append complete lines to a text file in place, for files that are too large to write again for each line.

        A power cut may leave a part of a line (`cut_torn_line`); where writing fails, none is left.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path(name)
        with open(path, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            separator = b"" if file.read(1) in (b"", b"\n") else b"\n"
            try:
                file.write(separator + lines.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, end)
                raise

    def cut_torn_line(self, name: str) -> None:
        """Remove the last line of a file with JSON lines if only a part of it was written.

        Raises:
            OSError: the file cannot be changed.
        """
        path = self.path(name)
        with open(path, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            start = max(end - schema.JSON_LIMIT, 0)
            file.seek(start)
            before, newline, line = file.read().rpartition(b"\n")
            try:
                json.loads(line or b"0")
            except ValueError:
                file.truncate(start + len(before) + len(newline))

    def stage_table(self, name: str, table: pa.Table) -> dict[str, Path]:
        """Write a parquet file; return the staged file.

        Raises:
            OSError: it cannot be written.
        """
        path = self.staged(name)
        with open_new(path) as file:
            pq.write_table(table, file, compression="snappy")
        sync_file(path)
        return {name: path}

    def move(self, staged: Mapping[str, Path]) -> None:
        """Move staged files to their places, in order; each rename is on disk before the next.

        Raises:
            OSError: one of them cannot be moved; the files before it are moved.
        """
        for name, path in staged.items():
            target = self.path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            sync_folder(target.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that are no longer referenced; missing files are ignored.

        Raises:
            OSError: one of them cannot be removed.
        """
        folders = set()
        for name in names:
            path = self.path(name)
            if path.exists():
                os.unlink(path)
                folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    def set_aside(self, name: str) -> Path:
        """Move a file that no metadata refers to into the hidden folder; return its new path.

        Raises:
            OSError: it cannot be moved.
        """
        target = self.ignored_path(name.replace("/", "_") + schema.STAGED_SUFFIX)
        os.rename(self.path(name), target)
        return target

    def ignored_path(self, name: str, taken: Collection[Path] = ()) -> Path:
        """Return an unused path in the hidden folder, not one of `taken`; its folder exists."""
        staging_folder(self.root)
        path, number = self.root / schema.IGNORED / name, 1
        path.parent.mkdir(exist_ok=True)
        while os.path.lexists(path) or path in taken:
            path, number = path.with_name(f"{name}-{number}"), number + 1
        return path

    def find(self, *patterns: str) -> list[str]:
        """Return the names of the files that match one of the patterns, sorted."""
        found = {path.relative_to(self.root).as_posix() for pattern in patterns for path in self.root.glob(pattern)}
        return sorted(name for name in found if (self.root / name).is_file())


def staging_folder(root: Path) -> Path:
    """Return the staging folder of a dataset; create it if missing.

    Raises:
        OSError: it cannot be created.
        DatasetError: it is a symbolic link.
    """
    path = root / schema.STAGING
    if path.is_symlink():
        raise DatasetError(f"{path}: is a symbolic link to {os.readlink(path)}; remove it")
    path.mkdir(exist_ok=True)
    return path


def sync_file(path: Path) -> None:
    """Sync the content of a file to disk.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync the entries of a folder to disk.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
