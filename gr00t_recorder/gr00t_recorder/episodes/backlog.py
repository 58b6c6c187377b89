# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames that wait for the encoder: in memory up to a limit, then in a file, always in order.

The file has no name: no other process can change the pickled data in it, and it is deleted with the process.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gr00t_recorder.topics.picking import PickedFrame
from gr00t_training.errors import DatasetError

SEGMENT_BYTES = 64 * 2**20  # disk space is freed in steps of this size
OVERHEAD_BYTES = 2000  # of a frame's objects in addition to its arrays


@dataclass(slots=True)
class _InMemory:
    frame: PickedFrame
    num_bytes: int


@dataclass(slots=True)
class _OnDisk:
    segment: _Segment
    offset: int
    num_bytes: int
    checksum: int


class FrameBacklog:
    """First in, first out. One thread puts, another one takes."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        has_room: Callable[[int], bool] = lambda num_bytes: True,
    ) -> None:
        """Write what exceeds `max_bytes` of memory into `folder`, as long as `has_room` for that many more bytes."""
        self.num_spilled = 0  # frames that have been on disk, in all
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._has_room = has_room
        self._entries: deque[_InMemory | _OnDisk] = deque()
        self._memory_bytes = 0
        self._num_on_disk = 0
        self._segment: _Segment | None = None  # that is being filled
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_on_disk(self) -> int:
        """Frames waiting on disk."""
        return self._num_on_disk

    @property
    def memory_bytes(self) -> int:
        """Size of the frames waiting in memory."""
        return self._memory_bytes

    def put(self, frame: PickedFrame) -> None:
        """Append a frame.

        Raises:
            DatasetError: memory is used up and the disk has no room; the frame is not taken, those before are kept.
        """
        num_bytes = frame_bytes(frame)
        with self._lock:
            if self._memory_bytes + num_bytes <= self._max_bytes:
                self._entries.append(_InMemory(frame, num_bytes))
                self._memory_bytes += num_bytes
                return
        entry = self._spill(pickle.dumps(frame, protocol=5))  # without the lock: the encoder must not wait for the disk
        with self._lock:
            self._entries.append(entry)
            self._num_on_disk += 1
            self.num_spilled += 1

    def take(self) -> PickedFrame:
        """Return the oldest frame; IndexError when there is none.

        Raises:
            DatasetError: the frame cannot be read back.
        """
        with self._lock:
            entry = self._entries.popleft()
            if isinstance(entry, _InMemory):
                self._memory_bytes -= entry.num_bytes
                return entry.frame
            self._num_on_disk -= 1
        return pickle.loads(entry.segment.read(entry))

    def clear(self) -> None:
        """Drop all frames and free memory and disk."""
        with self._lock:
            for entry in self._entries:
                if isinstance(entry, _OnDisk):
                    entry.segment.release()
            self._entries.clear()
            self._memory_bytes = self._num_on_disk = 0
            if self._segment is not None:
                self._segment.seal()
                self._segment = None

    def _spill(self, payload: bytes) -> _OnDisk:
        if not self._has_room(len(payload)):
            raise DatasetError(
                "images are encoded too slowly and the disk has no room for those that wait; free disk space, or use "
                "smaller images, fewer cameras or a faster video preset"
            )
        try:
            segment = self._segment
            if segment is None or segment.size >= self._segment_bytes:
                if segment is not None:
                    segment.seal()
                segment = self._segment = _Segment(self._folder)
            return segment.append(payload)
        except OSError as error:
            raise DatasetError(
                f"{self._folder}: frames that wait for the encoder cannot be written ({error.strerror}); check the disk"
            ) from error


class _Segment:
    """A file without a name; it is deleted when everything in it has been read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)  # without parents: a dataset folder that was removed must not be created again
        self.size = 0
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by the last release()
        self._num_users = 1  # the writer, and one per entry that waits
        self._lock = threading.Lock()

    def append(self, payload: bytes) -> _OnDisk:
        entry = _OnDisk(self, self.size, len(payload), zlib.crc32(payload))
        written = 0
        while written < len(payload):
            written += os.pwrite(self._file.fileno(), memoryview(payload)[written:], self.size + written)
        self.size += len(payload)
        with self._lock:
            self._num_users += 1
        return entry

    def read(self, entry: _OnDisk) -> bytes:
        try:
            payload = os.pread(self._file.fileno(), entry.num_bytes, entry.offset)
        except OSError as error:
            raise DatasetError(f"a frame that waited on disk cannot be read ({error.strerror}); check it") from error
        finally:
            self.release()
        if len(payload) != entry.num_bytes or zlib.crc32(payload) != entry.checksum:
            raise DatasetError("a frame that waited on disk came back damaged; check the disk")
        return payload

    def seal(self) -> None:
        """Nothing more will be appended."""
        self.release()

    def release(self) -> None:
        with self._lock:
            self._num_users -= 1
            if not self._num_users:
                self._file.close()


def frame_bytes(frame: PickedFrame) -> int:
    """Return the approximate memory of a frame [bytes]."""
    return OVERHEAD_BYTES + sum(_value_bytes(choice.value) for choice in frame.choices.values())


def _value_bytes(value: object) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(getattr(value, "data", b""))  # an image message
