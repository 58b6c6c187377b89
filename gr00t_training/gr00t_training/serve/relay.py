# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One address for several policy servers.

A connection is passed on, byte by byte, to the server with the fewest connections, and stays there: what a server keeps
for a robot is kept for its connection. So robots, protocol, token and limits are those of a single server. If a server
ends, its connections are closed; robots hold, connect again, and get another server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Collection

logger = logging.getLogger(__name__)

Address = tuple[str, int]  # numeric host, port

CHUNK_BYTES = 2**18
CONNECT_S = 2.0  # to a server, which is near


class Relay:
    """Passes connections on. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._servers: frozenset[Address] = frozenset()
        self._connections: dict[asyncio.Task[None], Address | None] = {}  # None: not yet connected to a server

    @property
    def num_connections(self) -> Counter[Address]:
        """Connections of each server."""
        counts = Counter(dict.fromkeys(self._servers, 0))
        counts.update(address for address in self._connections.values() if address in self._servers)
        return counts

    def use(self, servers: Collection[Address]) -> None:
        """Take these servers from now on, and close the connections of others."""
        self._servers = frozenset(servers)
        for task, address in self._connections.items():
            if address is not None and address not in self._servers:
                task.cancel()

    async def listen(self, listener: socket.socket) -> asyncio.Server:
        """Accept connections of a listening socket."""
        return await asyncio.start_server(self._accept, sock=listener)

    async def close(self) -> None:
        """Close all connections."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            server = await self._connect(task)
            if server is not None:
                await _pass_on(reader, writer, *server)
        except asyncio.CancelledError:
            pass  # the server left, or the relay closes
        finally:
            del self._connections[task]
            writer.close()

    async def _connect(self, task: asyncio.Task[None]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the server with the fewest connections that answers; None: there is none."""
        for address, _ in sorted(self.num_connections.items(), key=lambda item: item[1]):
            self._connections[task] = address  # counted while it connects
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
) -> None:
    """Copy both directions until one ends."""
    copies = [
        asyncio.ensure_future(_copy(reader, server_writer)),
        asyncio.ensure_future(_copy(server_reader, writer)),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        server_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()
