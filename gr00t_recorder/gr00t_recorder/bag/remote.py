# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags in object storage: found by their names as those of a folder, and downloaded while they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gr00t_recorder.bag.folder import METADATA_FILE, STORAGE_SUFFIXES, is_one_bag, is_storage_name, natural_order
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.object_storage import ObjectState, RemoteFolder


@dataclass(frozen=True)
class RemoteBag:
    """One bag in object storage."""

    url: str  # of its folder, or of the one file
    files: tuple[tuple[str, ObjectState], ...]  # by name relative to the URL; "": the URL is the file

    @property
    def num_bytes(self) -> int:
        """Size of its storage files."""
        return sum(state.size for name, state in self.files if name.rpartition("/")[2] != METADATA_FILE)

    @property
    def modified_s(self) -> int:
        """When it was changed last, seconds since 1970."""
        return max(state.modified_s for _, state in self.files)

    def download(self, folder: Path) -> Path:
        """Download it into a folder; return its path there.

        Raises:
            DatasetError: an object is missing or changed, the storage refuses, or the disk is full.
        """
        parent, _, own_name = self.url.rpartition("/")
        remote = RemoteFolder(parent)
        for name, state in self.files:
            name = f"{own_name}/{name}".rstrip("/")
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "xb") as file:
                    remote.download(name, state, file)
            except OSError as error:
                raise DatasetError(
                    f"{self.url}: cannot be downloaded to {folder} ({error.strerror or error}); make room there"
                ) from error
        return folder / own_name


def find_remote_bags(url: str) -> list[RemoteBag]:
    """Return the bags below an address, or the one that it names, as `sources.find_bags` does of a folder.

    Raises:
        ConfigError: there is none.
        DatasetError: the storage refuses.
    """
    objects = RemoteFolder(url).list()
    if not objects:
        parent, _, name = url.rpartition("/")
        state = RemoteFolder(parent).state(name) if parent != "s3:/" else None
        if state is None:
            raise ConfigError(f"{url}: no such bag; check bucket and prefix, and AWS_ENDPOINT_URL")
        return [RemoteBag(url, (("", state),))]
    by_folder: dict[tuple[str, ...], dict[str, ObjectState]] = {}
    for name, state in objects.items():
        *folder, file = PurePosixPath(name).parts
        if not any(part.startswith(".") for part in folder) and (file == METADATA_FILE or is_storage_name(file)):
            by_folder.setdefault(tuple(folder), {})[file] = state
    found = list(_bags(url, by_folder))
    if not found:
        raise ConfigError(
            f"{url}: holds no bag: no {METADATA_FILE} and no storage file ({', '.join(STORAGE_SUFFIXES)})"
        )
    return found


def _bags(url: str, by_folder: Mapping[tuple[str, ...], Mapping[str, ObjectState]]) -> Iterator[RemoteBag]:
    whole: tuple[str, ...] | None = None  # the bag that was found last by its metadata
    for folder in sorted(by_folder, key=lambda parts: [natural_order(part) for part in parts]):
        if whole is not None and folder[: len(whole)] == whole:
            continue
        address = "/".join((url, *folder))
        files = by_folder[folder]
        names = sorted(files, key=natural_order)
        if METADATA_FILE in files:
            whole = folder
            inside = {part: content for part, content in by_folder.items() if part[: len(folder)] == folder}
            members = [
                ("/".join((*part[len(folder) :], name)), state)
                for part, content in inside.items()
                for name, state in content.items()
            ]
            yield RemoteBag(address, tuple(sorted(members)))
        elif is_one_bag(names):
            yield RemoteBag(address, tuple((name, files[name]) for name in names))
        else:
            yield from (RemoteBag(f"{address}/{name}", (("", files[name]),)) for name in names)
