# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the bags of a command line, those already converted, and the task texts of each."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_recorder.bag.folder import METADATA_FILE, STORAGE_SUFFIXES, is_one_bag, natural_order, storage_names
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.remote import RemoteBag, find_remote_bags
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.files import open_regular, read_text
from gr00t_training.io.object_storage import remote_url

DIGEST_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class BagSource:
    """One bag to convert."""

    path: Path
    tasks: tuple[str, ...] = ()  # texts of its episodes in order; the last one is also for all later episodes
    remote: RemoteBag | None = None  # where it is in object storage; `path` is then no path of this machine

    @property
    def name(self) -> str:
        """What users call it: the path as given, or the URL."""
        return self.remote.url if self.remote else str(self.path)

    @property
    def place(self) -> str:
        """Where it is: the absolute path, or the URL."""
        return self.remote.url if self.remote else str(self.path.resolve())

    @contextlib.contextmanager
    def fetched(self, folder: Path) -> Iterator[Path]:
        """Yield the path of the bag here; one in object storage is in `folder` until the block ends.

        Raises:
            DatasetError: it cannot be downloaded.
        """
        if self.remote is None:
            yield self.path
            return
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield self.remote.download(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def num_bytes(self) -> int:
        """Size of its storage files; 0 if they cannot be read."""
        if self.remote:
            return self.remote.num_bytes
        try:
            return sum(file.stat().st_size for file in _files(self.path))
        except (OSError, DatasetError):
            return 0

    def digest(self) -> str:
        """Return the SHA-256 of the contents of its storage files, in order; empty if one cannot be read."""
        if self.remote:
            with tempfile.TemporaryDirectory() as folder, self.fetched(Path(folder) / "bag") as path:
                return BagSource(path).digest()
        found = hashlib.sha256()
        try:
            for path in _files(self.path):
                with open_regular(path, DatasetError) as file:
                    while content := file.read(DIGEST_BLOCK_BYTES):
                        found.update(content)
        except DatasetError:  # a damaged bag of which only a part is taken
            return ""
        return found.hexdigest()

    def is_moved(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry of an earlier conversion is this bag at a place where it is no longer: equal contents."""
        digest, path = entry.get("sha256"), entry.get("bag")
        if not digest or not isinstance(path, str) or entry.get("bytes") != self.num_bytes or Path(path).exists():
            return False
        return self.digest() == digest

    def is_same(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry of an earlier conversion is this bag: same place, size and time of the first message."""
        if entry.get("bag") != self.place or entry.get("bytes") != self.num_bytes:
            return False
        if self.remote:  # not downloaded for it
            return entry.get("modified_s") == self.remote.modified_s
        try:
            with Bag(self.path, allow_partial=True) as bag:
                return bag.start_ns() == entry.get("start_ns")
        except DatasetError:
            return False  # it is tried again, and refused with its name


def find_bags(paths: Sequence[Path]) -> list[Path | RemoteBag]:
    """Return the bags at these paths in order, without duplicates; other folders are searched.

    Paths may be addresses in object storage. A folder with `metadata.yaml` is a bag. In other folders, files NAME_0,
    NAME_1, ... are one bag if there are no others, else each file is a bag; every ROS 1 file is a bag.

    Raises:
        ConfigError: a path does not exist or holds no bag.
        DatasetError: object storage refuses.
    """
    found: dict[Path | str, Path | RemoteBag] = {}
    for path in paths:
        url = remote_url(path)
        if url is not None:
            found |= {bag.url: bag for bag in find_remote_bags(url)}
            continue
        if not path.exists():
            raise ConfigError(f"{path}: no such bag; expected a folder or a file ({', '.join(STORAGE_SUFFIXES)})")
        bags = list(_bags_in(path, set())) if path.is_dir() else [path]
        if not bags:
            raise ConfigError(
                f"{path}: holds no bag: no {METADATA_FILE} and no storage file ({', '.join(STORAGE_SUFFIXES)})"
            )
        for bag in bags:
            found.setdefault(bag.resolve(), bag)
    return list(found.values())


def _bags_in(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:  # a link to a folder above
        return
    seen.add(folder.resolve())
    if (folder / METADATA_FILE).is_file():
        yield folder
        return
    try:
        files = _files(folder)
        folders = sorted(
            (entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: natural_order(entry.name)
        )
    except (OSError, DatasetError):
        yield folder  # reading it gives the reason
        return
    if is_one_bag([file.name for file in files]):
        yield folder
    else:
        yield from files
    for entry in folders:
        if not entry.name.startswith("."):
            yield from _bags_in(entry, seen)


def _files(path: Path) -> list[Path]:
    return [path / name for name in storage_names(path)] if path.is_dir() else [path]


def load_tasks(path: Path) -> dict[str, tuple[str, ...]]:
    """Read task texts by bag.

    The file is CSV with the columns `bag` and `task`, one line per bag, or several where its episodes differ; or JSON,
    an object of bag -> task or bag -> list of tasks. Bags are named by path, relative to the file, or by name.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text = read_text(path, ConfigError).removeprefix("\ufeff")
        if path.suffix.lower() == ".json":
            pairs = [
                (bag, str(task))
                for bag, tasks in json.loads(text).items()
                for task in (tasks if isinstance(tasks, list) else [tasks])
            ]
        else:
            pairs = [(row["bag"].strip(), (row["task"] or "").strip()) for row in csv.DictReader(text.splitlines())]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, csv.Error) as error:
        raise ConfigError(
            f"{path}: cannot be read as task texts ({error}); expected CSV with the columns bag,task or a JSON object"
        ) from error
    found: dict[str, tuple[str, ...]] = {}
    for bag, task in pairs:
        if not task:
            raise ConfigError(f"{path}: bag '{bag}' has an empty task; describe what the robot does")
        found[bag] = (*found.get(bag, ()), task)
    return found


def with_tasks(bags: Sequence[Path | RemoteBag], tasks_file: Path | None, default: str) -> list[BagSource]:
    """Return each bag with its task texts: those in the file, else the default.

    Raises:
        ConfigError: the file cannot be read, or names an unknown bag.
    """
    given = load_tasks(tasks_file) if tasks_file else {}
    folder = tasks_file.parent if tasks_file else Path()
    by_path = {(folder / name).resolve(): name for name in given}
    used: set[str] = set()
    sources = []
    for bag in bags:
        source = BagSource(Path(bag.url), remote=bag) if isinstance(bag, RemoteBag) else BagSource(bag)
        short = source.path.resolve().name
        name = by_path.get(source.path.resolve()) or next(
            (name for name in (short, short.partition(".")[0], source.name) if name in given), ""
        )
        used.add(name)
        texts = given[name] if name else ((default,) if default else ())
        sources.append(dataclasses.replace(source, tasks=texts))
    unused = [name for name in given if name not in used]
    if unused:
        raise ConfigError(
            f"{tasks_file}: unknown bag '{unused[0]}', bags to convert are "
            f"({', '.join(source.name for source in sources[:5])}{', ...' * (len(sources) > 5)}); correct its name"
        )
    return sources
