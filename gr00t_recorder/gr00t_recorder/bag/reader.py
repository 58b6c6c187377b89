# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read bags without ROS: MCAP, SQLite3 and ROS 1 files; split, compressed, or without metadata.

The messages counted are held against what the bag declares, so that none is lost silently.
"""

from __future__ import annotations

import dataclasses
import heapq
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml
import zstandard

from gr00t_recorder.bag.mcap_file import McapFile
from gr00t_recorder.bag.message_types import MessageTypes
from gr00t_recorder.bag.ros1_file import Ros1File
from gr00t_recorder.bag.sqlite_file import SqliteFile
from gr00t_recorder.bag.storage import BagMessage, BagTopic, Complaints, StorageFile
from gr00t_training.errors import DatasetError

METADATA_FILE = "metadata.yaml"
STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".bag", ".bag.active")
ROS1_MAGIC = b"#ROSBAG"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878; a CDR payload begins with 00


class Bag:
    """One bag: a folder, or a single storage file. Use it as a context manager."""

    def __init__(self, path: str | Path, *, allow_partial: bool = False) -> None:
        """Open all files of the bag.

        Args:
            path: folder with `metadata.yaml`, folder with the storage files of one bag, or a storage file.
            allow_partial: keep what can be read of a damaged bag; `complaints` tells what is missing.

        Raises:
            DatasetError: no bag, or damaged.
        """
        self.path = Path(path)
        self._damage = Complaints(self.path, allow_partial)
        self.allow_partial = allow_partial
        self._folder = tempfile.TemporaryDirectory(prefix="gr00t_bag_")
        self.files: list[StorageFile] = []  # in the order of recording
        self._types = MessageTypes(self.path)
        try:
            metadata = self._load_metadata()
            for file in self._storage_files(metadata):
                self.files.append(self._open(file))
            self.topics = self._merge_topics(metadata)
        except BaseException:
            self.close()
            raise

    @property
    def complaints(self) -> list[str]:
        """What was found damaged or missing, one line each."""
        return [*self._damage.lines, *(line for file in self.files for line in file.complaints)]

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Yield messages in the order of their log times, then hold their number against what the bag declares.

        Args:
            topics: names of the wanted topics; None: all.

        Raises:
            DatasetError: damaged, or messages are missing, unless partial reading is allowed.
        """
        wanted = set(self.topics) if topics is None else set(topics) & set(self.topics)
        counts: Counter[str] = Counter()
        streams = [file.read(wanted) for file in self.files]
        for message in heapq.merge(*streams, key=lambda message: message.log_ns):
            counts[message.topic] += 1
            yield _decompressed(message)
        for name in sorted(wanted):
            declared = self.topics[name].num_messages
            if declared is not None and counts[name] != declared:
                self._damage.add(f"topic {name} has {counts[name]} messages, the bag declares {declared}")

    def deserialize(self, message: BagMessage) -> Any:
        """Return the message as an object with the fields of its type.

        Raises:
            DatasetError: the type is not known, or the bytes do not fit it.
        """
        return self._types.deserialize(self.topics[message.topic], message.payload)

    def unreadable(self, topic: str) -> str:
        """Return why messages of a topic cannot be deserialised; empty when they can."""
        return self._types.check(self.topics[topic])

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None when there is none."""
        return min((start for file in self.files if (start := file.start_ns()) is not None), default=None)

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics, sorted, int64 [ns]; payloads stay unread."""
        blocks: dict[str, list[np.ndarray]] = {topic: [np.empty(0, np.int64)] for topic in topics}
        for file in self.files:
            for topic, times in file.times(topics).items():
                blocks[topic].append(times)
        return {topic: np.sort(np.concatenate(parts)) for topic, parts in blocks.items()}

    def close(self) -> None:
        """Release the files and the copies made of compressed ones."""
        for file in self.files:
            file.close()
        self._folder.cleanup()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load_metadata(self) -> Mapping[str, Any] | None:
        path = self.path / METADATA_FILE
        if not path.is_file():
            return None
        try:
            return yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            reason = str(error).replace("\n", " ")
            self._damage.add(f"{METADATA_FILE} cannot be read ({reason})")
            return None

    def _storage_files(self, metadata: Mapping[str, Any] | None) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise DatasetError(f"{self.path}: no such bag; expected a folder or a file ({', '.join(STORAGE_SUFFIXES)})")
        if metadata is None:
            found = [path for path in self.path.iterdir() if path.name.endswith(STORAGE_SUFFIXES)]
            if not found:
                raise DatasetError(
                    f"{self.path}: is not a bag: no {METADATA_FILE} and no storage file ({', '.join(STORAGE_SUFFIXES)})"
                )
            return sorted(found, key=natural_order)
        return [path for name in metadata.get("relative_file_paths") or [] for path in self._locate(name)]

    def _locate(self, name: str) -> list[Path]:
        # early rosbag2 wrote names with the folder in front, and without the suffix of compressed files
        for candidate in (name, Path(name).name, name + ".zstd", Path(name).name + ".zstd"):
            if (self.path / candidate).is_file():
                return [self.path / candidate]
        self._damage.add(f"{name} is missing, {METADATA_FILE} lists it")
        return []

    def _open(self, path: Path) -> StorageFile:
        original = path
        try:
            with open(path, "rb") as file:
                start = file.read(16)
            if start.startswith(ZSTD_MAGIC):
                path = self._decompress(path)
            if start.startswith(ROS1_MAGIC):
                return Ros1File(path, allow_partial=self.allow_partial)
            if path.name.endswith(".mcap"):
                return McapFile(path, allow_partial=self.allow_partial)
            if path.name.endswith(".db3"):
                return SqliteFile(path, allow_partial=self.allow_partial)
        except DatasetError as error:
            if path is original:
                raise
            raise DatasetError(f"{original}: its unpacked content is damaged or cut short ({error})") from error
        except (OSError, zstandard.ZstdError) as error:
            raise DatasetError(f"{original}: cannot be read ({error})") from error
        raise DatasetError(f"{original}: is not a bag file; expected {', '.join(STORAGE_SUFFIXES)}")

    def _decompress(self, path: Path) -> Path:
        """Unpack a file compressed as a whole."""
        target = Path(self._folder.name) / f"{len(self.files)}_{path.name.removesuffix('.zstd')}"
        with open(path, "rb") as packed, open(target, "wb") as unpacked:
            shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True), unpacked)
        return target

    def _merge_topics(self, metadata: Mapping[str, Any] | None) -> dict[str, BagTopic]:
        """Join the topics of all files; the metadata's counts go before those of the files."""
        merged: dict[str, BagTopic] = {}
        for file in self.files:
            for name, topic in file.topics().items():
                merged[name] = merged[name].joined(topic) if name in merged else topic
        for entry in (metadata or {}).get("topics_with_message_count") or []:
            described = entry["topic_metadata"]
            topic = merged.get(described["name"]) or BagTopic(described["name"], described["type"])
            merged[topic.name] = dataclasses.replace(topic, num_messages=entry["message_count"])
        return merged


def _decompressed(message: BagMessage) -> BagMessage:
    """Undo rosbag2's compression of single messages."""
    if not message.payload.startswith(ZSTD_MAGIC):
        return message
    try:
        payload = zstandard.ZstdDecompressor().decompressobj().decompress(message.payload)
    except zstandard.ZstdError as error:
        raise DatasetError(f"a message on {message.topic} cannot be decompressed ({error})") from error
    return BagMessage(message.topic, message.log_ns, payload)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Order bag_2 before bag_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
