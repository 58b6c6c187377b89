# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read files from other tools: regular files only, of bounded size, inside their folder.

A name that comes from a file (a path template, a key, a list of storage files) is joined to its folder here and nowhere
else, so that `..`, absolute paths and symbolic links are refused in one place. Errors are raised as the type that the
caller passes, since a dataset, a bag and a checkpoint have their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import printable

TEXT_LIMIT = 256 * 2**20  # [bytes]; episodes_stats.jsonl of 100,000 episodes has about 200 MB
LFS_PREFIX = b"version https://git-lfs.github.com/spec/"
LFS_LIMIT = 1024  # [bytes]; pointer files are smaller by specification
NAME_LIMIT = 255  # [bytes] of one part of a path, as file systems have it
PATH_LIMIT = 2048  # [bytes] of a path below its root


def check_name(name: str, error: type[Gr00tError], subject: str) -> PurePosixPath:
    """Return a relative path from a file as a path below some root; `subject` names it in errors.

    Raises:
        error: empty, absolute, with `..`, a backslash, a drive or a control character, or too long for a file system.
    """
    is_plain = isinstance(name, str) and name.strip() and name.isprintable() and "\\" not in name
    path = PurePosixPath(name if is_plain else "/")
    if path.is_absolute() or ".." in path.parts or path.parts == () or ":" in path.parts[0]:
        raise error(f"{subject}: path {printable(repr(name))} leaves its folder; expected a relative path without '..'")
    if len(os.fsencode(name)) > PATH_LIMIT or any(len(os.fsencode(part)) > NAME_LIMIT for part in path.parts):
        raise error(
            f"{subject}: path {printable(repr(name))} is too long (limit {NAME_LIMIT} bytes a part); shorten it"
        )
    return path


def inside(root: Path, name: str, error: type[Gr00tError], subject: str = "") -> Path:
    """Return `root / name` for a name that comes from a file; the path need not exist yet.

    `root` itself may be a link, since the user named it. No part below it may be one, except the links that the
    Hugging Face cache makes from `snapshots/<revision>` into its own `blobs` folder.

    Raises:
        error: the name leaves `root`, or a part of the path is a symbolic link; names both.
    """
    subject = subject or str(root)
    path = root
    for part in check_name(name, error, subject).parts:
        path = path / part
        if path.is_symlink() and not _is_cache_link(root, path):
            raise error(
                f"{subject}: {printable(str(path))} is a symbolic link to {printable(os.readlink(path))}; "
                "links inside are not followed, put the file itself there"
            )
    return path


def open_regular(path: Path, error: type[Gr00tError], limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading; never blocks on a pipe and never reads a device.

    Args:
        path: file to open.
        error: type of the errors.
        limit: largest size [bytes]; None: any.

    Raises:
        error: missing, not a regular file, larger than `limit`, or a Git LFS pointer; names the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); check the path") from reason
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: is a {file_kind(status.st_mode)}, expected a regular file")
        if limit is not None and status.st_size > limit:
            raise error(f"{path}: has {status.st_size} bytes (limit {limit}); is it the right file?")
        if 0 < status.st_size <= LFS_LIMIT and os.pread(descriptor, len(LFS_PREFIX), 0) == LFS_PREFIX:
            raise error(lfs_message(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: Path, error: type[Gr00tError], limit: int | None = None) -> None:
    """Check what `open_regular` checks, for files that a library opens by name."""
    open_regular(path, error, limit).close()


def read_text(path: Path, error: type[Gr00tError], limit: int = TEXT_LIMIT) -> str:
    """Read a UTF-8 file; raises as `open_regular` does, also for bytes that are not UTF-8."""
    with open_regular(path, error, limit) as file:
        content = file.read(limit + 1)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: byte {reason.start} is not UTF-8; restore it from a copy") from reason


def check_links(root: Path, error: type[Gr00tError], skipped: Collection[str] = ()) -> None:
    """Check that nothing below `root` is a symbolic link, except those of the Hugging Face cache.

    Call it before a whole folder is copied or uploaded: a link would include a file from outside.

    Args:
        root: folder; may be a link itself, since the user named it.
        error: type of the errors.
        skipped: folders directly below `root` that are not inspected.

    Raises:
        error: a link; names it and its target.
    """
    for _ in file_names(root, error, skipped):
        pass


def file_names(root: Path, error: type[Gr00tError], skipped: Collection[str] = ()) -> Iterator[str]:
    """Yield the names of all files below `root`, relative to it and with '/'; checks what `check_links` checks."""
    for entry in walk(root, skipped):
        if entry.is_symlink() and not _is_cache_link(root, Path(entry.path)):
            raise error(
                f"{printable(entry.path)}: is a symbolic link to {printable(os.readlink(entry.path))}; links inside "
                "are not followed, put the file itself there or remove the link"
            )
        if entry.is_file():
            yield entry.path[len(str(root)) + 1 :]


def walk(root: Path, skipped: Collection[str] = ()) -> Iterator[os.DirEntry[str]]:
    """Yield everything below `root` that is not a folder, in order of names; links are not followed.

    Folders that cannot be read are left out, and those directly below `root` that `skipped` names.
    """
    try:
        with os.scandir(root) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name in skipped:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
        else:
            yield entry


def open_new(path: Path) -> BinaryIO:
    """Open one of our files for writing; a file or link of that name is removed first, so that no link is followed.

    Raises:
        OSError: it cannot be made, or a folder or device has its name.
    """
    if path.is_symlink() or path.is_file():
        os.unlink(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "w+b")


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[BinaryIO]:
    """Yield a new file that takes the name `path` when the block ends well, and is removed when it does not.

    Raises:
        OSError: it cannot be written.
    """
    staged = path.with_name(path.name + suffix)
    try:
        with open_new(staged) as file:
            yield file
        os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staged)
        raise


def copy_regular(source: Path, target: Path, error: type[Gr00tError], limit: int = TEXT_LIMIT) -> None:
    """Copy a file that `open_regular` opens; a sparse file of terabytes does not fill the disk."""
    with open_regular(source, error, limit) as old, open(target, "wb") as new:
        shutil.copyfileobj(old, new)


def is_lfs_pointer(path: Path) -> bool:
    """Whether a regular file is a Git LFS pointer instead of its content; False where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) or path.stat().st_size > LFS_LIMIT:
            return False
        with open(path, "rb") as file:
            return file.read(len(LFS_PREFIX)) == LFS_PREFIX
    except OSError:
        return False


def lfs_message(path: Path) -> str:
    """Return the message about a Git LFS pointer."""
    return f"{path}: is a Git LFS pointer, not the file; run 'git lfs pull' in the clone"


def file_kind(mode: int) -> str:
    """Return the name of a file's kind from its `st_mode`."""
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFLNK: "symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def _is_cache_link(root: Path, path: Path) -> bool:
    """Whether a link is one of the Hugging Face cache: models--x/snapshots/<revision>/... -> models--x/blobs/<hash>."""
    snapshot = root.resolve()
    for folder in (snapshot, *snapshot.parents):
        if folder.parent.name == "snapshots":
            return path.resolve().parent == folder.parent.parent / "blobs"
    return False
