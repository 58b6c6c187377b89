# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the SQLite files of rosbag2, which are plain tables, without touching the folder they lie in."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from gr00t_recorder.bag.storage import BagMessage, BagTopic, Complaints
from gr00t_training.errors import DatasetError

MAGIC = b"SQLite format 3\x00"


class SqliteFile:
    """One `.db3` file."""

    def __init__(self, path: Path, *, allow_partial: bool) -> None:
        """Open the file.

        Raises:
            DatasetError: not a SQLite file, damaged, or without rosbag2's tables.
        """
        self.path = path
        self._damage = Complaints(path, allow_partial)
        self.complaints = self._damage.lines
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise DatasetError(f"{path}: is not a SQLite file; expected a rosbag2 database")
        self._database = self._open()
        try:
            self._ids = {
                number: BagTopic(name, kind)
                for number, name, kind in self._database.execute("SELECT id, name, type FROM topics ORDER BY id")
            }
        except sqlite3.Error as error:
            self.close()
            raise DatasetError(f"{path}: is damaged or not a rosbag2 database ({error})") from error

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name; the table of messages declares no counts, so there are none."""
        definitions: dict[str, tuple[str, str]] = {}
        try:
            rows = self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            )
            definitions = {kind: (text, encoding) for kind, encoding, text in rows}
        except sqlite3.Error:
            pass  # files of Humble and earlier have no such table
        return {
            topic.name: BagTopic(topic.name, topic.type, *definitions.get(topic.type, ("", "")))
            for topic in self._ids.values()
        }

    def read(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order of their log times."""
        names = {number: topic.name for number, topic in self._ids.items() if topic.name in topics}
        marks = ", ".join("?" * len(names))
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) ORDER BY timestamp, id"
        try:
            for number, log_ns, payload in self._database.execute(query, list(names)):
                yield BagMessage(names[number], log_ns, payload)
        except sqlite3.Error as error:
            self._damage.add(f"messages cannot be read to the end ({error})")

    def close(self) -> None:
        """Release the file and any copy of it."""
        database = getattr(self, "_database", None)
        if database is not None:
            database.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _open(self) -> sqlite3.Connection:
        path, log = self.path, self.path.with_name(self.path.name + "-wal")
        if log.exists() and log.stat().st_size:
            # the newest messages lie in the write-ahead log, and merging it writes: work on a copy
            self._folder = tempfile.TemporaryDirectory(prefix="gr00t_bag_")
            path = Path(shutil.copy(self.path, self._folder.name))
            shutil.copy(log, self._folder.name)
            return sqlite3.connect(path, check_same_thread=False)
        # immutable: SQLite would otherwise want to write beside a file in WAL mode
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
