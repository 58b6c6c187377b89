# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on a free port of this machine (moto), with one bucket; it ends with the process that started it.

`faulty` puts a proxy in front of it that answers some requests with an error, or breaks the connection.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pyarrow.fs import S3FileSystem

BUCKET = "robots"
# ends when its input does
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
_KEY = "test"


class Fault(Enum):
    """What becomes of a request."""

    ERROR = "error"  # answered with HTTP status 500
    RESET = "reset"  # the connection is reset after half of the answer


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    port: int

    @property
    def variables(self) -> dict[str, str]:
        """What clients need in their environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @functools.cached_property
    def files(self) -> S3FileSystem:
        """A client that does not depend on the code under test."""
        return S3FileSystem(
            access_key=_KEY,
            secret_key=_KEY,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            allow_bucket_creation=True,
            request_timeout=60,  # the first request loads the server's code
        )

    def put(self, name: str, content: bytes) -> None:
        """Make an object of the bucket."""
        with self.files.open_output_stream(f"{BUCKET}/{name}") as stream:
            stream.write(content)

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Make an object of each file below a folder."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def remove(self, name: str) -> None:
        """Remove an object of the bucket."""
        self.files.delete_file(f"{BUCKET}/{name}")

    @contextlib.contextmanager
    def checking_keys(self) -> Iterator[None]:
        """Refuse all keys in the block: nobody is known."""
        for count in ("0", "inf"):
            address = f"http://127.0.0.1:{self.port}/moto-api/reset-auth"
            request = urllib.request.Request(address, count.encode(), {"Content-Type": "text/plain"})
            urllib.request.urlopen(request).close()
            if count == "0":
                yield

    @contextlib.contextmanager
    def faulty(self, fault_of: Callable[[str, str], Fault | None]) -> Iterator[dict[str, str]]:
        """Yield the variables for clients that read from the server through a proxy; uploads do not pass it.

        Args:
            fault_of: method and path of a request -> what becomes of it; called from several threads.
        """

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(handler) -> None:  # noqa: N805 - `self` is the server
                with contextlib.suppress(OSError, ValueError):  # the client has gone, or was reset
                    super().handle_one_request()

            def forward(handler) -> None:  # noqa: N805
                fault = fault_of(handler.command, handler.path)
                server = http.client.HTTPConnection("127.0.0.1", self.port)
                server.request(handler.command, handler.path, headers=dict(handler.headers))
                answer = server.getresponse()
                content = answer.read()
                server.close()
                handler.send_response_only(500 if fault is Fault.ERROR else answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        handler.send_header(name, value)
                length = answer.getheader("Content-Length") if handler.command == "HEAD" else str(len(content))
                handler.send_header("Content-Length", length or "0")
                handler.end_headers()
                if fault is not Fault.RESET:
                    handler.wfile.write(content)
                    return
                handler.wfile.write(content[: len(content) // 2])
                handler.close_connection = True
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                for file in (handler.rfile, handler.wfile, handler.connection):  # the last one to be closed resets it
                    file.close()

            do_GET = do_HEAD = forward  # noqa: N815

            def log_message(handler, format: str, *values: object) -> None:  # noqa: N805
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
            proxy.daemon_threads = True
            thread = threading.Thread(target=proxy.serve_forever)
            thread.start()
            try:
                yield {**self.variables, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"}
            finally:
                proxy.shutdown()
                thread.join()


@contextlib.contextmanager
def running_server() -> Iterator[S3Server]:
    """Yield a server with an empty bucket."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the S3 server did not start"
            server = S3Server(int(line))
            server.files.create_dir(BUCKET)
            yield server
        finally:
            process.kill()
