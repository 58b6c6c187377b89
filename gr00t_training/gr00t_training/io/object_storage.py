# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of S3-compatible object storage: list, download, upload.

Through pyarrow's file system: it is a dependency already, and its wheels speak S3; s3fs would add botocore, aiohttp and
an event loop. Credentials and retries are those of the AWS SDK: variables, `~/.aws`, the role of the machine. An object
is the one that was listed as long as it has that size and time; a download that ends with other ones is refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gr00t_training.errors import DatasetError
from gr00t_training.io.files import check_name, open_regular
from gr00t_training.io.text import printable

BLOCK_BYTES = 8 * 2**20  # read at once; a part of an upload has 10 MiB
CONNECT_S, REQUEST_S = 10.0, 60.0  # timeouts of one attempt of one request
COPY_FIRST = "copy it to a folder with gr00t_dataset copy, and back when it is done"
_URL = re.compile(r"s3:/{1,2}([^/]+)/*(.*?)/*")
_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_OTHER_STORAGE = "and AWS_ENDPOINT_URL for other storage than AWS"
_NO_ACCESS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "TOKEN", "CREDENTIAL", "AUTHENTICATION")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


def remote_url(path: str | Path) -> str | None:
    """Return `s3://bucket/prefix` of a path in object storage, also where `Path` joined its slashes; None: local."""
    found = _URL.fullmatch(str(path))
    return f"s3://{found[1]}/{found[2]}".rstrip("/") if found else None


def refuse_remote(path: str | Path, remedy: str = COPY_FIRST) -> None:
    """Raise DatasetError where a path is in object storage and a local folder is needed."""
    url = remote_url(path)
    if url is not None:
        raise DatasetError(f"{url}: is in object storage, expected a local folder; {remedy}")


@dataclass(frozen=True)
class ObjectState:
    """What an object is recognized by."""

    size: int  # [bytes]
    modified_s: int  # since 1970, as the storage says


class RemoteFolder:
    """The objects of a bucket below a prefix; for any thread, may be sent to other processes."""

    def __init__(self, url: str) -> None:
        """Name a folder, `s3://bucket/prefix`; nothing is asked yet."""
        self.url = url
        self._bucket, _, self._prefix = url.removeprefix("s3://").partition("/")

    def address(self, name: str) -> str:
        """Return the URL of an object of the folder."""
        return f"{self.url}/{name}"

    def list(self) -> dict[str, ObjectState]:
        """Return all objects by name relative to the folder, sorted; empty where there is none.

        Raises:
            DatasetError: no such bucket, no access, no answer, or a name that leaves the folder.
        """
        from pyarrow import fs

        place = self._place()
        with self._explained(self.url):
            selector = fs.FileSelector(place, recursive=True, allow_not_found=True)
            infos = self._files().get_file_info(selector)
            if not infos and self._files().get_file_info(self._bucket).type == fs.FileType.NotFound:
                raise DatasetError(f"{self.url}: {self._no_bucket()}")
        found = {}
        for info in infos:
            if info.type == fs.FileType.File:
                name = info.path.removeprefix(f"{place}/")
                check_name(name, DatasetError, self.url)
                found[name] = _state(info)
        return dict(sorted(found.items()))

    def state(self, name: str) -> ObjectState | None:
        """Return the state of one object, None if there is none; errors as `list`."""
        from pyarrow import fs

        with self._explained(self.address(name)):
            info = self._files().get_file_info(self._place(name))
        return _state(info) if info.type == fs.FileType.File else None

    def download(self, name: str, expected: ObjectState, file: BinaryIO) -> None:
        """Write the content of an object to a file.

        Raises:
            DatasetError: it is missing, or not (or no longer) in the expected state; no access, no answer.
            OSError: the file cannot be written.
        """
        address = self.address(name)
        size = 0
        with self._explained(address):
            stream = self._files().open_input_stream(self._place(name))
        with stream:
            while True:
                with self._explained(address):
                    block = stream.read(BLOCK_BYTES)
                if not block:
                    break
                size += len(block)
                if size > expected.size:
                    break
                file.write(block)
        if size != expected.size or self.state(name) != expected:
            raise DatasetError(
                f"{address}: changed since it was listed (found {size} bytes or another time, expected "
                f"{expected.size}); start again with the new one"
            )

    def upload(self, path: Path, name: str) -> None:
        """Make an object of a file; it appears when it is complete, and its size is compared.

        Raises:
            DatasetError: the file cannot be read, or the object not be written; names both.
        """
        address = self.address(name)
        size = 0
        with open_regular(path, DatasetError) as file:
            with self._explained(address):
                stream = self._files().open_output_stream(self._place(name))
            try:
                while block := file.read(BLOCK_BYTES):
                    size += len(block)
                    with self._explained(address):
                        stream.write(block)
                with self._explained(address):
                    stream.close()
            except BaseException:
                with contextlib.suppress(OSError):
                    stream.close()  # the stream completes what it has, whenever it is closed
                    self._files().delete_file(self._place(name))
                raise
        found = self.state(name)
        if found is None or found.size != size:
            raise DatasetError(
                f"{address}: has {found.size if found else 'no'} bytes after the upload, expected {size} as in {path}; "
                "upload it again"
            )

    def _place(self, name: str = "") -> str:
        return "/".join(part for part in (self._bucket, self._prefix, name) if part)

    def _files(self) -> Any:
        with self._explained(self.url):
            return _file_system(self._bucket, _first_variable(_ENDPOINT_VARIABLES), _first_variable(_REGION_VARIABLES))

    @contextlib.contextmanager
    def _explained(self, address: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DatasetError(f"{address}: no such object; check the address") from error
        except OSError as error:
            raise DatasetError(f"{printable(address)}: {self._reason(str(error))}") from error

    def _no_bucket(self) -> str:
        return f"there is no bucket '{self._bucket}'; check its name, {_OTHER_STORAGE}"

    def _reason(self, text: str) -> str:
        found = _AWS_ERROR.search(text)
        kind, status = (found[1], found[2] or "") if found else ("", "")
        if kind == "NO_SUCH_BUCKET" or f"Bucket '{self._bucket}' not found" in text:
            return self._no_bucket()
        if status == "403" or any(part in kind for part in _NO_ACCESS):
            return (
                f"access is refused ({kind}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of "
                "somebody who has the right"
            )
        if kind == "NETWORK_CONNECTION":
            return f"the storage does not answer; check the network, {_OTHER_STORAGE}"
        return f"the storage refuses it ({printable(text, 300)}); try again, and check AWS_ENDPOINT_URL"


@functools.lru_cache
def _file_system(bucket: str, endpoint: str, region: str) -> Any:
    """Return the client for a bucket; OSError where its region cannot be found."""
    try:
        from pyarrow.fs import S3FileSystem, resolve_s3_region
    except ImportError as error:  # a build without it
        raise DatasetError(f"s3://{bucket}: pyarrow is built without S3; install pyarrow from PyPI") from error
    options: dict[str, Any] = {"connect_timeout": CONNECT_S, "request_timeout": REQUEST_S}
    if endpoint:
        parts = urllib.parse.urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    return S3FileSystem(region=region or ("us-east-1" if endpoint else resolve_s3_region(bucket)), **options)


def _first_variable(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _state(info: Any) -> ObjectState:
    # a listing may have fractions of a second that other answers about the object do not have
    return ObjectState(int(info.size), int(info.mtime_ns) // 10**9)
