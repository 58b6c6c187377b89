# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read ROS 2 bags without ROS: MCAP and SQLite3, split, compressed, or without metadata.

The messages counted are held against what the bag declares, so that none is lost silently. Types come from the
definitions in the bag, else from the Jazzy set of `rosbags`.
"""

from __future__ import annotations

import heapq
import re
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
import zstandard
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError
from rosbags.typesys.store import Typestore

from gr00t_recorder.bag.mcap_file import McapFile
from gr00t_recorder.bag.sqlite_file import SqliteFile
from gr00t_recorder.bag.storage import BagMessage, BagTopic, Complaints, StorageFile
from gr00t_training.errors import DatasetError

METADATA_FILE = "metadata.yaml"
STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
ROS1_MAGIC = b"#ROSBAG"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878; a CDR payload begins with 00
CDR_HEADER_SIZE = 4


class Bag:
    """One bag: a folder, or a single storage file. Use it as a context manager."""

    def __init__(self, path: str | Path, *, allow_partial: bool = False) -> None:
        """Open all files of the bag.

        Args:
            path: folder with `metadata.yaml`, folder with storage files only, or a storage file.
            allow_partial: keep what can be read of a damaged bag; `complaints` tells what is missing.

        Raises:
            DatasetError: no bag, a ROS 1 bag, or damaged.
        """
        self.path = Path(path)
        self._damage = Complaints(self.path, allow_partial)
        self._allow_partial = allow_partial
        self._folder = tempfile.TemporaryDirectory(prefix="gr00t_bag_")
        self.files: list[StorageFile] = []  # in the order of recording
        self._types = _Types()
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
        return self._types.deserialize(self.topics[message.topic], message.payload, self.path)

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
                if any(path.suffix == ".bag" for path in self.path.iterdir()):
                    raise _ros1_error(self.path)
                raise DatasetError(f"{self.path}: is not a bag: no {METADATA_FILE} and no *.mcap or *.db3")
            return sorted(found, key=_natural_order)
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
                raise _ros1_error(path)
            if path.name.endswith(".mcap"):
                return McapFile(path, allow_partial=self._allow_partial)
            if path.name.endswith(".db3"):
                return SqliteFile(path, allow_partial=self._allow_partial)
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
                earlier = merged.get(name, topic)
                if earlier.type != topic.type:
                    raise DatasetError(f"{self.path}: topic {name} is both {earlier.type} and {topic.type}")
                is_first = name not in merged
                count = topic.num_messages if is_first else _sum(earlier.num_messages, topic.num_messages)
                best = topic if topic.definition else earlier
                merged[name] = BagTopic(name, topic.type, best.definition, best.definition_format, count)
        for entry in (metadata or {}).get("topics_with_message_count") or []:
            name, count = entry["topic_metadata"]["name"], entry["message_count"]
            topic = merged.get(name) or BagTopic(name, entry["topic_metadata"]["type"])
            merged[name] = BagTopic(name, topic.type, topic.definition, topic.definition_format, count)
        return merged


class _Types:
    """Deserialisers by topic type, made when first needed."""

    def __init__(self) -> None:
        self._stores: dict[str, Typestore] = {}
        self._jazzy: Typestore | None = None

    def deserialize(self, topic: BagTopic, payload: bytes, path: Path) -> Any:
        store = self._stores.get(topic.type)
        if store is None:
            store = self._stores[topic.type] = self._store(topic, path)
        if len(payload) < CDR_HEADER_SIZE or payload[0] != 0 or payload[1] > 1:
            raise DatasetError(f"{path}: a message on {topic.name} is not plain CDR; only 'cdr' bags can be read")
        definition = store.get_msgdef(topic.type)
        read = definition.deserialize_cdr_le if payload[1] else definition.deserialize_cdr_be
        try:
            # not store.deserialize_cdr: it refuses stray bytes after a message, which recorders in the field leave
            return read(payload[CDR_HEADER_SIZE:], 0, definition.cls, store)[0]
        except (struct.error, ValueError, IndexError, SerdeError) as error:
            raise DatasetError(f"{path}: a message on {topic.name} is not a {topic.type} ({error})") from error

    def _store(self, topic: BagTopic, path: Path) -> Typestore:
        if topic.definition:
            try:
                store = get_typestore(Stores.EMPTY)
                is_idl = topic.definition_format == "ros2idl"
                store.register(
                    get_types_from_idl(topic.definition) if is_idl else get_types_from_msg(topic.definition, topic.type)
                )
                store.get_msgdef(topic.type)
                return store
            except (TypesysError, KeyError, ValueError):
                pass  # a definition that cannot be parsed; the standard types are known anyway
        self._jazzy = self._jazzy or get_typestore(Stores.ROS2_JAZZY)
        if topic.type not in self._jazzy.fielddefs:
            raise DatasetError(
                f"{path}: topic {topic.name}: type {topic.type} is no standard type and the bag carries no usable "
                "definition of it; record with a rosbag2 of Iron or later"
            )
        return self._jazzy


def _decompressed(message: BagMessage) -> BagMessage:
    """Undo rosbag2's compression of single messages."""
    if not message.payload.startswith(ZSTD_MAGIC):
        return message
    try:
        payload = zstandard.ZstdDecompressor().decompressobj().decompress(message.payload)
    except zstandard.ZstdError as error:
        raise DatasetError(f"a message on {message.topic} cannot be decompressed ({error})") from error
    return BagMessage(message.topic, message.log_ns, payload)


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Order bag_2 before bag_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _ros1_error(path: Path) -> DatasetError:
    return DatasetError(f"{path}: is a ROS 1 bag; convert it with 'rosbags-convert --src ... --dst ...' first")
