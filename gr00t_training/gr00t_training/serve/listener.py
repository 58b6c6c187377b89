# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Connections of a policy server: order of reading, and memory limits for untrusted clients.

A connection whose last message was accepted is trusted and read first, up to `TRUSTED_HZ`. New and all other ones are
untrusted and share at most `UNTRUSTED_SHARE` of the time of this thread. Every connection has one turn per round. A
client that does not read its answers is not read either. Everything runs in one thread; other threads may only call
`wake`.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gr00t_training.io.text import printable
from gr00t_training.serve import zmtp
from gr00t_training.serve.zmtp import Buffer, Message, Ping, ProtocolError, Ready, Receiver

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512  # a new one replaces the untrusted one that was silent longest ...
SILENT_S = 30.0  # ... or, if there is none, a trusted one that was silent this long
HANDSHAKE_S = 5.0  # longest time until a connection is ready
MESSAGE_S = 30.0  # longest time of one message, and of an answer that the client does not read
MAX_REFUSED = 100  # messages in a row; 1 MB holds 500,000 empty ones
UNTRUSTED_SHARE = 0.1  # of the time of this thread
UNTRUSTED_BURST_S = 0.02
UNTRUSTED_TURN_S = 0.002  # of untrusted connections together, before trusted ones are read again
TRUSTED_HZ = 60  # messages of one connection if there are others; a robot sends 30 Hz or less
TRUSTED_BURST = 60  # messages
NEW_BURST = 10  # messages of a new connection
HELD_MESSAGES = 4  # unfinished messages of the largest size, of all connections
SWEEP_S = 0.25
BACKLOG = 512
DRAINED_BYTES = 65_536
KEEPALIVE_S = 30  # a robot that was switched off leaves its connection open


class Connection:
    """One client."""

    def __init__(self, stream: socket.socket, max_bytes: int, state: Any) -> None:
        """Start the handshake.

        Args:
            stream: connected, non-blocking.
            max_bytes: of a message.
            state: state that the server keeps for this client.
        """
        self.stream = stream
        self.state = state
        self.receiver = Receiver(stream, max_bytes)
        self.is_ready = False  # the handshake is complete
        self.is_trusted = False
        self.is_closed = False
        self.active_s = time.monotonic()  # when it connected or sent its last complete message
        self.num_refused = 0  # messages since the last accepted one
        self.turn_s = self.active_s  # its last turn
        self.credit = float(NEW_BURST)  # messages that are read with priority
        self.stalled_s: float | None = None  # since when answers are waiting
        self._outbox: deque[memoryview] = deque()
        self.send([zmtp.GREETING, zmtp.ready("ROUTER")])

    def count_turn(self, has_event: bool) -> None:
        """Count a turn, and the received message or ping."""
        now_s = time.monotonic()
        earned = (now_s - self.turn_s) * TRUSTED_HZ
        self.credit = max(0.0, min(TRUSTED_BURST, self.credit + earned) - has_event)
        self.turn_s = now_s

    @property
    def is_blocked(self) -> bool:
        """Whether it does not read its answers."""
        return bool(self._outbox)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send as much as the peer accepts now and keep the rest.

        Raises:
            ConnectionError: connection lost.
        """
        self._outbox.extend(memoryview(buffer) for buffer in buffers)
        self.flush()

    def flush(self) -> None:
        """Send as much as the peer accepts now; raises as `send`."""
        while self._outbox:
            try:
                count = self.stream.sendmsg(list(self._outbox)[:8])
            except (BlockingIOError, InterruptedError):
                self.stalled_s = self.stalled_s or time.monotonic()
                return
            except OSError as error:
                raise ConnectionResetError(str(error)) from error
            self.stalled_s = time.monotonic()
            while count:
                first = self._outbox.popleft()
                if count < len(first):
                    self._outbox.appendleft(first[count:])
                count -= min(count, len(first))
        self.stalled_s = None

    def is_overdue(self, now_s: float) -> bool:
        """Whether handshake, message or answer takes too long."""
        if not self.is_ready and now_s - self.active_s > HANDSHAKE_S:
            return True
        return any(begun_s is not None and now_s - begun_s > MESSAGE_S for begun_s in self._begun_s())

    def _begun_s(self) -> tuple[float | None, ...]:
        return (self.receiver.begun_s, self.stalled_s)


class Listener:
    """Listen on one address and pass complete messages on."""

    def __init__(
        self,
        host: str,
        port: int,
        max_bytes: int,
        receive: Callable[[Connection, tuple[memoryview, ...]], bool],
        make_state: Callable[[], Any],
    ) -> None:
        """Start listening.

        Args:
            host: numeric address.
            port: TCP port; 0: any free one.
            max_bytes: of a message.
            receive: handles a message; returns whether its sender is trusted from now on.
            make_state: called for each new connection.

        Raises:
            OSError: the address cannot be used.
        """
        self._receive, self._make_state, self._max_bytes = receive, make_state, max_bytes
        self._connections: set[Connection] = set()
        self._held_bytes = 0  # of unfinished messages
        self._credit_s, self._credited_s = UNTRUSTED_BURST_S, time.monotonic()
        self._swept_s = self._accepted_s = 0.0
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(_ipv6_address(host, port) if ":" in host else (host, port))
            self._socket.listen(BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._trusted, self._untrusted = selectors.DefaultSelector(), selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._trusted.register(self._woken, selectors.EVENT_READ)
        self._untrusted.register(self._socket, selectors.EVENT_READ)
        self._reads_untrusted = False
        self._enable_untrusted()

    @property
    def num_connections(self) -> int:
        """Number of open connections, including those in a handshake."""
        return len(self._connections)

    def wake(self) -> None:
        """Make `poll` return. Thread-safe; may be called in a signal handler."""
        with contextlib.suppress(BlockingIOError):  # full: it will return anyway
            self._waker.send(b"\0")

    def poll(self) -> None:
        """Wait for the network or `wake`, and give every ready connection one turn."""
        now_s = time.monotonic()
        self._earn(now_s)
        timeout_s = None if self._reads_untrusted and not self._connections else SWEEP_S
        if not self._reads_untrusted:
            timeout_s = (UNTRUSTED_BURST_S / 2 - self._credit_s) / UNTRUSTED_SHARE
        reads_untrusted = False
        for key, events in self._trusted.select(timeout_s):
            if key.fileobj is self._woken:
                self._woken.recv(4096)
            elif key.data is None:
                reads_untrusted = True
            else:
                self._take_turn(key.data, events)
        if reads_untrusted:
            self._read_untrusted()
        if time.monotonic() - self._swept_s > SWEEP_S:
            self._sweep()

    def send(self, connection: Connection, parts: Sequence[Buffer]) -> None:
        """Send a message to a client; a lost connection is closed."""
        if connection.is_closed:
            return
        try:
            connection.send(zmtp.frames(parts))
        except ConnectionError as error:
            self._close(connection, error)
        else:
            self._watch(connection)

    def close(self, linger_s: float = 0.0) -> None:
        """Close everything; queued answers are sent for at most `linger_s`."""
        end_s = time.monotonic() + linger_s
        while time.monotonic() < end_s and any(connection.is_blocked for connection in self._connections):
            for connection in [each for each in self._connections if each.is_blocked]:
                with contextlib.suppress(ConnectionError):
                    connection.flush()
            time.sleep(0.005)
        for connection in list(self._connections):
            self._close(connection, None)
        for used in (self._socket, self._untrusted, self._trusted, self._woken, self._waker):
            used.close()

    # Turns.

    def _take_turn(self, connection: Connection, events: int) -> None:
        if connection.is_closed:
            return
        before = connection.receiver.held_bytes
        try:
            if events & selectors.EVENT_WRITE:
                connection.flush()
            if events & selectors.EVENT_READ and not connection.is_blocked:
                self._read(connection)
        except (ProtocolError, ConnectionError) as error:
            self._close(connection, error, before)
            return
        self._held_bytes += connection.receiver.held_bytes - before
        if self._held_bytes > HELD_MESSAGES * self._max_bytes:
            self._free_memory()
        if not connection.is_closed:
            self._watch(connection)

    def _read(self, connection: Connection) -> None:
        event = connection.receiver.receive()
        connection.count_turn(event is not None)
        if isinstance(event, Message):
            connection.active_s = time.monotonic()
            connection.is_trusted = self._receive(connection, event.parts)
            connection.num_refused = 0 if connection.is_trusted else connection.num_refused + 1
            if connection.num_refused > MAX_REFUSED:
                raise ProtocolError("too many refused messages")
        elif isinstance(event, Ready):
            connection.is_ready = True
        elif isinstance(event, Ping):
            connection.send([zmtp.pong(event)])

    def _read_untrusted(self) -> None:
        begin_s = start_s = time.monotonic()
        waiting = self._untrusted.select(0)
        waiting.sort(key=lambda each: self._accepted_s if each[0].data is None else each[0].data.turn_s)
        for key, events in waiting:  # longest waiting first
            if key.data is None:
                self._accepted_s = start_s
                self._accept()
            else:
                self._take_turn(key.data, events)
            now_s = time.monotonic()
            self._credit_s -= now_s - start_s
            start_s = now_s
            if self._credit_s <= 0:
                self._trusted.unregister(self._untrusted)
                self._reads_untrusted = False
                return
            if now_s - begin_s > UNTRUSTED_TURN_S:
                return

    def _earn(self, now_s: float) -> None:
        earned_s = (now_s - self._credited_s) * UNTRUSTED_SHARE
        self._credit_s, self._credited_s = min(UNTRUSTED_BURST_S, self._credit_s + earned_s), now_s
        if not self._reads_untrusted and self._credit_s >= UNTRUSTED_BURST_S / 2:
            self._enable_untrusted()

    def _enable_untrusted(self) -> None:
        self._trusted.register(self._untrusted, selectors.EVENT_READ)
        self._reads_untrusted = True

    # Connections.

    def _accept(self) -> None:
        try:
            stream, _ = self._socket.accept()
        except OSError as error:  # closed already, or too many open files
            if not isinstance(error, BlockingIOError):
                logger.debug("connection not accepted (%s)", error.strerror)
                self._credit_s = 0.0  # no busy loop
            return
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_place():
            stream.close()
            return
        stream.setblocking(False)
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            connection = Connection(stream, self._max_bytes, self._make_state())
        except OSError:  # closed already
            stream.close()
            return
        self._connections.add(connection)
        self._untrusted.register(stream, selectors.EVENT_READ, connection)
        self._watch(connection)

    def _make_place(self) -> bool:
        silent_s = time.monotonic() - SILENT_S
        others = [each for each in self._connections if not each.is_trusted]
        others = others or [each for each in self._connections if each.active_s < silent_s]
        if others:
            self._close(min(others, key=lambda each: each.active_s), ProtocolError("too many connections"))
        return bool(others)

    def _free_memory(self) -> None:
        """Close the connection with the largest unfinished message, an untrusted one if there is any."""
        untrusted = [each for each in self._connections if not each.is_trusted and each.receiver.held_bytes]
        largest = max(untrusted or self._connections, key=lambda each: each.receiver.held_bytes)
        self._close(largest, ProtocolError("too many unfinished messages"))

    def _sweep(self) -> None:
        self._swept_s = time.monotonic()
        for connection in [each for each in self._connections if each.is_overdue(self._swept_s)]:
            self._close(connection, ProtocolError("takes too long"))

    def _watch(self, connection: Connection) -> None:
        """Register the events that the connection needs next, with the trusted or the untrusted ones."""
        # a single client delays no other one
        is_first = connection.is_trusted and (connection.credit >= 1 or len(self._connections) == 1)
        wanted, other = (self._trusted, self._untrusted) if is_first else (self._untrusted, self._trusted)
        events = selectors.EVENT_WRITE if connection.is_blocked else selectors.EVENT_READ
        key = wanted.get_map().get(connection.stream.fileno())
        if key is None:
            other.unregister(connection.stream)
            wanted.register(connection.stream, events, connection)
        elif key.events != events:
            wanted.modify(connection.stream, events, connection)

    def _close(self, connection: Connection, reason: Exception | None, held_bytes: int | None = None) -> None:
        if connection.is_closed:
            return
        if isinstance(reason, ProtocolError):
            logger.debug("connection closed: %s", printable(str(reason)))
        self._held_bytes -= connection.receiver.held_bytes if held_bytes is None else held_bytes
        connection.is_closed = True
        self._connections.discard(connection)
        (self._trusted if connection.stream in self._trusted.get_map() else self._untrusted).unregister(
            connection.stream
        )
        with contextlib.suppress(OSError):  # with unread bytes the peer would see a reset instead of the end
            connection.stream.recv(DRAINED_BYTES)
        connection.stream.close()


def _ipv6_address(host: str, port: int) -> tuple:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4]
