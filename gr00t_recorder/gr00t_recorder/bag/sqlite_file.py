# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the SQLite files of rosbag2, which are plain tables, without writing to their folder.

A malicious database (views, generated columns, pages shared by several rows) can look endless in a small file. So only
plain tables are read, rows are listed first, with a limit by file size, and each message is fetched separately.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from gr00t_recorder.bag.storage import (
    LAST_LOG_NS,
    MAX_DEFINITION_BYTES,
    BagMessage,
    BagTopic,
    Complaints,
    full_type_name,
    offers_last,
)
from gr00t_recorder.bag.unpacking import MAX_UNPACKED
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import check_regular, open_regular

MAGIC = b"SQLite format 3\x00"
LOGS = ("-wal", "-journal")  # next to a database whose recorder was killed; they hold its newest messages
MESSAGE_COLUMNS = ("id", "topic_id", "timestamp", "data")
TOPIC_COLUMNS = ("id", "name", "type", "serialization_format")
MIN_ROW_BYTES = 8  # of a message in the file
SPARE_ROWS = 1000
MAX_TOPICS = 10_000
STEPS_AT_A_TIME = 100_000  # of SQLite's virtual machine between two checks of the limit
MAX_STEPS = 20_000_000  # of a query, plus STEPS_PER_BYTE of the file
STEPS_PER_BYTE = 4
EVENT_SUFFIX = "_Event"


class SqliteFile:
    """One `.db3` file."""

    is_checked = False  # SQLite keeps no checksums

    def __init__(self, path: Path, *, allow_partial: bool) -> None:
        """Open the file.

        Raises:
            DatasetError: not a SQLite file, damaged, or without rosbag2's tables.
        """
        self.path = path
        self._damage = Complaints(path, allow_partial)
        self.complaints = self._damage.lines
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._rows: dict[str, np.ndarray] | None = None
        self._steps_left = 0
        with open_regular(path, DatasetError) as file:
            found = file.read(len(MAGIC))
        if not found:
            raise DatasetError(f"{path}: is empty (0 bytes); its recorder was killed, or the copy is incomplete")
        if found != MAGIC:
            raise DatasetError(f"{path}: is not a SQLite file; expected a rosbag2 database")
        try:
            self._num_bytes = path.stat().st_size
            self._database = self._open()
            if allow_partial:
                # otherwise SQLite refuses a file shorter than its header says
                self._database.execute("PRAGMA writable_schema = ON")
            self._limit()
            self._check_table("topics", TOPIC_COLUMNS)
            self._check_table("messages", MESSAGE_COLUMNS)
            self._ids = self._read_topics()
        except BaseException as error:
            self.close()
            if not isinstance(error, (sqlite3.Error, OverflowError, ValueError)):
                raise
            remedy = "record it again" if allow_partial else "--allow-partial keeps what can be read"
            raise DatasetError(f"{path}: is damaged or not a rosbag2 database ({error}); {remedy}") from error

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name; without counts, which the database does not declare."""
        definitions: dict[str, tuple[str, str]] = {}
        try:
            self._check_table("message_definitions", ("topic_type", "encoding", "encoded_message_definition"))
            rows = self._query("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
            for kind, encoding, text in rows:
                if isinstance(text, str) and len(text) <= MAX_DEFINITION_BYTES and len(definitions) < MAX_TOPICS:
                    definitions[str(kind)] = (text, str(encoding))
        except (sqlite3.Error, ValueError, OverflowError):
            pass  # files of Humble and earlier have no such table
        found: dict[str, BagTopic] = {}
        for entry in self._ids.values():
            # events of a service are defined by the service
            keys = (entry.type, entry.type.removesuffix(EVENT_SUFFIX), entry.type.replace("/msg/", "/"))
            definition = next((definitions[key] for key in keys if key in definitions), ("", ""))
            topic = replace(entry, definition=definition[0], definition_format=definition[1])
            found[topic.name] = found[topic.name].joined(topic) if topic.name in found else topic
        return found

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None if there is none."""
        times = self._listed()["timestamp"]
        times = times[times > 0]
        return int(times.min()) if times.size else None

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics in file order, int64 [ns]."""
        rows, names = self._listed(), self._wanted(topics)
        found = {}
        for name in dict.fromkeys(names.values()):
            times = rows["timestamp"][
                np.isin(rows["topic_id"], [number for number, each in names.items() if each == name])
            ]
            found[name] = times[(times >= 0) & (times <= LAST_LOG_NS)]
        return found

    def read(self, topics: Collection[str], *, in_file_order: bool = False) -> Iterator[BagMessage]:
        """Yield the messages of these topics by log time, or in file order."""
        names, rows = self._wanted(topics), self._listed()
        places = np.flatnonzero(np.isin(rows["topic_id"], list(names)))
        if not in_file_order:
            places = places[np.lexsort((rows["rowid"][places], rows["timestamp"][places]))]
        for place in places:
            row, number, log_ns = (int(rows[name][place]) for name in ("rowid", "topic_id", "timestamp"))
            payload = self._payload(row)
            if payload is not None:
                yield BagMessage(names[number], log_ns, payload)

    def close(self) -> None:
        """Close the file and delete its copy."""
        database = getattr(self, "_database", None)
        if database is not None:
            database.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _payload(self, row: int) -> bytes | None:
        try:
            found = self._query("SELECT data FROM messages WHERE rowid = ?", row).fetchone()
        except (sqlite3.Error, OverflowError, MemoryError) as error:
            self._damage.add(f"message {row} cannot be read ({error})")
            return None
        if found is None or not isinstance(found[0], bytes):
            self._damage.add(f"message {row} has no content")
            return None
        return found[0]

    def _listed(self) -> dict[str, np.ndarray]:
        """Return row, topic and log time of every message in file order, int64 each."""
        if self._rows is None:
            lists = {name: array("q") for name in ("rowid", "topic_id", "timestamp")}
            try:
                self._list("SELECT rowid, topic_id, timestamp FROM messages NOT INDEXED ORDER BY rowid", lists)
            except (sqlite3.Error, OverflowError) as error:
                self._damage.add(f"messages cannot be read to the end ({error})")
                with contextlib.suppress(sqlite3.Error, OverflowError):
                    self._list_rest(lists)
            self._rows = {name: np.array(values, dtype=np.int64) for name, values in lists.items()}
        return self._rows

    def _list(self, query: str, lists: Mapping[str, array[int]]) -> None:
        limit = SPARE_ROWS + self._num_bytes // MIN_ROW_BYTES
        for row, number, log_ns in self._query(query):
            if len(lists["rowid"]) >= limit:
                raise sqlite3.DataError(f"more than {limit} messages in a file of {self._num_bytes} bytes")
            if not isinstance(number, int) or not isinstance(log_ns, int):
                self._damage.add(f"message {row} has no topic or no log time")
                continue
            for name, value in zip(lists, (row, number, log_ns), strict=True):
                lists[name].append(value)

    def _list_rest(self, lists: Mapping[str, array[int]]) -> None:
        """List the messages after the damage one by one, from the index of log times."""
        known = set(lists["rowid"])
        indices = [row[1] for row in self._query("PRAGMA index_list(messages)")]
        for index in indices:
            covering = f'SELECT rowid FROM messages INDEXED BY "{index}"'.replace("\0", "")
            rows: list[int] = []
            with contextlib.suppress(sqlite3.Error):
                for (row,) in self._query(covering):
                    if row not in known:
                        rows.append(row)
                        known.add(row)
            for row in rows[: SPARE_ROWS + self._num_bytes // MIN_ROW_BYTES]:
                with contextlib.suppress(sqlite3.Error):
                    self._list(f"SELECT rowid, topic_id, timestamp FROM messages WHERE rowid = {int(row)}", lists)

    def _read_topics(self) -> dict[int, BagTopic]:
        found: dict[int, BagTopic] = {}
        columns = {row[1] for row in self._query("PRAGMA table_xinfo(topics)") if row[6] == 0}
        profiles = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        query = f"SELECT id, name, type, serialization_format, {profiles} FROM topics ORDER BY id"
        for number, name, kind, encoding, qos in self._query(query):
            if not isinstance(number, int) or not isinstance(name, str) or not isinstance(kind, str):
                raise sqlite3.DataError(f"topic {number!r} has no name or no type")
            if len(found) >= MAX_TOPICS:
                raise sqlite3.DataError(f"more than {MAX_TOPICS} topics")
            is_latched = offers_last(str(qos))
            found[number] = BagTopic(name, full_type_name(kind), encoding=str(encoding), is_latched=is_latched)
        return found

    def _wanted(self, topics: Collection[str]) -> dict[int, str]:
        return {number: topic.name for number, topic in self._ids.items() if topic.name in topics}

    def _check_table(self, name: str, columns: Collection[str]) -> None:
        """Refuse anything but a plain table of rosbag2: views, virtual tables, computed columns."""
        found = self._query("SELECT type, sql FROM sqlite_master WHERE name = ?", name).fetchone()
        if found is None:
            raise sqlite3.DataError(f"no table '{name}'")
        if found[0] != "table" or "virtual" in str(found[1]).lower().split():
            raise sqlite3.DataError(f"'{name}' is not a plain table")
        plain = {row[1] for row in self._query(f"PRAGMA table_xinfo({name})") if row[6] == 0}
        missing = [column for column in columns if column not in plain]
        if missing:
            raise sqlite3.DataError(f"table '{name}' has no plain column '{missing[0]}'")

    def _query(self, query: str, *values: object) -> sqlite3.Cursor:
        self._steps_left = MAX_STEPS + STEPS_PER_BYTE * self._num_bytes
        return self._database.execute(query, values)

    def _limit(self) -> None:
        """Limit the size of values and the work of queries."""
        if hasattr(self._database, "setlimit"):  # Python 3.11
            self._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_UNPACKED)  # type: ignore[attr-defined]
        self._database.execute("PRAGMA trusted_schema = OFF")
        self._database.execute("PRAGMA temp_store = FILE")
        self._database.set_progress_handler(self._is_over, STEPS_AT_A_TIME)

    def _is_over(self) -> bool:
        self._steps_left -= STEPS_AT_A_TIME
        return self._steps_left < 0

    def _open(self) -> sqlite3.Connection:
        path = self.path
        logs = [path.with_name(path.name + suffix) for suffix in LOGS]
        logs = [log for log in logs if log.exists() and log.stat().st_size]
        if logs:
            # merging the log writes to the file: use a copy
            self._folder = tempfile.TemporaryDirectory(prefix="gr00t_bag_")
            for log in logs:
                check_regular(log, DatasetError)
                shutil.copy(log, self._folder.name)
            return sqlite3.connect(shutil.copy(path, self._folder.name), check_same_thread=False)
        # immutable: otherwise SQLite writes files next to a database in WAL mode
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
