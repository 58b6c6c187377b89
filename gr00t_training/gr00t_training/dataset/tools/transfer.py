# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Copy a whole dataset to object storage, or from there to a new folder; what an interrupted copy did is not repeated.

To object storage, data go first and `meta/info.json` last: until then nobody takes the copy for a dataset. A file
counts as copied if the object has its size and an ETag made of its content. To a folder, files are collected next to
it, each with the time of its object, and the folder gets its name when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.model import read_metadata
from gr00t_training.dataset.tools.edit.exchange import locked_for_writing
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import file_names, walk
from gr00t_training.io.object_storage import RemoteFolder, remote_url

Result = TypeVar("Result")

THREADS = 8  # that copy; each has a block in memory
_NOT_COPIED = (schema.STAGING, ".cache", ".git")


@dataclass(frozen=True)
class CopyReport:
    """What was copied."""

    num_files: int  # of the dataset
    num_bytes: int
    num_skipped: int  # that an earlier copy had done


def copy_dataset(source: str | Path, target: str | Path) -> CopyReport:
    """Copy a dataset; one of the two is `s3://bucket/prefix`, the other a folder.

    Raises:
        DatasetError: both are folders or both remote; not a dataset, open in a recorder, or damaged; the target holds
            something else; or the storage refuses.
    """
    url, target_url = remote_url(source), remote_url(target)
    if (url is None) == (target_url is None):
        raise DatasetError(
            f"{source} to {target}: expected one folder and one s3://bucket/prefix; copy folders with cp -r"
        )
    return _upload(Path(source), RemoteFolder(target_url)) if target_url else _download(RemoteFolder(url or ""), target)


def _upload(root: Path, remote: RemoteFolder) -> CopyReport:
    read_metadata(root)
    with locked_for_writing(root):
        names = [name for name in file_names(root, DatasetError, _NOT_COPIED) if _is_copied(name)]
        there = remote.list()
        others = sorted(set(there) - set(names))
        if others:
            raise DatasetError(
                f"{remote.url}: holds {len(others)} objects that {root} does not have, such as {others[0]}; choose an "
                "empty prefix, or remove them"
            )
        status = {name: os.stat(root / name) for name in names}

        same_size = [name for name in names if name in there and there[name].size == status[name].st_size]
        done = _each(lambda name: remote.holds(root / name, name), same_size)
        is_done = dict(zip(same_size, done, strict=True))
        todo = [name for name in names if not is_done.get(name)]
        steps = [
            [name for name in todo if not name.startswith(f"{schema.META}/")],
            [name for name in todo if name.startswith(f"{schema.META}/") and name != schema.INFO_FILE],
            [name for name in todo if name == schema.INFO_FILE],
        ]
        for step in steps:
            _each(lambda name: remote.upload(root / name, name), step)
    return CopyReport(len(names), sum(each.st_size for each in status.values()), len(names) - len(todo))


def _download(remote: RemoteFolder, target: str | Path) -> CopyReport:
    target = Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{target}: exists already; choose a new folder, or remove it first")
    objects = remote.list()
    if schema.INFO_FILE not in objects:
        raise DatasetError(f"{remote.url}: is no dataset ({schema.INFO_FILE} is missing); check the address")
    objects = {name: state for name, state in objects.items() if _is_copied(name)}
    folder = target.with_name(f".{target.name}.download")

    def is_done(name: str) -> bool:
        if objects[name].tag:  # a young object, which its time does not tell from another one
            return False
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(folder / name)
            return (found.st_size, int(found.st_mtime)) == (objects[name].size, objects[name].modified_s)
        return False

    def download(name: str) -> None:
        path, part = folder / name, folder / f"{name}{schema.STAGED_SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            remote.download(name, objects[name], file)
        os.utime(part, (objects[name].modified_s, objects[name].modified_s))
        os.replace(part, path)

    todo = [name for name in objects if not is_done(name)]
    try:
        _each(download, todo)
        for entry in walk(folder):  # of an earlier copy, before the dataset changed
            if entry.path[len(str(folder)) + 1 :] not in objects:
                os.unlink(entry.path)
        os.sync()  # before the rename that makes it count
        if target.is_dir():
            target.rmdir()
        os.rename(folder, target)
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be written ({error.strerror or error}; {shutil.disk_usage(target.parent).free // 2**20} "
            "MiB are free); make room and copy again, which continues"
        ) from error
    return CopyReport(len(objects), sum(state.size for state in objects.values()), len(objects) - len(todo))


def _is_copied(name: str) -> bool:
    """Whether a file is part of the dataset: no hidden one, no staged one of an interrupted run."""
    return not any(part.startswith(".") for part in name.split("/")) and not name.endswith(schema.STAGED_SUFFIX)


def _each(act: Callable[[str], Result], names: Iterable[str]) -> list[Result]:
    """Return what `act` returns for each name, called in several threads; the first error ends it."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return [future.result() for future in [pool.submit(act, name) for name in names]]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
