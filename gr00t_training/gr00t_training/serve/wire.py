# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages between policy server and client as bytes: msgpack, with arrays in one of the two published forms.

    N1.5  {"__ndarray_class__": true, "as_npy": <a .npy file>}
          {"__ModalityConfig_class__": true, "as_json": "<JSON text>"}
    N1.7  {b"nd": true, b"type": "<f4", b"kind": b"", b"shape": [2, 3], b"data": <bytes>}   (that of msgpack-numpy)
          {"__ModalityConfig__": true, "as_json": {...}}
    ours  {"__jpeg__": true, "shape": [..., H, W, 3], "files": [<a JPEG or PNG file>, ...]}

Nothing that could run code is read or written: no pickle, no object arrays. Decoded arrays are read-only views of the
message's bytes. What a message means is said in `gr00t_training.serve.messages`.
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

MAX_MESSAGE_BYTES = 256 * 2**20  # 90 raw images of 1280x720
MAX_LIST_ITEMS = 65_536  # lists and maps of small things must not grow to gigabytes of Python objects
MAX_MAP_ITEMS = 4_096
MAX_TEXT_BYTES = 2**20
MAX_AXES = 32  # of NumPy 1

_TYPE = re.compile(r"[<>|=]?[biufSU][1-9]\d{0,8}")  # numbers, booleans and text
_NPY_START = b"\x93NUMPY"
_NPY_FIELDS = {  # of a .npy header
    "descr": re.compile(r"'descr':\s*'([^']*)'"),
    "fortran_order": re.compile(r"'fortran_order':\s*(True|False)"),
    "shape": re.compile(r"'shape':\s*\(((?:\d{1,12}\s*,\s*)*(?:\d{1,12}\s*)?)\)"),
}
_NPY_MAX_HEADER = 10_000  # bytes


class Wire(str, Enum):
    """Which release's messages."""

    N1_5 = "n1.5"
    N1_7 = "n1.7"


@dataclass(frozen=True)
class ModalityConfig:
    """Keys and ticks of one modality, as the releases describe them."""

    delta_indices: tuple[int, ...]  # ticks relative to now
    modality_keys: tuple[str, ...]
    sin_cos_embedding_keys: tuple[str, ...] | None = None  # N1.7 only, like all that follow
    mean_std_embedding_keys: tuple[str, ...] | None = None
    action_configs: tuple[Mapping[str, str | None], ...] | None = None


@dataclass(frozen=True)
class EncodedImages:
    """Images as JPEG or PNG files."""

    shape: tuple[int, ...]  # (..., H, W, 3)
    files: tuple[bytes, ...]  # one per image, in order of the leading axes


def pack(content: Any, wire: Wire) -> bytes:
    """Return a message's bytes.

    Args:
        content: maps, lists, text, numbers, bytes, None; also arrays, `ModalityConfig` and `EncodedImages`.
        wire: form of arrays and modality configs.

    Raises:
        ServerError: something else is in it, such as an object array.
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
    """Read a message.

    Args:
        message: one frame.
        wire: the only form to accept; None: either.
        max_bytes: a longer message is refused.

    Returns:
        The content, and the form its arrays or modality configs have; None where it has none of them.

    Raises:
        ServerError: the message is too long, cut short or malformed, or holds what is refused.
    """
    size = memoryview(message).nbytes
    if size > max_bytes:
        raise ServerError(
            f"message of {size} bytes: longer than the limit of {max_bytes}; send fewer or smaller images"
        )
    reader = _Reader(wire)
    try:
        content = msgpack.unpackb(
            message,
            object_hook=reader.read_map,
            ext_hook=_refuse_extension,
            max_array_len=MAX_LIST_ITEMS,
            max_map_len=MAX_MAP_ITEMS,
            max_str_len=MAX_TEXT_BYTES,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ServerError(
            f"message of {size} bytes: not msgpack ({reason}); it is damaged or of another kind"
        ) from error
    return content, reader.seen


class _Reader:
    """Turns the maps that stand for something else into it; remembers their form."""

    def __init__(self, wire: Wire | None) -> None:
        self._wire = wire
        self.seen: Wire | None = None

    def read_map(self, content: dict) -> Any:
        if b"nd" in content:
            self._see(Wire.N1_7)
            return _from_numpy_map(content)
        if "__ndarray_class__" in content:
            self._see(Wire.N1_5)
            return _from_npy(_field(content, "as_npy", bytes, "array"))
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
                f"message: found an array or config in the form of {wire.value}, expected {expected.value}"
            )
        self.seen = wire


def _npy_map(array: np.ndarray) -> dict[str, Any]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    is_column_major = array.flags.f_contiguous and not array.flags.c_contiguous  # what the header then says
    content = _bytes_of(array.T if is_column_major else array)
    return {"__ndarray_class__": True, "as_npy": b"".join([header.getvalue(), content])}


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _from_npy(file: bytes) -> np.ndarray:
    # read here and not by NumPy, which evaluates the header as Python
    version = file[6:8]
    if not file.startswith(_NPY_START) or version not in (b"\x01\x00", b"\x02\x00"):
        raise ServerError(f"array: not a .npy file of version 1 or 2, it starts with {file[:8]!r}")
    start = 10 if version == b"\x01\x00" else 12
    end = start + int.from_bytes(file[8:start], "little")
    header = file[start : min(end, _NPY_MAX_HEADER)].decode("latin-1")
    fields = {name: pattern.search(header) for name, pattern in _NPY_FIELDS.items()}
    missing = [name for name, found in fields.items() if found is None]
    if missing or end > len(file):
        raise ServerError(
            f"array: header of its .npy file is cut short or has no plain {' and '.join(missing) or 'end'}: "
            f"{header[:100]!r}; arrays of objects or records (pickle) are refused"
        )
    kind, is_fortran, lengths = (found[1] for found in fields.values() if found)
    shape = [int(length) for length in lengths.split(",") if length.strip()]
    return _view(kind, shape, file, end, "F" if is_fortran == "True" else "C")


def _numpy_map(array: np.ndarray) -> dict[bytes, Any]:
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": _bytes_of(array)}


def _from_numpy_map(content: dict) -> Any:
    if content.get(b"kind", b"") != b"":
        raise ServerError(f"array: kind {content[b'kind']!r} is refused; arrays of objects or records need pickle")
    kind = _field(content, b"type", str, "array")
    values = _field(content, b"data", bytes, "array")
    if content[b"nd"] is not True:
        return _view(kind, [], values)[()]  # a single number
    return _view(kind, _field(content, b"shape", list, "array"), values)


def _view(kind: str, shape: list, content: bytes, offset: int = 0, order: Any = "C") -> np.ndarray:
    """Return a read-only view of the bytes behind `offset`."""
    try:
        dtype = np.dtype(kind) if _TYPE.fullmatch(kind) else None
    except TypeError:  # of no such width
        dtype = None
    if dtype is None:
        raise ServerError(f"array: type {kind[:40]!r} is refused; expected numbers, booleans or text, never objects")
    if len(shape) > MAX_AXES or not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise ServerError(f"array: shape {str(shape)[:100]} is refused; expected at most {MAX_AXES} whole numbers")
    found, expected = len(content) - offset, math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ServerError(f"array: found {found} bytes, {kind} {tuple(shape)} has {expected}; the message is damaged")
    return np.ndarray(tuple(shape), dtype, content, offset, order=order)


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
        raise ServerError(f"modality config: not JSON ({error}): {text[:100]!r}") from error
    if not isinstance(content, dict):
        raise ServerError(f"modality config: found {type(content).__name__}, expected an object: {text[:100]!r}")
    return content


def _from_modality_map(content: dict) -> ModalityConfig:
    deltas = _field(content, "delta_indices", list, "modality config")
    keys = _field(content, "modality_keys", list, "modality config")
    if not all(type(delta) is int for delta in deltas) or not all(isinstance(key, str) for key in keys):
        raise ServerError(
            f"modality config: found delta_indices {str(deltas)[:100]} and modality_keys {str(keys)[:100]}, expected "
            "whole numbers and text"
        )
    others = {
        name: tuple(content[name]) if isinstance(content.get(name), list) else None
        for name in ("sin_cos_embedding_keys", "mean_std_embedding_keys", "action_configs")
    }
    return ModalityConfig(tuple(deltas), tuple(keys), **others)


def _from_images_map(content: dict) -> EncodedImages:
    shape, files = _field(content, "shape", list, "images"), _field(content, "files", list, "images")
    if not all(type(length) is int and length > 0 for length in shape) or len(shape) < 3 or shape[-1] != 3:
        raise ServerError(f"images: shape {str(shape)[:100]}, expected (..., H, W, 3)")
    if not all(isinstance(file, bytes) for file in files) or len(files) != math.prod(shape[:-3]):
        raise ServerError(f"images: {len(files)} files, shape {tuple(shape)} expects {math.prod(shape[:-3])} as bytes")
    return EncodedImages(tuple(shape), tuple(files))


def _field(content: dict, name: str | bytes, kind: type, subject: str) -> Any:
    value = content.get(name)
    if not isinstance(value, kind):
        text = name if isinstance(name, str) else name.decode()
        raise ServerError(f"{subject}: '{text}' is {type(value).__name__}, expected {kind.__name__}")
    return value


def _refuse_extension(code: int, content: bytes) -> None:
    raise ServerError(f"message: extension type {code} is refused; send maps, lists, text, numbers or arrays")
