# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of S3-compatible object storage: list, download, upload.

Through pyarrow's file system: it is a dependency already, and its wheels speak S3; s3fs would add botocore, aiohttp and
an event loop. Credentials are those of the AWS SDK: variables, `~/.aws`, the role of the machine.

An object is the one that was listed as long as it has that size and time; a download that ends with other ones is
refused. Times have seconds only, so an object that is younger than `SETTLED_S` is recognized by its ETag as well: a
listing has none, and asking for it takes a request an object. An upload is compared by ETag, which is made of MD5
digests of its parts; where a storage has other ETags (encrypted buckets), by reading it back.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from gr00t_training.errors import DatasetError, Gr00tError
from gr00t_training.io.files import check_name, open_regular
from gr00t_training.io.text import printable

logger = logging.getLogger(__name__)

BLOCK_BYTES = 10 * 2**20  # read at once, and a part of an upload, as pyarrow makes them
THREADS = 16  # that wait for answers
# An object that was changed longer ago than this when it was listed is not changed again within the same second. Covers
# a local clock that is ahead of the storage's; those that are younger take a request each.
SETTLED_S = 60
# Waits before a download is tried again [s], in addition to the attempts of the SDK, which take two seconds: a run of
# days survives a restart of the storage. A wrong address is noticed at once, when the folder is listed.
RETRIES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
CONNECT_S, REQUEST_S = 10.0, 60.0  # timeouts of one attempt of one request
COPY_FIRST = "copy it to a folder with gr00t_dataset copy, and back when it is done"
WRITE_FIRST = "write to a local folder, and copy it there when it is done"
LOCAL_ONLY = "robots read and write local files; use gr00t_dataset copy before or afterwards"
USE_LOCAL = "use a local one, and copy it from or to there"
_URL = re.compile(r"s3:/{1,2}([^/]+)/*(.*?)/*")
_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_OTHER_STORAGE = "and AWS_ENDPOINT_URL for other storage than AWS"
_UNAVAILABLE = ("NETWORK_CONNECTION", "INTERNAL_FAILURE", "UNAVAILABLE", "SLOW_DOWN", "THROTTLING", "TIMEOUT")
_NO_ACCESS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "TOKEN", "CREDENTIAL", "AUTHENTICATION")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


def remote_url(path: str | Path) -> str | None:
    """Return `s3://bucket/prefix` of a path in object storage, also where `Path` joined its slashes; None: local."""
    found = _URL.fullmatch(str(path))
    return f"s3://{found[1]}/{found[2]}".rstrip("/") if found else None


def refuse_remote(
    path: str | Path, remedy: str = COPY_FIRST, *, error: type[Gr00tError] = DatasetError, subject: str = ""
) -> None:
    """Raise `error` where a path is in object storage and a local one is needed; `subject` is what it was given as."""
    url = remote_url(path)
    if url is not None:
        raise error(f"{subject}{url}: is in object storage, expected a local path; {remedy}")


@dataclass(frozen=True)
class ObjectState:
    """What an object is recognized by."""

    size: int  # [bytes]
    modified_s: int  # since 1970, as the storage says
    tag: str = ""  # its ETag; empty: not asked for, size and time are enough

    def is_same(self, other: ObjectState | None) -> bool:
        """Whether both are of the same content; where one has no tag, size and time decide."""
        if other is None or (self.size, self.modified_s) != (other.size, other.modified_s):
            return False
        return self.tag == other.tag or not (self.tag and other.tag)


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
        settled_s = time.time() - SETTLED_S
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
                # a listing may have fractions of a second that other answers about the object do not have
                found[name] = ObjectState(int(info.size), int(info.mtime_ns) // 10**9)
        young = [name for name, state in found.items() if state.modified_s > settled_s]
        with ThreadPoolExecutor(THREADS) as pool:
            found |= {name: state for name, state in zip(young, pool.map(self.state, young), strict=True) if state}
        return dict(sorted(found.items()))

    def state(self, name: str) -> ObjectState | None:
        """Return the state of one object with its tag, None if there is none; errors as `list`."""
        try:
            with self._opened(name) as stream:
                return _state(stream.metadata())
        except _NoObjectError:
            return None

    def download(self, name: str, expected: ObjectState, file: BinaryIO) -> None:
        """Write the content of an object to a file; tries again for a minute while the storage does not answer.

        Raises:
            DatasetError: it is missing, or not (or no longer) in the expected state; no access, no answer.
            OSError: the file cannot be written.
        """
        start = file.tell()
        for wait_s in RETRIES_S:
            try:
                self._download(name, expected, file)
                return
            except _UnavailableError as error:
                logger.warning("%s; trying again in %g s", error, wait_s)
                time.sleep(wait_s)
                file.seek(start)
        self._download(name, expected, file)

    def _download(self, name: str, expected: ObjectState, file: BinaryIO) -> None:
        size = 0
        with self._opened(name) as stream:
            found = _state(stream.metadata())
            for block in self._blocks(stream, name):
                size += len(block)
                if size > expected.size:
                    break
                file.write(block)
        if size != expected.size or not found.is_same(expected) or found != self.state(name):
            raise DatasetError(
                f"{self.address(name)}: changed since it was listed (found {size} bytes, another time or content, "
                f"expected {expected.size}); start again with the new one"
            )

    def upload(self, path: Path, name: str) -> None:
        """Make an object of a file, or replace it; readers see it when it is complete, and it is compared.

        Raises:
            DatasetError: the file cannot be read, or the object not be written, or is not equal to it; names both.
        """
        address = self.address(name)
        digests, size = [], 0
        with open_regular(path, DatasetError) as file:
            with self._explained(address):
                stream = self._files().open_output_stream(self._place(name))
            try:
                while block := file.read(BLOCK_BYTES):
                    digests.append(_digest(block))
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
        if found.tag not in _tags(digests) and self._digests(name) != digests:
            raise DatasetError(f"{address}: differs from {path} after the upload; upload it again")

    def holds(self, path: Path, name: str) -> bool:
        """Whether an object has the content of a file, as far as its ETag tells; False: it may have.

        Raises:
            DatasetError: the file cannot be read; or as `list`.
        """
        with open_regular(path, DatasetError) as file:
            digests = [_digest(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")]
        found = self.state(name)
        return found is not None and found.tag in _tags(digests)

    def remove(self, name: str) -> None:
        """Remove an object, if there is one; errors as `list`."""
        with contextlib.suppress(_NoObjectError), self._explained(self.address(name)):
            self._files().delete_file(self._place(name))

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        with self._explained(self.address(name)):
            stream = self._files().open_input_stream(self._place(name))
        with stream:
            yield stream

    def _blocks(self, stream: Any, name: str) -> Iterator[bytes]:
        while True:
            with self._explained(self.address(name)):
                block = stream.read(BLOCK_BYTES)
            if not block:
                return
            yield block

    def _digests(self, name: str) -> Sequence[bytes]:
        with self._opened(name) as stream:
            return [_digest(block) for block in self._blocks(stream, name)]

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
            raise _NoObjectError(f"{address}: no such object; check the address") from error
        except OSError as error:
            kind, status = _aws_error(str(error))
            raised = _UnavailableError if _may_answer_later(kind, status) else DatasetError
            raise raised(f"{printable(address)}: {self._reason(str(error))}") from error

    def _no_bucket(self) -> str:
        return f"there is no bucket '{self._bucket}'; check its name, {_OTHER_STORAGE}"

    def _reason(self, text: str) -> str:
        kind, status = _aws_error(text)
        if kind == "NO_SUCH_BUCKET" or f"Bucket '{self._bucket}' not found" in text:
            return self._no_bucket()
        if status == "403" or any(part in kind for part in _NO_ACCESS):
            return (
                f"access is refused ({kind}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of "
                "somebody who has the right"
            )
        if kind == "NETWORK_CONNECTION":
            return f"the storage does not answer; check the network, {_OTHER_STORAGE}"
        if _may_answer_later(kind, status):
            return f"the storage has an error of its own ({kind}); try again later"
        return f"the storage refuses it ({printable(text, 300)}); try again, and check AWS_ENDPOINT_URL"


class _NoObjectError(DatasetError):
    """There is no such object."""


class _UnavailableError(DatasetError):
    """The storage does not answer, or has an error of its own; it may answer later."""


def _aws_error(text: str) -> tuple[str, str]:
    """Return kind and HTTP status of an error of the SDK, as far as its text has them."""
    found = _AWS_ERROR.search(text)
    return (found[1], found[2] or "") if found else ("", "")


def _may_answer_later(kind: str, status: str) -> bool:
    return status.startswith("5") or any(part in kind for part in _UNAVAILABLE)


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


def _state(metadata: Mapping[str, bytes]) -> ObjectState:
    """Return the state of an object from what the storage says about it."""
    texts = {name: value.decode() for name, value in metadata.items()}
    modified = datetime.fromisoformat(texts["Last-Modified"].replace("Z", "+00:00"))
    return ObjectState(int(texts["Content-Length"]), int(modified.timestamp()), texts.get("ETag", "").strip('"'))


def _digest(block: bytes) -> bytes:
    return hashlib.md5(block, usedforsecurity=False).digest()


def _tags(digests: Sequence[bytes]) -> tuple[str, ...]:
    """Return the ETags of a content with these digests of its parts: uploaded in parts, or at once."""
    parts = digests or [_digest(b"")]
    in_parts = f"{_digest(b''.join(parts)).hex()}-{len(parts)}"
    return (in_parts, parts[0].hex()) if len(parts) == 1 else (in_parts,)
