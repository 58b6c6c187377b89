# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the SQLite files of rosbag2, which are plain tables, without touching the folder they lie in."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from gr00t_recorder.bag.storage import BagMessage, BagTopic, Complaints, sorted_times
from gr00t_training.errors import DatasetError

MAGIC = b"SQLite format 3\x00"
LOGS = ("-wal", "-journal")  # files beside a database whose recorder was killed, with its newest messages


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
            if allow_partial:
                # without it SQLite refuses a file that is shorter than its header says
                self._database.execute("PRAGMA writable_schema = ON")
            self._ids = {
                number: BagTopic(name, kind, encoding=encoding)
                for number, name, kind, encoding in self._database.execute(
                    "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
                )
            }
        except sqlite3.Error as error:
            self.close()
            remedy = "record it again" if allow_partial else "--allow-partial keeps what can be read"
            raise DatasetError(f"{path}: is damaged or not a rosbag2 database ({error}); {remedy}") from error

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
        found: dict[str, BagTopic] = {}
        for entry in self._ids.values():
            topic = BagTopic(entry.name, entry.type, *definitions.get(entry.type, ("", "")), encoding=entry.encoding)
            found[topic.name] = found[topic.name].joined(topic) if topic.name in found else topic
        return found

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None when there is none."""
        try:
            return self._database.execute("SELECT MIN(timestamp) FROM messages").fetchone()[0]
        except sqlite3.Error as error:
            self._damage.add(f"messages cannot be read ({error})")
            return None

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics, sorted, int64 [ns]."""
        names = self._wanted(topics)
        times: dict[str, list[int]] = {name: [] for name in names.values()}
        query = f"SELECT topic_id, timestamp FROM messages WHERE topic_id IN ({_marks(names)})"
        try:
            for number, log_ns in self._database.execute(query, list(names)):
                times[names[number]].append(log_ns)
        except sqlite3.Error as error:
            self._damage.add(f"messages cannot be read to the end ({error})")
        return sorted_times(times)

    def read(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order of their log times."""
        names = self._wanted(topics)
        query = (
            "SELECT id, topic_id, timestamp, data FROM messages "
            f"WHERE topic_id IN ({_marks(names)}) ORDER BY timestamp, id"
        )
        last = (-(2**63), 0)
        try:
            for row, number, log_ns, payload in self._database.execute(query, list(names)):
                last = (log_ns, row)
                yield BagMessage(names[number], log_ns, payload)
        except sqlite3.Error as error:
            self._damage.add(f"messages cannot be read to the end ({error})")
            yield from self._salvage(names, last)

    def close(self) -> None:
        """Release the file and any copy of it."""
        database = getattr(self, "_database", None)
        if database is not None:
            database.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _salvage(self, names: Mapping[int, str], last: tuple[int, int]) -> Iterator[BagMessage]:
        """Yield what can still be read behind the message of this log time and row."""
        # the table itself up to the damage, not an index over it
        query = f"SELECT timestamp, id FROM messages NOT INDEXED WHERE topic_id IN ({_marks(names)})"
        rows: list[tuple[int, int]] = []
        with contextlib.suppress(sqlite3.Error):
            rows.extend(self._database.execute(query, list(names)))
        for log_ns, row in sorted(row for row in rows if row > last):
            with contextlib.suppress(sqlite3.Error):
                query = "SELECT topic_id, data FROM messages WHERE id = ?"
                for number, payload in self._database.execute(query, [row]):
                    yield BagMessage(names[number], log_ns, payload)

    def _wanted(self, topics: Collection[str]) -> dict[int, str]:
        return {number: topic.name for number, topic in self._ids.items() if topic.name in topics}

    def _open(self) -> sqlite3.Connection:
        path = self.path
        logs = [path.with_name(path.name + suffix) for suffix in LOGS]
        logs = [log for log in logs if log.exists() and log.stat().st_size]
        if logs:
            # merging the log into the file writes: work on a copy
            self._folder = tempfile.TemporaryDirectory(prefix="gr00t_bag_")
            for log in logs:
                shutil.copy(log, self._folder.name)
            return sqlite3.connect(shutil.copy(path, self._folder.name), check_same_thread=False)
        # immutable: SQLite would otherwise want to write beside a file in WAL mode
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _marks(names: Collection[int]) -> str:
    return ", ".join("?" * len(names))
