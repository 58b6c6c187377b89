# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A bounded folder of files that are expensive to make, shared by the runs and processes of a user.

A file's name is a digest of everything its content depends on, so a file is never changed, only made once and removed.
It appears by one rename when it is complete. A lock on the unfinished file keeps two processes from making it twice;
the kernel frees the lock of a process that was killed, and the next one restarts the file. Every run lists the files
that it needs under a lock of its own: those are not removed while it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from gr00t_training.errors import ConfigError

GIB = 2**30
AUTO = "auto"  # instead of a folder: one under the user's cache folder
_PART, _LIST = ".part", ".list"


class CacheFolder:
    """The files of one cache; may be sent to other processes, which share its reservation."""

    def __init__(self, folder: Path, limit_gib: float, option: str) -> None:
        """Open a cache.

        Args:
            folder: is made if it does not exist.
            limit_gib: of all files together [GiB].
            option: that sets the limit, for messages.

        Raises:
            ConfigError: the folder cannot be made or written.
        """
        self.folder = folder
        self._limit_bytes = int(limit_gib * GIB)
        self._option = option
        self._reservations: list[_Reservation] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot hold a cache ({error.strerror}); choose another folder") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder}: cannot hold a cache (no permission to write); choose another folder")

    def find(self, name: str) -> Path | None:
        """Return the path of a complete file; None if it has to be made."""
        path = self.folder / name
        return path if path.is_file() else None

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Make room for files and keep them from being removed as long as this process lives or until `release`.

        Args:
            sizes: by name [bytes], of files that exist or will be made.

        Raises:
            ConfigError: they do not fit below the limit, next to those of other runs, or on the disk.
        """
        wanted = sum(sizes.values())
        if wanted > self._limit_bytes:
            raise ConfigError(
                f"{self.folder}: the dataset needs {_gib(wanted)} of cache, {self._option} is "
                f"{_gib(self._limit_bytes)}; raise it, or train without this cache"
            )
        with _locked(self.folder / ".lock"):
            others = self._listed_by_others()
            self._remove_unused(sizes, others)
            missing = sum(size for name, size in sizes.items() if not self.find(name))
            free = shutil.disk_usage(self.folder).free
            if missing > free:
                raise ConfigError(
                    f"{self.folder}: the dataset needs {_gib(missing)} more of cache, the disk has {_gib(free)} free; "
                    "free some, choose another folder, or train without this cache"
                )
            self._reservations.append(_Reservation(self.folder, sizes))
            for name in sizes:
                with contextlib.suppress(OSError):  # not made yet
                    os.utime(self.folder / name)

    def release(self) -> None:
        """Give up what this process reserved."""
        while self._reservations:
            self._reservations.pop().close()

    def begin(self, name: str, *, wait: bool = True) -> NewFile | None:
        """Start a file, with its lock held.

        Args:
            name: of the file.
            wait: for another process that is making it; False: return None.

        Returns:
            The file to write; None if it is complete already (or being made by another process).

        Raises:
            ConfigError: the folder cannot be written.
        """
        part = self.folder / (name + _PART)
        while not self.find(name):
            file = _open(part)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.close()
                return None
            if _is_at(file, part) and not self.find(name):
                file.truncate(0)
                return NewFile(file, part, self.folder / name)
            file.close()  # another process completed or gave up this one meanwhile
        return None

    def make(self, name: str, write: Callable[[BinaryIO], object]) -> Path:
        """Return the path of a file, made by `write` if it does not exist.

        Raises:
            ConfigError: it cannot be written.
        """
        new = self.begin(name)
        if new is not None:
            with new:
                write(new.file)
                new.complete()
        return self.folder / name

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reservations": []}

    def _listed_by_others(self) -> dict[str, int]:
        """Return the sizes of files that other living runs need; lists of dead ones are removed."""
        found: dict[str, int] = {}
        own = {reservation.path for reservation in self._reservations}
        for path in self.folder.glob(f"*{_LIST}"):
            if path in own:
                continue
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                if _try_lock(file):
                    path.unlink()
                    continue
                found.update(json.loads(file.read()))
        return found

    def _remove_unused(self, sizes: Mapping[str, int], others: Mapping[str, int]) -> None:
        """Remove the files that were not used for longest until the limit holds with `sizes` too."""
        for part in self.folder.glob(f"*{_PART}"):  # of processes that were killed
            with contextlib.suppress(FileNotFoundError), open(part, "r+b") as file:
                if _try_lock(file) and _is_at(file, part):
                    part.unlink()
        kept = {**others, **sizes}
        for reservation in self._reservations:
            kept.update(reservation.sizes)
        taken = sum(kept.values())
        if taken > self._limit_bytes:
            raise ConfigError(
                f"{self.folder}: the dataset needs {_gib(sum(sizes.values()))} of cache, next to "
                f"{_gib(taken - sum(sizes.values()))} that is in use, {self._option} is {_gib(self._limit_bytes)}; "
                "raise it, or train without this cache"
            )
        unused = []
        for entry in os.scandir(self.folder):
            is_file = entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
            if is_file and entry.name not in kept and not entry.name.endswith((_PART, _LIST)):
                unused.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        taken += sum(size for _, size, _ in unused)
        for _, size, path in sorted(unused):
            if taken <= self._limit_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            taken -= size


class NewFile:
    """A file that is being made; leaving the block without `complete` removes it."""

    def __init__(self, file: BinaryIO, part: Path, path: Path) -> None:
        self.file = file
        self._part = part
        self._path = path

    def complete(self) -> None:
        """Give the file its name; it is whole on the disk then.

        Raises:
            ConfigError: the disk is full.
        """
        with _explained(self._part):
            self.file.flush()
            os.fsync(self.file.fileno())
            os.replace(self._part, self._path)

    def cancel(self) -> None:
        """Remove the file; another process may write it again."""
        self.__exit__(None, None, None)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file.closed:
            return
        with contextlib.suppress(OSError):  # the disk is full, or the file has its name
            if _is_at(self.file, self._part):
                self._part.unlink()
        with contextlib.suppress(OSError):
            self.file.close()
        if isinstance(error, OSError):
            raise _unwritable(self._part, error) from error


class _Reservation:
    """The list of files that a living process needs."""

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        count = 0
        while (folder / f"{os.getpid()}-{count}{_LIST}").exists():
            count += 1
        self.path = folder / f"{os.getpid()}-{count}{_LIST}"
        self._file = _open(self.path)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file.write(json.dumps(self.sizes).encode())
        self._file.flush()

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()


def cache_folder(value: str, name: str) -> Path:
    """Return the folder that a setting names; for "auto" the folder `name` of this suite under the user's cache."""
    if value != AUTO:
        return Path(value).expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "gr00t" / name


def open_frame_cache(folder: str, limit_gib: float) -> CacheFolder:
    """Open the cache that the settings `frame_cache` and `frame_cache_gib` name; errors as for `CacheFolder`."""
    return CacheFolder(cache_folder(folder, "frames"), limit_gib, "frame_cache_gib")


def open_feature_cache(folder: str, limit_gib: float) -> CacheFolder:
    """Open the cache that the settings `feature_cache` and `feature_cache_gib` name; errors as for `CacheFolder`."""
    return CacheFolder(cache_folder(folder, "features"), limit_gib, "feature_cache_gib")


def _open(path: Path) -> BinaryIO:
    with _explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        return os.fdopen(descriptor, "r+b")


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still has that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path.parent}: the cache cannot be written ({error.strerror or error}); free some space, choose another "
        "folder, or train without this cache"
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
