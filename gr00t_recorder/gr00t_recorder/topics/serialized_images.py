# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read serialized image messages without copying their pixels.

Deserializing a raw image of 640x480 copies its megabyte, for most of a millisecond in which no other Python thread of
the process gets on; and most images are never decoded. Here the pixels stay where they are. The layout is that of
plain CDR (OMG DDS-XTYPES 1.3, 7.4.3: "XCDR1"): four bytes for the encoding, then the fields in their order, each
number at a multiple of its size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

PLAIN_CDR = (b"\x00\x00", b"\x00\x01")  # big endian, little endian
_STAMP_OFFSET = 4


@dataclass(frozen=True, slots=True)
class Stamp:
    """Field names of builtin_interfaces/msg/Time."""

    sec: int
    nanosec: int


@dataclass(frozen=True, slots=True)
class Header:
    """Field names of std_msgs/msg/Header."""

    stamp: Stamp
    frame_id: str


class _Portable:
    """A message that can be written to disk, where a view of its bytes could not."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        values = (getattr(self, name) for name in self.__slots__)
        return type(self), tuple(bytes(value) if isinstance(value, memoryview) else value for value in values)


@dataclass(frozen=True, slots=True)
class RawImage(_Portable):
    """Field names of sensor_msgs/msg/Image."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview | bytes


@dataclass(frozen=True, slots=True)
class EncodedImage(_Portable):
    """Field names of sensor_msgs/msg/CompressedImage."""

    header: Header
    format: str
    data: memoryview | bytes


def read_raw_image(serialized: bytes) -> RawImage:
    """Return a sensor_msgs/msg/Image whose data are a view of `serialized`, plain CDR.

    Raises:
        ValueError: the message is cut short.
    """
    reader = _Reader(serialized)
    header = reader.header()
    height, width = reader.number(), reader.number()
    return RawImage(header, height, width, reader.text(), reader.octet(), reader.number(), reader.octets())


def read_encoded_image(serialized: bytes) -> EncodedImage:
    """Return a sensor_msgs/msg/CompressedImage whose data are a view of `serialized`, plain CDR.

    Raises:
        ValueError: the message is cut short.
    """
    reader = _Reader(serialized)
    return EncodedImage(reader.header(), reader.text(), reader.octets())


class _Reader:
    """Goes through the fields of one message."""

    def __init__(self, serialized: bytes) -> None:
        self._view = memoryview(serialized)
        order = "<" if serialized[1] & 1 else ">"
        self._number = struct.Struct(f"{order}I")
        self._stamp = struct.Struct(f"{order}iI")
        self._place = _STAMP_OFFSET

    def header(self) -> Header:
        sec, nanosec = self._stamp.unpack(self._take(self._stamp.size))
        return Header(Stamp(sec, nanosec), self.text())

    def number(self) -> int:
        self._place += -self._place % self._number.size
        return self._number.unpack(self._take(self._number.size))[0]

    def octet(self) -> int:
        return self._take(1)[0]

    def text(self) -> str:
        return bytes(self._take(self.number())).rstrip(b"\0").decode("utf-8", "replace")

    def octets(self) -> memoryview:
        return self._take(self.number())

    def _take(self, size: int) -> memoryview:
        taken = self._view[self._place : self._place + size]
        if len(taken) < size:
            raise ValueError(f"cut short: {len(self._view)} bytes, expected at least {self._place + size}")
        self._place += size
        return taken
