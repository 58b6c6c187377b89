# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Connection of a client to a policy server: one request and its reply at a time, each within a deadline.

It is used until a request gets no answer. Pings detect a stopped server or a broken network, during a call and whenever
`is_lost` is read.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Sequence

from gr00t_training.errors import ServerError
from gr00t_training.serve import zmtp
from gr00t_training.serve.zmtp import Buffer, Event, Message, Ping, ProtocolError, Ready, Receiver

CONNECT_S = 2.0  # a running server accepts within milliseconds
RECONNECT_S = 0.1  # between two attempts
PING_S = 0.5
PING_TIMEOUT_S = 1.5
MAX_REPLY_BYTES = 16 * 2**20  # 32 samples of 50 steps and 64 channels have 0.8 MB

_ABSENT = "no policy server reached; check that it runs, and host and port"


class UnansweredError(Exception):
    """The connection must be closed, with the reason."""

    def __init__(self, reason: str, *, is_late: bool = False) -> None:
        """Store the reason; `is_late`: a longer time limit may help."""
        super().__init__(reason)
        self.is_late = is_late


class ServerConnection:
    """One TCP connection that speaks as a ZeroMQ REQ socket."""

    def __init__(self, host: str, port: int, deadline_s: float) -> None:
        """Connect; wait up to `CONNECT_S` for a server that is starting.

        Args:
            host: name or address.
            port: TCP port.
            deadline_s: on the monotonic clock.

        Raises:
            UnansweredError: no server in time.
            ServerError: there is no such host.
        """
        end_s = min(deadline_s, time.monotonic() + CONNECT_S)
        self._socket = _connect(host, port, end_s)
        self._receiver = Receiver(self._socket, MAX_REPLY_BYTES)
        self._outbox: list[memoryview] = []
        self._pinged_s = time.monotonic()
        self._unanswered_s: float | None = None  # when the first ping without a response was sent
        try:
            self._send([zmtp.GREETING, zmtp.ready("REQ")])
            while not isinstance(self._next_event(), Ready):
                self._wait(end_s, _ABSENT)
        except (ProtocolError, ConnectionError, UnansweredError) as error:
            self.close()
            raise UnansweredError(_ABSENT) from error

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost; never waits."""
        try:
            while (event := self._next_event()) is not None:
                if isinstance(event, Message):  # without a request
                    return True
            self._ping_if_due()
        except (ProtocolError, ConnectionError):
            return True
        return self._is_silent()

    def exchange(self, message: bytes, deadline_s: float) -> memoryview:
        """Send a message and return the reply.

        Raises:
            UnansweredError: no answer in time, or the connection was lost.
            ServerError: the server breaks the protocol, or its reply is too large.
        """
        try:
            if self.is_lost:
                raise ConnectionResetError("lost before the request")
            self._send(zmtp.frames([b"", message]))
            while True:
                event = self._next_event()
                if isinstance(event, Message):
                    return _body(event, is_asked=not self._outbox)
                if event is None:
                    self._wait(deadline_s, "no answer in time; the server is too slow or hangs")
        except ConnectionError as error:
            raise UnansweredError("connection lost before the answer") from error

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _next_event(self) -> Event | None:
        held_bytes = self._receiver.held_bytes
        event = self._receiver.receive()
        if event is not None or self._receiver.held_bytes != held_bytes:
            self._unanswered_s = None
        if isinstance(event, Ping):
            self._send([zmtp.pong(event)])
        return event

    def _wait(self, deadline_s: float, reason: str) -> None:
        """Wait until the server sends, or accepts more bytes."""
        now_s = time.monotonic()
        if now_s >= deadline_s:
            raise UnansweredError(reason, is_late=True)
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        events = poller.poll(round(1000 * min(PING_S / 2, deadline_s - now_s)) + 1)
        if events and events[0][1] & select.POLLOUT:
            self._flush()
        elif not events:
            self._ping_if_due()
            if self._is_silent():
                raise ConnectionResetError("no answer to pings")

    def _ping_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s - self._pinged_s >= PING_S and not self._outbox:
            self._pinged_s = now_s
            self._unanswered_s = self._unanswered_s or now_s
            self._send([zmtp.ping()])

    def _is_silent(self) -> bool:
        return self._unanswered_s is not None and time.monotonic() - self._unanswered_s > PING_TIMEOUT_S

    def _send(self, buffers: Sequence[Buffer]) -> None:
        self._outbox += [memoryview(buffer) for buffer in buffers]
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                count = self._socket.sendmsg(self._outbox[:8])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise ConnectionResetError(str(error)) from error
            self._outbox = _behind(self._outbox, count)


def _behind(buffers: list[memoryview], count: int) -> list[memoryview]:
    """Return the buffers without their first `count` bytes."""
    while buffers and count >= len(buffers[0]):
        count -= len(buffers[0])
        buffers = buffers[1:]
    return [buffers[0][count:], *buffers[1:]] if buffers else []


def _body(event: Message, is_asked: bool) -> memoryview:
    if not is_asked or len(event.parts) != 2 or len(event.parts[0]):
        raise ProtocolError(f"reply of {len(event.parts)} parts, expected an empty one and one more after a request")
    return event.parts[1]


def _connect(host: str, port: int, end_s: float) -> socket.socket:
    """Try until `end_s`."""
    addresses = _resolve(host, port, end_s)
    while True:
        for family, address in addresses:
            stream = socket.socket(family, socket.SOCK_STREAM)
            try:
                stream.settimeout(max(0.001, end_s - time.monotonic()))
                stream.connect(address)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream.setblocking(False)
                return stream
            except OSError:
                stream.close()
        if time.monotonic() + RECONNECT_S >= end_s:
            raise UnansweredError(_ABSENT)
        time.sleep(RECONNECT_S)


def _resolve(host: str, port: int, end_s: float) -> list[tuple[int, tuple]]:
    """Resolve a host name within the deadline; the resolver of the system has none."""
    found: list[tuple[int, tuple]] = []
    failed: list[str] = []

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
            found.extend((info[0], info[4]) for info in infos)
        except (OSError, UnicodeError) as error:
            failed.append(str(error))

    with contextlib.suppress(OSError):  # a number needs no resolver
        return [(info[0], info[4]) for info in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, _NUMERIC)]
    thread = threading.Thread(target=look_up, name="resolver", daemon=True)
    thread.start()
    thread.join(max(0.0, end_s - time.monotonic()))
    if failed:
        raise ServerError(f"no address ({failed[0]}); check host and port")
    if not found:
        raise UnansweredError("the host's name was not resolved in time; use its address")
    return found


_NUMERIC = socket.AI_NUMERICHOST
