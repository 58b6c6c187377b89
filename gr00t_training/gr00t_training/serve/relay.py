# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One address for several policy servers.

A connection is passed on, byte by byte, to the server with the fewest connections, and stays there: what a server keeps
for a robot is kept for its connection. So robots, protocol, token and limits are those of a single server. If a server
ends, its connections are closed; robots hold, connect again, and get another server. If a server is taken away, its
connections are closed between a reply and the next request: no answer is lost, and a robot sees that its connection was
lost, which is what a change of server is to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from gr00t_training.serve.zmtp import MessageCounter

logger = logging.getLogger(__name__)

Address = tuple[str, int]  # numeric host, port

CHUNK_BYTES = 2**18
CONNECT_S = 2.0  # to a server, which is near
LEAVE_S = 5.0  # longest wait for the end of a request, of a connection whose server is taken away
LEAVE_GAP_S = 0.005  # between two that are closed: each connects again, and those of a busy server share its thread


@dataclass
class _Connection:
    server: Address | None = None  # None: not yet connected
    asked: MessageCounter = field(default_factory=MessageCounter)
    answered: MessageCounter = field(default_factory=MessageCounter)

    @property
    def is_quiet(self) -> bool:
        """Whether all that was asked is answered."""
        return self.asked.is_between and self.answered.is_between and self.asked.count == self.answered.count


class Relay:
    """Passes connections on. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._servers: frozenset[Address] = frozenset()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._leaving: asyncio.Task[None] | None = None

    @property
    def num_connections(self) -> Counter[Address]:
        """Connections of each server."""
        counts = Counter(dict.fromkeys(self._servers, 0))
        counts.update(each.server for each in self._connections.values() if each.server in self._servers)
        return counts

    def use(self, servers: Collection[Address]) -> None:
        """Take these servers from now on, and close the connections of others when their requests are answered."""
        self._servers = frozenset(servers)
        if self._left() and (self._leaving is None or self._leaving.done()):
            self._leaving = asyncio.ensure_future(self._leave())

    async def listen(self, listener: socket.socket) -> asyncio.Server:
        """Accept connections of a listening socket."""
        return await asyncio.start_server(self._accept, sock=listener)

    async def close(self) -> None:
        """Close all connections."""
        tasks = list(self._connections) + ([self._leaving] if self._leaving else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _left(self) -> dict[asyncio.Task[None], _Connection]:
        """Return the connections whose server is taken away."""
        return {
            task: each
            for task, each in self._connections.items()
            if each.server is not None and each.server not in self._servers
        }

    async def _leave(self) -> None:
        since_s: dict[asyncio.Task[None], float] = {}
        while left := self._left():
            for task, each in left.items():
                if each.is_quiet or time.monotonic() - since_s.setdefault(task, time.monotonic()) > LEAVE_S:
                    task.cancel()
                    await asyncio.sleep(LEAVE_GAP_S)
            await asyncio.sleep(LEAVE_GAP_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection = _Connection()
        try:
            server = await self._connect(connection)
            if server is not None:
                await _pass_on(reader, writer, *server, connection)
        except asyncio.CancelledError:
            pass  # the server is taken away, or the relay closes
        finally:
            del self._connections[task]
            writer.close()

    async def _connect(self, connection: _Connection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the server with the fewest connections that answers; None: there is none."""
        for address, _ in sorted(self.num_connections.items(), key=lambda item: item[1]):
            connection.server = address  # counted while it connects
            try:
                return await asyncio.wait_for(asyncio.open_connection(*address), CONNECT_S)
            except (OSError, asyncio.TimeoutError) as error:
                logger.warning("%s:%d: cannot connect (%s)", *address, error or "no answer")
        return None


async def _pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    server_reader: asyncio.StreamReader,
    server_writer: asyncio.StreamWriter,
    connection: _Connection,
) -> None:
    """Copy both directions until one ends."""
    copies = [
        asyncio.ensure_future(_copy(reader, server_writer, connection.asked)),
        asyncio.ensure_future(_copy(server_reader, writer, connection.answered)),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        server_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: MessageCounter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(CHUNK_BYTES):
            counter.feed(piece)
            writer.write(piece)
            await writer.drain()
