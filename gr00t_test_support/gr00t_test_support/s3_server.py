# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on a free port of this machine (moto), with one bucket; it ends with the process that started it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
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

    @property
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
