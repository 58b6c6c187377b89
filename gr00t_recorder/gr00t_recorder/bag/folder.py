# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files in the folder of a bag: `metadata.yaml`, which may be wrong or missing, and storage files, perhaps renamed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gr00t_recorder.bag.storage import Complaints, full_type_name
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import check_name, inside
from gr00t_training.io.text import printable
from gr00t_training.io.yaml_text import read_yaml

METADATA_FILE = "metadata.yaml"
STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".bag", ".bag.active")
ROS1_SUFFIXES = (".bag", ".bag.active")  # each file is a bag, also those of a split recording
ROOT_KEY = "rosbag2_bagfile_information"
MAX_SHOWN = 5  # file names in a message


@dataclass(frozen=True)
class DeclaredTopic:
    """A topic in the metadata."""

    name: str
    type: str
    num_messages: int


@dataclass(frozen=True)
class Metadata:
    """The part of `metadata.yaml` that is used."""

    files: tuple[str, ...] = ()
    topics: tuple[DeclaredTopic, ...] = ()


def is_storage_name(name: str) -> bool:
    """Whether a file name is one of a bag's storage; copies from macOS add a `._name` to each file."""
    return name.endswith(STORAGE_SUFFIXES) and not name.startswith(".")


def storage_names(folder: Path) -> list[str]:
    """Return the names of the storage files in a folder, in the order of recording."""
    try:
        names = [entry.name for entry in folder.iterdir() if is_storage_name(entry.name) and not entry.is_dir()]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror}); check its rights") from error
    return sorted(names, key=natural_order)


def is_one_bag(names: Sequence[str]) -> bool:
    """Whether the storage files of a folder without metadata are one bag: NAME_0, NAME_1, ...; none of ROS 1."""
    stems = {re.sub(r"_\d+$", "", name.partition(".")[0]) for name in names}
    return len(stems) == 1 and not any(name.endswith(ROS1_SUFFIXES) for name in names)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Order bag_2 before bag_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def load_metadata(folder: Path, damage: Complaints) -> Metadata | None:
    """Return `metadata.yaml`; None if it is missing, or damaged with partial reading."""
    path = folder / METADATA_FILE
    if not path.is_file():
        return None
    try:
        return _metadata(read_yaml(path, DatasetError))
    except DatasetError as error:
        damage.add(f"{METADATA_FILE} cannot be read ({error})")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        damage.add(f"{METADATA_FILE} cannot be read (not of rosbag2: {printable(str(error))})")
    return None


def find_files(path: Path, metadata: Metadata | None, damage: Complaints, notes: list[str]) -> list[Path]:
    """Return the storage files of the bag at `path` in order of recording; assumptions go to `notes`.

    Raises:
        DatasetError: there is none, or one is missing (unless partial reading is allowed), or one is a link.
    """
    if path.is_file() or (path.exists() and not path.is_dir()):
        return [path]
    if not path.is_dir():
        raise DatasetError(f"{path}: no such bag; expected a folder or a file ({', '.join(STORAGE_SUFFIXES)})")
    present = storage_names(path)
    if metadata is None:
        if not present:
            raise DatasetError(
                f"{path}: is not a bag: no {METADATA_FILE} and no storage file ({', '.join(STORAGE_SUFFIXES)})"
            )
        return [found for name in present for found in _inside(path, name, damage)]
    listed: list[Path | str] = [found for name in metadata.files for found in _locate(path, name, damage)]
    taken = {file.name for file in listed if isinstance(file, Path)}
    spare = [name for name in present if name not in taken]
    missing = [file for file in listed if isinstance(file, str)]
    if missing and len(missing) == len(spare):
        renamed = dict(zip(missing, spare, strict=True))
        for old, new in renamed.items():
            notes.append(f"{printable(new)} is used for {printable(old)}, which {METADATA_FILE} lists")
        return [
            found
            for file in listed
            for found in ([file] if isinstance(file, Path) else _inside(path, renamed[file], damage))
        ]
    for name in missing:
        damage.add(f"{printable(name)} is missing, {METADATA_FILE} lists it{_unlisted(spare)}")
    if spare and not missing:
        notes.append(f"left out{_unlisted(spare)}; move {METADATA_FILE} away to read every file")
    return [file for file in listed if isinstance(file, Path)]


def _metadata(document: Any) -> Metadata:
    members = document[ROOT_KEY]
    files = members.get("relative_file_paths") or []
    topics = []
    for entry in members.get("topics_with_message_count") or []:
        described = entry["topic_metadata"]
        name, kind, count = described["name"], described["type"], entry["message_count"]
        if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(count, int) or count < 0:
            raise ValueError(f"topic {name!r} has type {kind!r} and {count!r} messages")
        topics.append(DeclaredTopic(name, full_type_name(kind), count))
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError("relative_file_paths is not a list of names")
    return Metadata(tuple(files), tuple(topics))


def _locate(folder: Path, name: str, damage: Complaints) -> Sequence[Path | str]:
    """Return the file of a name in the metadata, the name itself if it is missing, nothing if it is refused."""
    try:
        check_name(name, DatasetError, f"{folder / METADATA_FILE}: relative_file_paths")
    except DatasetError as error:
        damage.take(error)
        return []
    # early rosbag2 wrote names with the folder in front, and without the suffix of compressed files
    last = PurePosixPath(name).name
    for candidate in (name, last, name + ".zstd", last + ".zstd"):
        if (folder / candidate).exists() or (folder / candidate).is_symlink():
            return _inside(folder, candidate, damage)
    return [last]


def _inside(folder: Path, name: str, damage: Complaints) -> list[Path]:
    try:
        return [inside(folder, name, DatasetError)]
    except DatasetError as error:
        damage.take(error)
        return []


def _unlisted(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(map(printable, names[:MAX_SHOWN])) + (", ..." if len(names) > MAX_SHOWN else "")
    return f"; the folder has {shown}, which it does not list"
