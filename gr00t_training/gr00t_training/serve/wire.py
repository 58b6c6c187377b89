# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Encode messages between policy server and client: msgpack, with arrays in one of the two published formats.

    N1.5  {"__ndarray_class__": true, "as_npy": <a .npy file>}
          {"__ModalityConfig_class__": true, "as_json": "<JSON text>"}
    N1.7  {b"nd": true, b"type": "<f4", b"kind": b"", b"shape": [2, 3], b"data": <bytes>}   (that of msgpack-numpy)
          {"__ModalityConfig__": true, "as_json": {...}}
    ours  {"__jpeg__": true, "shape": [..., H, W, 3], "files": [<a JPEG or PNG file>, ...]}

Nothing that could run code is read or written: no pickle, no object arrays. Structure and sizes are checked before
any object is created (`gr00t_training.serve.msgpack_reader`). Decoded arrays are read-only views of the message. The
meaning of a message is in `gr00t_training.serve.messages`.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import msgpack
import numpy as np

from gr00t_training.errors import ServerError
from gr00t_training.io.text import printable
from gr00t_training.serve.msgpack_reader import ScannedMessage, scan

MAX_MESSAGE_BYTES = 64 * 2**20  # 24 raw images of 1280x720
MAX_AXES = 8  # published messages have at most 5
MAX_SHOWN_VALUES = 10  # of a list in an error

_TYPE = re.compile(r"[<>|=]?[biufSU][1-9]\d{0,8}")  # numbers, booleans and text
_NPY_START = b"\x93NUMPY"
_NPY_FIELDS = {  # of a .npy header
    "descr": re.compile(r"'descr':\s*'([^']*)'"),
    "fortran_order": re.compile(r"'fortran_order':\s*(True|False)"),
    "shape": re.compile(r"'shape':\s*\(((?:\d{1,12}\s*,\s*)*(?:\d{1,12}\s*)?)\)"),
}
_NPY_MAX_HEADER = 10_000  # bytes
_MAX_TYPE = 16  # characters
_BYTES = (bytes, memoryview)


class Wire(str, Enum):
    """Release that defined the message format."""

    N1_5 = "n1.5"
    N1_7 = "n1.7"


@dataclass(frozen=True)
class ModalityConfig:
    """Keys and ticks of one modality, as in the releases."""

    delta_indices: tuple[int, ...]  # ticks relative to now
    modality_keys: tuple[str, ...]
    sin_cos_embedding_keys: tuple[str, ...] | None = None  # N1.7 only, like all that follow
    mean_std_embedding_keys: tuple[str, ...] | None = None
    action_configs: tuple[Mapping[str, str | None], ...] | None = None


@dataclass(frozen=True)
class EncodedImages:
    """Images as JPEG or PNG files."""

    shape: tuple[int, ...]  # (..., H, W, 3)
    files: tuple[bytes | memoryview, ...]  # one per image, in order of the leading axes


def pack(content: Any, wire: Wire) -> bytes:
    """Encode a message.

    Args:
        content: maps, lists, text, numbers, bytes, None; also arrays, `ModalityConfig` and `EncodedImages`.
        wire: format of arrays and modality configs.

    Raises:
        ServerError: the content has another type, such as an object array.
    """

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject or not _TYPE.fullmatch(value.dtype.str):
                raise ServerError(f"array of {value.dtype}: cannot be sent; send numbers, booleans or text")
            return _npy_map(value) if wire is Wire.N1_5 else _numpy_map(value)
        if isinstance(value, ModalityConfig):
            return _modality_map(value, wire)
        if isinstance(value, EncodedImages):
            return {"__jpeg__": True, "shape": value.shape, "files": value.files}
        raise ServerError(f"{type(value).__name__}: cannot be sent; send maps, lists, text, numbers or arrays")

    return msgpack.packb(content, default=encode)  # type: ignore[return-value] # None only without autoreset


def unpack(
    message: bytes | memoryview, wire: Wire | None = None, max_bytes: int = MAX_MESSAGE_BYTES
) -> tuple[Any, Wire | None]:
    """Decode a message.

    Args:
        message: one frame.
        wire: the only format to accept; None: both.
        max_bytes: a longer message is refused.

    Returns:
        The content, and the format of its arrays or modality configs; None if there are none.

    Raises:
        ServerError: the message is too long, truncated or malformed, or has content that is refused.
    """
    return read_content(scan_message(message, max_bytes), wire)


def scan_message(message: bytes | memoryview, max_bytes: int = MAX_MESSAGE_BYTES) -> ScannedMessage:
    """Check size and structure of a message without reading its content.

    Raises:
        ServerError: the message is too long, truncated or malformed, or above a limit.
    """
    size = memoryview(message).nbytes
    if size > max_bytes:
        raise ServerError(
            f"message of {size} bytes (limit {max_bytes}); send fewer or smaller images, or raise "
            "the server's --max-request-mib"
        )
    return scan(message)


def read_content(message: ScannedMessage, wire: Wire | None = None) -> tuple[Any, Wire | None]:
    """Read a message after its structure was checked; see `unpack`."""
    reader = _Reader(wire)
    return message.read(reader.read_map), reader.seen


class _Reader:
    """Decode maps that represent arrays, images and modality configs; remember their format."""

    def __init__(self, wire: Wire | None) -> None:
        self._wire = wire
        self.seen: Wire | None = None

    def read_map(self, content: dict) -> Any:
        if b"nd" in content:
            self._see(Wire.N1_7)
            return _from_numpy_map(content)
        if "__ndarray_class__" in content:
            self._see(Wire.N1_5)
            return _from_npy(_field(content, "as_npy", _BYTES, "array"))
        if "__ModalityConfig__" in content:
            self._see(Wire.N1_7)
            return _from_modality_map(_field(content, "as_json", dict, "modality config"))
        if "__ModalityConfig_class__" in content:
            self._see(Wire.N1_5)
            return _from_modality_map(_json(_field(content, "as_json", str, "modality config")))
        if "__jpeg__" in content:
            return _from_images_map(content)
        return content

    def _see(self, wire: Wire) -> None:
        expected = self._wire or self.seen
        if expected and wire is not expected:
            raise ServerError(
                f"message: found an array or config in the format of {wire.value}, expected {expected.value}"
            )
        self.seen = wire


def _npy_map(array: np.ndarray) -> dict[str, Any]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    is_column_major = array.flags.f_contiguous and not array.flags.c_contiguous  # as the header says
    content = _bytes_of(array.T if is_column_major else array)
    return {"__ndarray_class__": True, "as_npy": b"".join([header.getvalue(), content])}


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _from_npy(file: bytes | memoryview) -> np.ndarray:
    # not read by NumPy, which evaluates the header as Python
    magic = bytes(file[:8])
    if magic not in (_NPY_START + b"\x01\x00", _NPY_START + b"\x02\x00"):
        raise ServerError(f"array: not a .npy file of version 1 or 2, it starts with {magic!r}")
    start = 10 if magic.endswith(b"\x01\x00") else 12
    end = start + int.from_bytes(file[8:start], "little")
    header = str(file[start : min(end, _NPY_MAX_HEADER)], "latin-1")
    fields = {name: pattern.search(header) for name, pattern in _NPY_FIELDS.items()}
    missing = [name for name, found in fields.items() if found is None]
    if missing or end > len(file):
        raise ServerError(
            f"array: header of its .npy file is truncated or has no plain {' and '.join(missing) or 'end'}: "
            f"{header[:100]!r}; arrays of objects or records (pickle) are refused"
        )
    kind, is_fortran, lengths = (found[1] for found in fields.values() if found)
    shape = [int(length) for length in lengths.split(",", MAX_AXES + 1) if length.strip().isdigit()]
    return _view(kind, shape, file, end, "F" if is_fortran == "True" else "C")


def _numpy_map(array: np.ndarray) -> dict[bytes, Any]:
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": _bytes_of(array)}


def _from_numpy_map(content: dict) -> Any:
    if content.get(b"kind", b"") != b"":
        raise ServerError(f"array: kind {shown(content[b'kind'])} is refused; arrays of objects or records need pickle")
    kind = _field(content, b"type", str, "array")
    values = _field(content, b"data", _BYTES, "array")
    if content[b"nd"] is not True:
        return _view(kind, [], values)[()]  # a single number
    return _view(kind, _field(content, b"shape", list, "array"), values)


def _view(kind: str, shape: list, content: bytes | memoryview, offset: int = 0, order: Any = "C") -> np.ndarray:
    """Return a read-only view of the bytes from `offset` on."""
    try:
        dtype = np.dtype(kind) if len(kind) < _MAX_TYPE and _TYPE.fullmatch(kind) else None
    except (TypeError, ValueError):  # no such width
        dtype = None
    if dtype is None:
        raise ServerError(f"array: type {shown(kind)} is refused; expected numbers, booleans or text, never objects")
    if len(shape) > MAX_AXES or not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise ServerError(f"array: shape {shown(shape)} is refused; expected at most {MAX_AXES} whole numbers")
    found, expected = len(content) - offset, math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ServerError(f"array: found {found} bytes, {kind} {tuple(shape)} has {expected}; the message is damaged")
    try:
        return np.ndarray(tuple(shape), dtype, content, offset, order=order)
    except (ValueError, TypeError) as error:  # empty, with axes above NumPy's limit
        raise ServerError(f"array: shape {shown(shape)} is refused ({error})") from error


def _modality_map(config: ModalityConfig, wire: Wire) -> dict[str, Any]:
    fields = asdict(config)
    if wire is Wire.N1_7:
        return {"__ModalityConfig__": True, "as_json": fields}
    fields = {name: fields[name] for name in ("delta_indices", "modality_keys")}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    return {"__ModalityConfig_class__": True, "as_json": text}


def _json(text: str) -> dict:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"modality config: not JSON ({error}): {shown(text)}") from error
    if not isinstance(content, dict):
        raise ServerError(f"modality config: found {type(content).__name__}, expected an object: {shown(text)}")
    return content


def _from_modality_map(content: dict) -> ModalityConfig:
    deltas = _field(content, "delta_indices", list, "modality config")
    keys = _field(content, "modality_keys", list, "modality config")
    if not all(type(delta) is int for delta in deltas) or not all(isinstance(key, str) for key in keys):
        raise ServerError(
            f"modality config: found delta_indices {shown(deltas)} and modality_keys {shown(keys)}, expected "
            "whole numbers and text"
        )
    others = {
        name: tuple(content[name]) if isinstance(content.get(name), list) else None
        for name in ("sin_cos_embedding_keys", "mean_std_embedding_keys", "action_configs")
    }
    return ModalityConfig(tuple(deltas), tuple(keys), **others)


def _from_images_map(content: dict) -> EncodedImages:
    shape, files = _field(content, "shape", list, "images"), _field(content, "files", list, "images")
    is_shape = 3 <= len(shape) <= MAX_AXES and all(type(length) is int and 0 < length < 2**40 for length in shape)
    if not is_shape or shape[-1] != 3:
        raise ServerError(f"images: shape {shown(shape)}, expected (..., H, W, 3) of at most {MAX_AXES} axes")
    if not all(isinstance(file, _BYTES) for file in files) or len(files) != math.prod(shape[:-3]):
        raise ServerError(f"images: {len(files)} files, shape {tuple(shape)} expects {math.prod(shape[:-3])} as bytes")
    return EncodedImages(tuple(shape), tuple(files))


def _field(content: dict, name: str | bytes, kind: Any, subject: str) -> Any:
    value = content.get(name)
    if not isinstance(value, kind):
        text = name if isinstance(name, str) else name.decode()
        expected = "bytes" if kind is _BYTES else kind.__name__
        raise ServerError(f"{subject}: '{text}' is {type(value).__name__}, expected {expected}")
    return value


def shown(value: Any) -> str:
    """Return a value of a peer for an error: one line, truncated before it is formatted."""
    if isinstance(value, list):
        items = ", ".join(shown(item) for item in value[:MAX_SHOWN_VALUES])
        return f"[{items}{', ...' if len(value) > MAX_SHOWN_VALUES else ''}]"
    if isinstance(value, (str, *_BYTES)):
        return printable(repr(value[:40] if isinstance(value, str) else bytes(value[:40])))
    return str(value) if value is None or isinstance(value, (bool, int, float)) else type(value).__name__
