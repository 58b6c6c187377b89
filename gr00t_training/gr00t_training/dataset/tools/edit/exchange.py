# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""New folders that appear complete or not at all, and the exchange of a dataset for its successor.

A dataset is built in a hidden folder next to its final place and renamed to it. The next run removes what a killed run
left there. To change a dataset in place, its successor is built the same way and the two names are exchanged; the old
one is removed after that, never before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.tools.edit.layouts import copy_file
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import address_of
from gr00t_training.io.object_storage import WRITE_FIRST, refuse_remote

_RENAME_EXCHANGE = 2  # renameat2(2)
_AT_FDCWD = -100


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to build in; it becomes `path` when the block ends well and is removed when it does not.

    Raises:
        DatasetError: `path` is remote, exists and is not empty, cannot be written, or another run is building it.
    """
    refuse_remote(path, WRITE_FIRST)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path}: exists already; choose a new folder, or remove it first")
    with _staging(path) as staging:
        yield staging
        if path.is_dir():
            path.rmdir()
        os.rename(staging, path)


@contextlib.contextmanager
def successor(path: Path) -> Iterator[Path]:
    """Yield a folder to build the successor of the dataset `path` in; at the end it takes its place.

    Raises:
        DatasetError: it is in object storage, a recorder or another run is using the dataset, or nothing can be written
            next to it.
    """
    refuse_remote(address_of(path), "write a new dataset with --output, and gr00t_dataset copy it to a new prefix")
    path = path.resolve()  # a link to a dataset stays one
    with locked_for_writing(path), _staging(path) as staging:
        yield staging
        if (path / schema.STAGING).exists():  # unfinished episodes that may still be repaired
            shutil.copytree(path / schema.STAGING, staging / schema.STAGING, copy_function=_link_or_copy)
        exchange_folders(staging, path)


@contextlib.contextmanager
def _staging(path: Path) -> Iterator[Path]:
    path = path.absolute()
    staging = path.with_name(f".{path.name}.staging")
    lock_path = path.with_name(f".{path.name}.lock")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(lock_path, f"{path}: another run is writing it; wait for that one"):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                yield staging
                os.sync()  # before the rename that makes it count
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                lock_path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty where all went well
                    for folder in missing:
                        folder.rmdir()
    except OSError as error:
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = f", {shutil.disk_usage(path.parent).free // 2**20} MiB are free: make room"
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror or error}{free}); check path and disk"
        ) from error


@contextlib.contextmanager
def locked_for_writing(path: Path) -> Iterator[None]:
    """Hold the lock that a writer of the dataset holds.

    Raises:
        DatasetError: somebody holds it.
    """
    lock_path = schema.meta_file(path, f"{schema.STAGING}/lock")
    if not lock_path.exists():
        yield
        return
    with _lock(lock_path, f"{path}: a recorder has it open; stop that one first"):
        yield


@contextlib.contextmanager
def _lock(path: Path, message: str) -> Iterator[None]:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(message) from error
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise DatasetError(message)  # the holder of the lock removed it just now
        yield


def _link_or_copy(source: str, target: str) -> None:
    copy_file(Path(source), Path(target), links=True)


def exchange_folders(new: Path, old: Path) -> None:
    """Give two folders each other's name, at once where the file system can."""
    renameat2: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if not renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(old))
    # network file systems: for an instant the dataset is only there under its old name's backup
    backup = old.with_name(f".{old.name}.before")
    os.rename(old, backup)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(backup, old)
        raise
    os.rename(backup, new)
