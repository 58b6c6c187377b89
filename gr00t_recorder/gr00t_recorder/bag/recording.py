# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record raw messages next to the dataset: a bag per episode, or one while the recorder is active.

Messages arrive as bytes and are written by a separate thread. The last second before an episode is buffered, so that
its bag contains all inputs of its first rows; the bag ends when the episode is saved.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import zstandard

from gr00t_recorder.bag.mcap_writer import CHUNK_BYTES, ZSTD_LEVEL, BagWriter, WrittenTopic
from gr00t_training.errors import DatasetError

logger = logging.getLogger(__name__)

BAGS_FOLDER = ".bags"
LEAD_NS = 1_000_000_000  # before an episode's start
MAX_LEAD_BYTES = 128 * 10**6
MAX_HELD_BYTES = 100_000  # of a message kept as the newest of its topic before the lead; images are larger
MIN_MEASURED_BYTES = 20 * 10**6  # shorter bags do not predict the next one
SAMPLE_PERIOD_S = 10.0
FLUSH_PERIOD_S = 0.5  # a killed process loses less than twice this
DEFAULT_MAX_QUEUED_BYTES = 256 * 10**6


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One serialized message."""

    topic: str
    log_ns: int
    payload: bytes


class BagRecording:
    """Bags of one recorder. Every method may be called from any thread and returns immediately, except `close`."""

    def __init__(self, *, max_queued_bytes: int = DEFAULT_MAX_QUEUED_BYTES) -> None:
        """Start the thread; nothing is written before `begin`."""
        self.num_dropped = 0  # messages dropped because the disk was too slow
        self.reason = ""  # why writing the bag failed; empty if it did not
        self._max_queued_bytes = max_queued_bytes
        self._topics: dict[str, WrittenTopic] = {}
        self._queue: deque[RawMessage | Callable[[], None]] = deque()
        self._queued_bytes = 0
        self._has_work = threading.Condition()
        self._is_closing = False
        # below: used by the thread only
        self._lead: deque[RawMessage] = deque()
        self._lead_bytes = 0
        self._held: dict[str, RawMessage] = {}  # newest message of each topic from before the lead
        self._writer: BagWriter | None = None
        self._completed: Path | None = None  # folder of the last bag that was kept
        self._num_written = 0  # into the last bag
        self._numbers: dict[str, int] = {}
        self._flushed_s = 0.0
        self._sampled_s = -SAMPLE_PERIOD_S
        self._sampled_compression = 1.0
        self._written_bytes = (0, 0)  # in completed bags, and what they unpack to
        self._thread = threading.Thread(target=self._work, name="bag_writer", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Path | None:
        """Folder of the bag being written."""
        writer = self._writer
        return writer.folder if writer else None

    @property
    def num_messages(self) -> int:
        """Messages in the bag being written, or in the last one."""
        writer = self._writer
        return writer.num_messages if writer else self._num_written

    @property
    def num_topics(self) -> int:
        """Topics that have been declared."""
        return len(self._topics)

    def bytes_per_s(self) -> float:
        """Return the bytes per second of a bag: the incoming rate times the measured compression."""
        lead = self._lead
        try:
            passed_ns = lead[-1].log_ns - lead[0].log_ns
        except IndexError:
            return 0.0
        return self._compression() * self._lead_bytes * 1e9 / passed_ns if passed_ns > 0 else 0.0

    def _compression(self) -> float:
        """Return the size of a bag as a share of its content: of the bags written, else of a sample; 1 if unknown."""
        writer, (packed, unpacked) = self._writer, self._written_bytes
        if writer is not None:
            packed, unpacked = packed + writer.num_bytes, unpacked + writer.num_unpacked_bytes
        return packed / unpacked if unpacked >= MIN_MEASURED_BYTES else self._sampled_compression

    def declare(self, topic: WrittenTopic) -> None:
        """Declare a topic before its first message."""
        self._topics[topic.name] = topic

    def is_declared(self, topic: str) -> bool:
        """Whether a topic is declared."""
        return topic in self._topics

    def put(self, topic: str, log_ns: int, payload: bytes) -> None:
        """Queue a message of a declared topic; count it as dropped if the queue is full."""
        with self._has_work:
            if self._queued_bytes + len(payload) > self._max_queued_bytes:
                self.num_dropped += 1
                return
            self._queue.append(RawMessage(topic, log_ns, payload))
            self._queued_bytes += len(payload)
            self._has_work.notify()

    def note(self, topic: str, log_ns: int, payload: bytes) -> None:
        """Write a message of a declared topic to the current bag only."""
        self._enqueue(lambda: self._write(RawMessage(topic, log_ns, payload)))

    def begin(self, folder: Path) -> None:
        """Start a bag; the current one is completed first."""
        self._enqueue(lambda: self._begin(folder))

    def end(self, *, is_kept: bool, custom: Mapping[str, str] | None = None) -> None:
        """Complete the bag, or delete it."""
        self._enqueue(lambda: self._end(is_kept, custom or {}))

    def set_aside(self, folder: Path) -> None:
        """Move the last bag that was kept into `folder`."""
        self._enqueue(lambda: self._set_aside(folder))

    def close(self) -> None:
        """Complete the current bag and end the thread; may be called twice."""
        if self._thread.is_alive():
            self._enqueue(lambda: self._end(True, {}))
            with self._has_work:
                self._is_closing = True
                self._has_work.notify()
            self._thread.join()

    def _enqueue(self, action: Callable[[], None]) -> None:
        with self._has_work:
            self._queue.append(action)
            self._has_work.notify()

    def _work(self) -> None:
        while True:
            with self._has_work:
                if not self._queue and not self._is_closing:
                    self._has_work.wait(FLUSH_PERIOD_S)
                if not self._queue and self._is_closing:
                    return
                items, self._queue = self._queue, deque()
            for item in items:
                self._attempt(item if callable(item) else partial(self._take, item))
            self._attempt(self._flush)
            self._sample_compression()
            with self._has_work:
                self._queued_bytes -= sum(len(item.payload) for item in items if isinstance(item, RawMessage))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except DatasetError as error:
            logger.error("%s; continuing without the bag", error)
            self.reason = str(error)
            self._writer = None

    def _take(self, message: RawMessage) -> None:
        self._remember(message)
        self._write(message)

    def _sample_compression(self) -> None:
        """Compress a sample of the input until a bag has measured the compression."""
        if self._written_bytes[1] or not self._lead or time.monotonic() - self._sampled_s < SAMPLE_PERIOD_S:
            return
        self._sampled_s = time.monotonic()
        sample = bytearray()
        for message in self._lead:
            if len(sample) < CHUNK_BYTES:
                sample += message.payload
        packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(bytes(sample))
        self._sampled_compression = len(packed) / max(len(sample), 1)

    def _flush(self) -> None:
        if self._writer is not None and time.monotonic() - self._flushed_s >= FLUSH_PERIOD_S:
            self._writer.flush()
            self._flushed_s = time.monotonic()

    def _remember(self, message: RawMessage) -> None:
        self._lead.append(message)
        self._lead_bytes += len(message.payload)
        oldest_ns = message.log_ns - LEAD_NS
        while self._lead and (self._lead[0].log_ns < oldest_ns or self._lead_bytes > MAX_LEAD_BYTES):
            old = self._lead.popleft()
            self._lead_bytes -= len(old.payload)
            if len(old.payload) <= MAX_HELD_BYTES:
                self._held[old.topic] = old

    def _begin(self, folder: Path) -> None:
        self._end(True, {})
        self.reason, self.num_dropped = "", 0
        self._writer, self._numbers = BagWriter(folder), {}
        begin_ns = self._lead[0].log_ns if self._lead else 0
        present = {message.topic for message in self._lead}
        for message in (message for message in self._held.values() if message.topic not in present):
            # as if it arrived just now: otherwise a player would wait for the age of the message
            self._write(RawMessage(message.topic, max(message.log_ns, begin_ns - 1), message.payload))
        for message in self._lead:
            self._write(message)

    def _end(self, is_kept: bool, custom: Mapping[str, str]) -> None:
        if self._writer is None:
            return
        try:
            if is_kept:
                self._writer.close(custom)
                self._completed = self._writer.folder
            else:
                self._writer.delete()
        finally:
            self._num_written = self._writer.num_messages
            packed, unpacked = self._written_bytes
            self._written_bytes = packed + self._writer.num_bytes, unpacked + self._writer.num_unpacked_bytes
            self._writer = None

    def _set_aside(self, folder: Path) -> None:
        bag, self._completed = self._completed, None
        if bag is None:
            return
        try:
            bag.rename(folder / bag.name)
        except OSError as error:
            raise DatasetError(f"{bag}: cannot be moved to {folder} ({error.strerror}); move it by hand") from error

    def _write(self, message: RawMessage) -> None:
        if self._writer is None:
            return
        number = self._numbers.get(message.topic)
        if number is None:
            number = self._numbers[message.topic] = self._writer.add_topic(self._topics[message.topic])
        self._writer.write(number, message.log_ns, message.payload)
