# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of object storage on the local disk: a file is fetched when it is opened, and removed when there is no room.

A folder that is opened is listed once; the list gives its local place, `snapshots/NAME`, and says what each object is.
So a folder that changes gets another place, and a place never means two things. Files that are read first are there as
files; the others are links to `blobs`, a bounded `CacheFolder` of all folders, as in the cache of the Hugging Face hub.
Whoever opens a file holds it (`Held`); for local paths that costs the look at the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.cache_folder import REMOTE_LIMIT_VARIABLE, CacheFolder, open_remote_cache
from gr00t_training.io.files import file_names, read_text, replacing
from gr00t_training.io.object_storage import THREADS, ObjectState, RemoteFolder, remote_url
from gr00t_training.io.text import size_text

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_SNAPSHOTS, _BLOBS, _LIST = "snapshots", "blobs", ".json"
_LIST_LIMIT = 2**30  # [bytes]; 100 a file
_UNUSED_S = 30 * 24 * 3600  # after which the place of a folder is removed
_ATTEMPTS = 10  # to fetch a file that others remove at once


class Mirror:
    """A folder of object storage with its local place."""

    def __init__(self, root: Path, cache: CacheFolder) -> None:
        """Open the place `root` that `open_folder` made.

        Raises:
            DatasetError: its list is missing or damaged.
        """
        self.root = root
        self._cache = cache
        path = root.with_name(root.name + _LIST)
        try:
            content = json.loads(read_text(path, DatasetError, _LIST_LIMIT))
            self._remote = RemoteFolder(content["url"])
            self.objects = {name: ObjectState(*state) for name, state in content["objects"].items()}
            self._file = open(path, "rb")  # noqa: SIM115 - open as long as the mirror is
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path}: is damaged ({error}); remove it and start again") from error
        fcntl.flock(self._file, fcntl.LOCK_SH)  # the place is not removed while this is open
        os.utime(self._file.fileno())

    @property
    def url(self) -> str:
        """Address of the folder."""
        return self._remote.url

    def name_of(self, path: Path) -> str:
        """Return the name of the object behind a path."""
        return path.relative_to(self.root).as_posix()

    def state_of(self, path: Path) -> ObjectState | None:
        """Return the state of the object behind a path; None: there is none."""
        return self.objects.get(self.name_of(path))

    def digest_of(self, path: Path) -> str:
        """Return a name for the content of the object behind a path; DatasetError: there is none."""
        name = self.name_of(path)
        if name not in self.objects:
            raise DatasetError(f"{self._remote.address(name)}: no such object; restore it, or leave its episode out")
        identity = [self._remote.address(name), *_plain(self.objects[name])]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def is_kept(self, path: Path) -> bool:
        """Whether a file is one of those that are read first, which are never removed."""
        return path.is_file() and not path.is_symlink()

    def hold(self, path: Path) -> BinaryIO:
        """Fetch a file, if it is not there, and open it: it stays while it is open.

        Raises:
            DatasetError: the object is missing or changed, or cannot be fetched.
            ConfigError: the cache has no room or cannot be written.
        """
        blob = self.digest_of(path)
        name = self.name_of(path)
        for _ in range(_ATTEMPTS):
            held = self._cache.hold(blob)
            if held is not None:
                self._link(path, blob)
                return held
            new = self._cache.begin(blob)
            if new is not None:
                with new:
                    self._cache.make_room(new, self.objects[name].size)
                    self._remote.download(name, self.objects[name], new.file)
                    new.complete()
        raise ConfigError(
            f"{self._cache.folder}: files are removed as soon as they come; raise {REMOTE_LIMIT_VARIABLE}"
        )

    def fetch(self, path: Path) -> None:
        """Fetch a file, if it is not there; errors as `hold`."""
        self.hold(path).close()

    @contextlib.contextmanager
    def changes(self) -> Iterator[Path]:
        """Yield an empty local folder; when the block ends well, its files replace the objects of their names.

        Each object is replaced at once, so that a reader sees the old or the new one, also if the process is killed.

        Raises:
            DatasetError: an object of the folder was changed since it was opened, then none is replaced; or one cannot
                be written, and then others may be new.
        """
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.root.parent) as folder:
            yield Path(folder)
            objects = self._remote.list()
            names = {*objects, *self.objects}
            changed = [
                name for name in names if name not in objects or not objects[name].is_same(self.objects.get(name))
            ]
            if changed:
                raise DatasetError(
                    f"{self._remote.address(min(changed))}: changed since the dataset was opened; nothing was written, "
                    "start again"
                )
            with ThreadPoolExecutor(THREADS) as pool:  # a signal does not cut an upload off in a thread
                for done in [
                    pool.submit(self._remote.upload, Path(folder) / name, name)
                    for name in file_names(Path(folder), DatasetError)
                ]:
                    done.result()

    def remove(self, name: str) -> None:
        """Remove an object; errors as `RemoteFolder.remove`."""
        self._remote.remove(name)

    def _link(self, path: Path, blob: str) -> None:
        if path.is_symlink():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.symlink_to(self._cache.folder / blob)
        except OSError as error:
            raise ConfigError(f"{path}: the cache cannot be written ({error.strerror}); free some space") from error


def open_folder(path: str | Path, first: str = "meta/") -> Path:
    """Return the local folder of `path`: itself, or the place of a folder of object storage, which is listed each time.

    Args:
        path: folder, or `s3://bucket/prefix`.
        first: start of the names of files that are fetched at once and stay.

    Raises:
        DatasetError: the folder is empty or cannot be listed, or a file cannot be fetched.
        ConfigError: the cache cannot be written.
    """
    url = remote_url(path)
    if url is None:
        return Path(path)
    cache, remote = open_remote_cache(), RemoteFolder(url)
    objects = remote.list()
    if not objects:
        raise DatasetError(f"{url}: no object there; check bucket and prefix, and AWS_ENDPOINT_URL")
    content = json.dumps({"url": url, "objects": {name: _plain(state) for name, state in objects.items()}})
    snapshots = cache.folder.with_name(_SNAPSHOTS)
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", url.removeprefix("s3://"))[-60:].lstrip("-.")
    root = snapshots / f"{readable}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    try:
        snapshots.mkdir(exist_ok=True)
        if not root.exists():
            _remove_unused(snapshots, readable)
            _make_place(root, remote, {n: state for n, state in objects.items() if n.startswith(first)})
        if not root.with_name(root.name + _LIST).exists():
            with replacing(root.with_name(root.name + _LIST), f".{os.getpid()}.new") as file:
                file.write(content.encode())
    except OSError as error:
        raise ConfigError(f"{root}: the cache cannot be written ({error.strerror}); free some space") from error
    mirror = mirror_of(root)
    assert mirror is not None
    return root


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror that a file or folder is of; None for other paths."""
    parts = path.parts
    if _SNAPSHOTS not in parts:
        return None
    roots = (Path(*parts[: place + 1]) for place in range(1, len(parts)) if parts[place - 1] == _SNAPSHOTS)
    return next((mirror for mirror in map(_mirror_at, roots) if mirror is not None), None)


class Held:
    """A file that stays on the disk until `close`; for local files nothing."""

    def __init__(self, path: Path) -> None:
        """Fetch a file of a mirror, if it is not there; errors as `Mirror.hold`."""
        mirror = mirror_of(path)
        self._file = None if mirror is None or mirror.is_kept(path) else mirror.hold(path)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def exists(path: Path) -> bool:
    """Whether a file is there, or can be fetched."""
    mirror = mirror_of(path)
    return path.exists() if mirror is None else mirror.state_of(path) is not None


def size_of(path: Path) -> int | None:
    """Return the size of a file that is there or can be fetched [bytes]; None: there is none."""
    mirror = mirror_of(path)
    if mirror is None:
        return path.stat().st_size if path.exists() else None
    state = mirror.state_of(path)
    return None if state is None else state.size


def address_of(path: Path) -> str:
    """Return what a user calls a path: the URL of a mirror, else the path."""
    mirror = mirror_of(path)
    if mirror is None:
        return str(path)
    return mirror.url if path == mirror.root else f"{mirror.url}/{mirror.name_of(path)}"


def fetch_all(root: Path, paths: Iterable[Path]) -> None:
    """Fetch files of a mirror side by side that would be opened one after another soon; of a local folder nothing.

    What cannot be fetched is left for whoever opens it, and nothing is fetched that would fill half of the cache.
    """
    mirror = mirror_of(root)
    if mirror is None:
        return
    sizes = {path: size for path in paths if (size := size_of(path)) is not None}
    if sum(sizes.values()) > open_remote_cache().limit_bytes / 2:
        return
    logger.info("%s: fetching %d files (%s)", mirror.url, len(sizes), size_text(sum(sizes.values())))
    with ThreadPoolExecutor(THREADS) as pool:
        for path in sizes:
            pool.submit(mirror.fetch, path)


def fetched_ahead(items: Iterable[Item], files: Callable[[Item], Iterable[Path]], count: int) -> Iterator[Item]:
    """Yield items; while one is used, the files of the next ones are fetched, as far as half of the cache holds them.

    Args:
        items: what is used one after the other.
        files: item -> its files; those that are in no mirror are there.
        count: how many items to look ahead.
    """
    waiting: deque[tuple[Item, list[Path]]] = deque()  # and files that were asked for
    users, num_bytes, limit = Counter[Path](), 0, -1.0
    pool = ThreadPoolExecutor(THREADS)
    try:
        for item in items:
            asked = []
            for path in dict.fromkeys(files(item)):
                mirror = mirror_of(path)
                if mirror is None:
                    continue
                limit = open_remote_cache().limit_bytes / 2 if limit < 0 else limit
                size = 0 if users[path] else size_of(path) or 0
                if num_bytes + size <= limit:
                    num_bytes += size
                    users[path] += 1
                    asked.append(path)
                    pool.submit(mirror.fetch, path)  # what fails is tried again, and reported, by whoever reads it
            waiting.append((item, asked))
            if len(waiting) > count:
                first, asked = waiting.popleft()
                yield first
                users.subtract(asked)
                num_bytes -= sum(size_of(path) or 0 for path in asked if not users[path])
        for first, _ in waiting:
            yield first
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _make_place(root: Path, remote: RemoteFolder, objects: Mapping[str, ObjectState]) -> None:
    """Make the folder of a mirror with the files that are read first; it appears when it is complete."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root.parent) as folder:

        def fetch(name: str) -> None:
            path = Path(folder) / "place" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                remote.download(name, objects[name], file)

        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(fetch, name) for name in objects]:
                try:
                    done.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        (Path(folder) / "place").mkdir(exist_ok=True)
        try:
            os.rename(Path(folder) / "place", root)
        except OSError:
            if not root.exists():  # else another process was faster
                raise


def _remove_unused(snapshots: Path, readable: str) -> None:
    """Remove places that nobody has open: older ones of the same folder, and those that were not used for long."""
    for folder in snapshots.glob(".new-*"):  # of processes that were killed
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(folder)
    for path in snapshots.glob(f"*{_LIST}"):
        is_same = path.name.rpartition("-")[0] == readable
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if is_same or time.time() - os.fstat(file.fileno()).st_mtime > _UNUSED_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)


@functools.lru_cache(maxsize=64)
def _mirror_at(root: Path) -> Mirror | None:
    if not root.with_name(root.name + _LIST).exists():
        return None  # of the cache of the Hugging Face hub
    return Mirror(root, open_remote_cache())


def _plain(state: ObjectState) -> list[int | str]:
    return [state.size, state.modified_s, *([state.tag] if state.tag else [])]
