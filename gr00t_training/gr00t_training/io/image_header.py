# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read kind and size of a JPEG or PNG from its header, before a decoder allocates memory for it.

Sources: ITU-T T.81 annex B (JPEG markers and frame header), W3C PNG specification section 11.2.2 (IHDR).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_SIDE = 8192  # [px], as the embodiment's limit
MAX_PARTS = 2**16  # chunks of a PNG (libpng writes 8 KiB each), markers and fill bytes of a JPEG's header
MAX_PIXELS = 2**25  # 33.5 million: 8K video; 100 MB as RGB
# frame headers SOF0 to SOF15, without DHT (C4), JPG (C8) and DAC (CC)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_PNG_CHUNK = struct.Struct(">I4s")  # length of the content, type; four bytes of CRC follow the content
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # APNG: frames with different sizes


@dataclass(frozen=True)
class ImageHeader:
    """What a compressed image says about itself."""

    kind: str  # "jpeg" or "png"
    width: int  # [px]
    height: int  # [px]


def read_header(content: bytes | memoryview) -> ImageHeader:
    """Return kind and size of a JPEG or PNG.

    Raises:
        ValueError: neither, cut short inside the header or (PNG) anywhere, animated, or larger than `MAX_SIDE` or
            `MAX_PIXELS`.
    """
    view = memoryview(content)
    start = bytes(view[:8])
    if start == PNG_START:
        header = _png_header(view)
    elif start[:3] == JPEG_START:
        header = _jpeg_header(view)
    else:
        raise ValueError("is neither JPEG nor PNG")
    if min(header.width, header.height) < 1:
        raise ValueError(f"has the size {header.width}x{header.height}")
    if max(header.width, header.height) > MAX_SIDE or header.width * header.height > MAX_PIXELS:
        raise ValueError(
            f"has the size {header.width}x{header.height} (limit {MAX_SIDE} a side and {MAX_PIXELS} pixels)"
        )
    if header.kind == "png":
        _check_chunks(view)
    return header


def _png_header(view: memoryview) -> ImageHeader:
    if len(view) < 24 or bytes(view[12:16]) != b"IHDR":
        raise ValueError("is a PNG that is cut short in its header")
    width, height = struct.unpack_from(">II", view, 16)
    return ImageHeader("png", width, height)


def _check_chunks(view: memoryview) -> None:
    """Check that the chunks are inside the file: a decoder allocates the length that a chunk declares."""
    position = len(PNG_START)
    for _ in range(MAX_PARTS):
        if position + _PNG_CHUNK.size + 4 > len(view):
            return
        length, kind = _PNG_CHUNK.unpack_from(view, position)
        left = len(view) - position - _PNG_CHUNK.size - 4
        if length > left:
            raise ValueError(f"is a PNG that is cut short: a chunk of {length} bytes, {left} are left")
        if kind in _ANIMATION:
            raise ValueError("is an animated PNG")
        if kind == b"IEND":
            return
        position += _PNG_CHUNK.size + length + 4
    raise ValueError(f"is a PNG of more than {MAX_PARTS} chunks")


def _jpeg_header(view: memoryview) -> ImageHeader:
    position = 2
    for _ in range(MAX_PARTS):
        if position + 4 > len(view):
            break
        if view[position] != 0xFF:
            raise ValueError("is a damaged JPEG (no marker where one is due)")
        marker = view[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker in _FRAME_HEADERS:
            if position + 9 > len(view):
                break
            height, width = struct.unpack_from(">HH", view, position + 5)
            return ImageHeader("jpeg", width, height)
        else:
            position += 2 + struct.unpack_from(">H", view, position + 2)[0]
    raise ValueError("is a JPEG that is cut short in its header")
