# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A bounded folder of files that are expensive to make, shared by the runs and processes of a user.

A file's name is a digest of everything its content depends on, so a file is never changed, only made once and removed.
It appears by one rename when it is complete. A lock on the unfinished file keeps two processes from making it twice;
the kernel frees the lock of a process that was killed, and the next one restarts the file. A run that knows which files
it needs lists them under a lock of its own: those are not removed while it lives. One that does not know it (`hold`,
`make_room`) keeps each file while it is open.
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
REMOTE_VARIABLE = "GR00T_REMOTE_CACHE"  # of the environment: folder for files from object storage
REMOTE_LIMIT_VARIABLE = "GR00T_REMOTE_CACHE_GIB"
REMOTE_LIMIT_GIB = 100.0
_PART, _LIST = ".part", ".list"
_TOTAL = ".total"  # file with the bytes of all files, so that not every new one costs a look at all
_KEPT_SHARE = 0.9  # of the limit, down to which files are removed at once


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
        self.limit_bytes = int(limit_gib * GIB)
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
        if wanted > self.limit_bytes:
            raise ConfigError(
                f"{self.folder}: the dataset needs {_gib(wanted)} of cache, {self._option} is "
                f"{_gib(self.limit_bytes)}; raise it, or train without this cache"
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

    def hold(self, name: str) -> BinaryIO | None:
        """Open a complete file; it is not removed while it is open. None: it has to be made."""
        path = self.folder / name
        try:
            file = open(path, "rb")  # noqa: SIM115 - whoever holds it closes it
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if not _is_at(file, path):  # removed meanwhile
            file.close()
            return None
        os.utime(file.fileno())
        return file

    def make_room(self, new: NewFile, size: int) -> None:
        """Let a file that is being made grow to `size` bytes; files that were not used for longest are removed.

        Not together with `reserve`, whose files are not known here.

        Raises:
            ConfigError: those that are in use take too much.
        """
        with _locked(self.folder / ".lock"):
            total = self._total()
            if total is None or total + size > self.limit_bytes:
                total = self._remove_oldest(size)
            if total + size > self.limit_bytes:
                raise ConfigError(
                    f"{self.folder}: the cache is full of files in use ({_gib(total)}, and {_gib(size)} are needed), "
                    f"{self._option} is {_gib(self.limit_bytes)}; raise it, or use fewer processes"
                )
            new.file.truncate(size)  # counted from now on
            (self.folder / _TOTAL).write_text(str(total + size))

    def _total(self) -> int | None:
        try:
            return int((self.folder / _TOTAL).read_text())
        except (OSError, ValueError):  # none yet, or damaged
            return None

    def _remove_oldest(self, size: int) -> int:
        """Remove files that nobody holds until `size` more bytes fit; return the bytes of those that are left."""
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # given up or completed meanwhile
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    found.append((entry.stat().st_mtime, entry.stat().st_size, Path(entry.path)))
        total = sum(num_bytes for _, num_bytes, _ in found)
        if total + size <= self.limit_bytes:
            return total
        for _, num_bytes, path in sorted(found):
            if total + size <= _KEPT_SHARE * self.limit_bytes:
                break
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                if _try_lock(file):  # also the unfinished file of a process that was killed
                    path.unlink()
                    total -= num_bytes
        return total

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
        if taken > self.limit_bytes:
            raise ConfigError(
                f"{self.folder}: the dataset needs {_gib(sum(sizes.values()))} of cache, next to "
                f"{_gib(taken - sum(sizes.values()))} that is in use, {self._option} is {_gib(self.limit_bytes)}; "
                "raise it, or train without this cache"
            )
        unused = []
        for entry in os.scandir(self.folder):
            is_file = entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
            if is_file and entry.name not in kept and not entry.name.endswith((_PART, _LIST)):
                unused.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        taken += sum(size for _, size, _ in unused)
        for _, size, path in sorted(unused):
            if taken <= self.limit_bytes:
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


def open_remote_cache() -> CacheFolder:
    """Open the cache of files from object storage, which the environment may place and limit.

    Raises:
        ConfigError: as for `CacheFolder`, or the limit is not a number.
    """
    text = os.environ.get(REMOTE_LIMIT_VARIABLE) or str(REMOTE_LIMIT_GIB)
    try:
        limit_gib = float(text)
    except ValueError:
        limit_gib = -1.0
    if not 0 < limit_gib < float("inf"):
        raise ConfigError(f"{REMOTE_LIMIT_VARIABLE} is '{text:.40}', expected a number of GiB above 0; correct it")
    folder = cache_folder(os.environ.get(REMOTE_VARIABLE) or AUTO, "remote").absolute()
    return CacheFolder(folder / "blobs", limit_gib, REMOTE_LIMIT_VARIABLE)


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
