# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""ZeroMQ's protocol on a TCP connection (ZMTP 3, NULL mechanism), with limits that libzmq does not have.

libzmq buffers the parts of an unfinished message without limit, and delivers none before the last one. Here the size of
every frame and the number of parts are checked before memory is allocated. Peers are libzmq 4 or newer, or this module.
Sources: ZeroMQ RFC 23 (ZMTP 3.0) and 37 (ZMTP 3.1).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.errors import ServerError

MAX_PARTS = 16  # of a message, including those that route the reply through proxies
MAX_ROUTE_BYTES = 1024  # of a part that is not the last; identities have at most 255
MAX_COMMAND_BYTES = 4096
PEEKED_BYTES = 64  # parts that are this small are read together: each call gives Python's lock away
RECEIVE_BYTES = 4 * 2**20  # read from one connection per turn

_MORE, _LONG, _COMMAND = 1, 2, 4  # flags of a frame
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_MECHANISM = b"NULL".ljust(20, b"\0")
GREETING = _SIGNATURE + b"\x03\x01" + _MECHANISM + bytes(32)

Buffer = bytes | bytearray | memoryview


class ProtocolError(ServerError):
    """The peer violates the protocol or its limits; the connection must be closed."""


@dataclass(frozen=True)
class Ready:
    """The peer's handshake is complete."""


@dataclass(frozen=True)
class Ping:
    """The peer requests a pong."""

    context: bytes


@dataclass(frozen=True)
class Pong:
    """The peer's answer to a ping."""


@dataclass(frozen=True)
class Message:
    """All parts of a message."""

    parts: tuple[memoryview, ...]  # read-only


Event = Ready | Ping | Pong | Message


def ready(socket_type: str) -> bytes:
    """Return the command that ends our handshake."""
    properties = b"".join(_property(*each) for each in (("Socket-Type", socket_type), ("Identity", "")))
    return _command(b"\x05READY" + properties)


def ping() -> bytes:
    """Return a ping without a time to live."""
    return _command(b"\x04PING\0\0")


def pong(asked: Ping) -> bytes:
    """Return the answer to a ping."""
    return _command(b"\x04PONG" + asked.context)


def frames(parts: Sequence[Buffer]) -> list[Buffer]:
    """Return the frames of a message: each part after its header."""
    buffers: list[Buffer] = []
    for number, part in enumerate(parts, start=1):
        flags, size = (_MORE if number < len(parts) else 0), len(part)
        buffers.append(bytes([flags, size]) if size < 256 else bytes([flags | _LONG]) + size.to_bytes(8, "big"))
        if size:
            buffers.append(part)
    return buffers


class Receiver:
    """Read events from a non-blocking socket; keep the received parts of an unfinished message."""

    def __init__(self, source: socket.socket, max_bytes: int) -> None:
        """Start with the handshake.

        Args:
            source: connected, non-blocking.
            max_bytes: of a message's last part.
        """
        self._socket = source
        self._parts: list[memoryview] = []  # of the unfinished message
        self._steps = _steps(max_bytes, self._parts)
        self._target = self._next_buffer()
        self._filled = 0  # bytes of `_target`
        self._peeked = memoryview(bytearray(PEEKED_BYTES))
        self.held_bytes = 0  # of the unfinished message
        self.begun_s: float | None = None  # when it began, on the monotonic clock

    def receive(self) -> Event | None:
        """Return the next event, or None if more bytes are needed.

        Raises:
            ProtocolError: the peer violates the protocol or its limits.
            ConnectionError: the peer has closed the connection.
        """
        received = 0
        while received < RECEIVE_BYTES:
            try:
                if len(self._target) - self._filled > PEEKED_BYTES:
                    count = self._count(self._socket.recv_into(self._target[self._filled :]))
                    event = self._advance() if self._filled == len(self._target) else None
                else:
                    count, event = self._receive_small()
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                raise ConnectionResetError(str(error)) from error
            if event is not None:
                return event
            received += count
        return None

    def _receive_small(self) -> tuple[int, Event | None]:
        """Read what is there of a few small parts, but nothing behind an event: that stays in the socket."""
        peeked, taken, event = self._peeked, 0, None
        there = self._socket.recv_into(peeked, PEEKED_BYTES, socket.MSG_PEEK)
        if there == 0:
            self._count(0)
        while event is None and taken < there:
            count = min(len(self._target) - self._filled, there - taken)
            self._target[self._filled : self._filled + count] = peeked[taken : taken + count]
            taken += self._count(count)
            if self._filled == len(self._target):
                event = self._advance()
        self._socket.recv_into(peeked, taken)
        return taken, event

    def _count(self, count: int) -> int:
        if count == 0:
            raise ConnectionResetError("closed by the peer")
        if self.begun_s is None:
            self.begun_s = time.monotonic()
        self.held_bytes += count
        self._filled += count
        return count

    def _advance(self) -> Event | None:
        self._filled = 0
        step = next(self._steps)
        if isinstance(step, memoryview):
            self._target = step
            return None
        if not self._parts:  # a ping may arrive between two parts
            self.held_bytes, self.begun_s = 0, None
        self._target = self._next_buffer()
        return step

    def _next_buffer(self) -> memoryview:
        step = next(self._steps)
        assert isinstance(step, memoryview)
        return step


class MessageCounter:
    """Counts the messages of one direction of a connection, for who passes its bytes on without reading them."""

    def __init__(self) -> None:
        """Begin before the greeting."""
        self.count = 0  # complete messages
        self._head = bytearray()
        self._skipped = len(GREETING)  # bytes until the next head
        self._is_last = self._is_inside = False

    @property
    def is_between(self) -> bool:
        """Whether no message has begun without having ended."""
        return not (self._head or self._skipped or self._is_inside)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        place = 0
        while place < len(piece):
            if self._skipped:
                step = min(self._skipped, len(piece) - place)
                self._skipped -= step
                place += step
            else:
                self._head.append(piece[place])
                place += 1
                if len(self._head) < (9 if self._head[0] & _LONG else 2):
                    continue
                self._skipped = int.from_bytes(self._head[1:], "big")
                self._is_last = not self._head[0] & (_MORE | _COMMAND)
                self._is_inside = self._is_inside or not self._head[0] & _COMMAND  # a ping may arrive between parts
                self._head.clear()
            if not self._skipped and not self._head and self._is_last:
                self.count += 1
                self._is_last = self._is_inside = False


def _steps(max_bytes: int, parts: list[memoryview]) -> Generator[memoryview | Event, None, None]:
    """Yield buffers to fill, and the events decoded from them; `parts` is kept up to date."""
    yield from _read_greeting()
    is_ready = False
    while True:
        flags, size = yield from _read_head()
        if flags & _COMMAND:
            body = yield from _read_command(flags, size)
            if not is_ready and body.startswith(b"\x05READY"):
                is_ready = True
                yield Ready()
            elif is_ready and body.startswith(b"\x04PING") and len(body) <= 7 + 16:
                yield Ping(body[7:])
            elif is_ready and body.startswith(b"\x04PONG"):
                yield Pong()
            else:
                raise ProtocolError(f"command {body[1:9]!r} is not expected here")
            continue
        if not is_ready:
            raise ProtocolError("a message before the handshake")
        _check_part(len(parts) + 1, size, max_bytes if not flags & _MORE else MAX_ROUTE_BYTES)
        buffer = _buffer(size)
        if size:
            yield buffer
        parts.append(buffer.toreadonly())
        if not flags & _MORE:
            message = Message(tuple(parts))
            parts.clear()
            yield message


def _read_greeting() -> Generator[memoryview, None, None]:
    start, rest = bytearray(10), bytearray(54)
    yield memoryview(start)
    if start[0] != 0xFF or not start[9] & 1:
        raise ProtocolError("the peer does not speak ZMTP")
    yield memoryview(rest)
    if rest[0] < 3:
        raise ProtocolError(f"the peer speaks ZMTP {rest[0]}, expected 3")
    if rest[2:22] != _MECHANISM:
        raise ProtocolError("the peer requires a security mechanism (expected NULL)")


def _read_head() -> Generator[memoryview, None, tuple[int, int]]:
    head = bytearray(2)
    yield memoryview(head)
    flags, size = head
    if flags > (_MORE | _LONG | _COMMAND) or (flags & _COMMAND and flags & _MORE):
        raise ProtocolError(f"frame with unknown flags {flags}")
    if flags & _LONG:
        rest = bytearray(7)
        yield memoryview(rest)
        size = int.from_bytes(head[1:] + rest, "big")
    return flags, size


def _read_command(flags: int, size: int) -> Generator[memoryview, None, bytes]:
    if not 0 < size <= MAX_COMMAND_BYTES:
        raise ProtocolError(f"command of {size} bytes (limit {MAX_COMMAND_BYTES})")
    body = bytearray(size)
    yield memoryview(body)
    return bytes(body)


def _check_part(number: int, size: int, max_bytes: int) -> None:
    if number > MAX_PARTS:
        raise ProtocolError(f"message of more than {MAX_PARTS} parts")
    if size > max_bytes:
        raise ProtocolError(f"part of {size} bytes (limit {max_bytes})")


def _buffer(size: int) -> memoryview:
    # NumPy does not clear it: memory is used as bytes arrive, not as they are announced
    return memoryview(bytearray(size)) if size < 4096 else np.empty(size, np.uint8).data


def _command(body: bytes) -> bytes:
    return bytes([_COMMAND, len(body)]) + body


def _property(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + len(value).to_bytes(4, "big") + value.encode()
