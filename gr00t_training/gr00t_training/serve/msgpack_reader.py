# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read msgpack of a peer within limits: the structure is checked before any object is created.

`scan` checks a message in one pass; its time is bounded by `MAX_OBJECTS`, whatever the size of the message.
`ScannedMessage` then reads single fields of the outermost map, such as a token, or everything. Large bytes (images) are
not copied: they are views of the message. Source: the msgpack specification, github.com/msgpack/msgpack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from gr00t_training.errors import ServerError
from gr00t_training.io.text import MAX_SHOWN

MAX_OBJECTS = 10_000  # a request of 32 samples with states as lists has under 3,000
MAX_DEPTH = 16  # published messages have 7 levels
MAX_LIST_ITEMS = 4096
MAX_MAP_ITEMS = 1024
MAX_TEXT_BYTES = 65_536
MAX_FIELD_BYTES = 1024  # of a text that `field` reads
VIEWED_BYTES = 512  # smaller bytes are copied

_SCALAR, _TEXT, _BYTES, _LIST, _MAP, _EXTENSION, _UNUSED = range(7)
# head byte -> kind, bytes of the size that follows, size where none follows
_WITH_SIZE = {
    **{0xC4 + i: (_BYTES, 1 << i, 0) for i in range(3)},
    **{0xC7 + i: (_EXTENSION, 0, 0) for i in range(3)},
    **{0xD4 + i: (_EXTENSION, 0, 0) for i in range(5)},
    **{0xD9 + i: (_TEXT, 1 << i, 0) for i in range(3)},
    **{0xDC + i: (_LIST, 2 << i, 0) for i in range(2)},
    **{0xDE + i: (_MAP, 2 << i, 0) for i in range(2)},
    **{head: (_SCALAR, 0, size) for head, size in zip(range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True)},
    0xC1: (_UNUSED, 0, 0),
}


def _describe_head(head: int) -> tuple[int, int, int]:
    if 0x80 <= head < 0x90:
        return _MAP, 0, head & 0x0F
    if 0x90 <= head < 0xA0:
        return _LIST, 0, head & 0x0F
    if 0xA0 <= head < 0xC0:
        return _TEXT, 0, head & 0x1F
    return _WITH_SIZE.get(head, (_SCALAR, 0, 0))


_PLACEHOLDER = b"\xd6\x00"  # extension of 4 bytes: the number of the large bytes that belong there
_HEADS = [_describe_head(head) for head in range(256)]


class ScannedMessage:
    """A message with a structure within the limits."""

    def __init__(self, view: memoryview, starts: list[int], large: list[tuple[int, int, int]]) -> None:
        """Take what `scan` found; use `scan`.

        Args:
            view: the message.
            starts: of the outermost container's items, and of the message.
            large: of large bytes: start of the value, start of the content, end.
        """
        self._view = view
        self._starts = starts
        self._large = large

    @property
    def num_bytes(self) -> int:
        """Size of the message."""
        return len(self._view)

    @property
    def is_map(self) -> bool:
        """Whether the outermost value is a map."""
        return _HEADS[self._view[0]][0] == _MAP

    def field(self, name: str) -> str | None:
        """Return a short text of the outermost map; None if it is absent, longer or something else.

        Raises:
            ServerError: the map has the key more than once.
        """
        if not self.is_map:
            return None
        found = None
        for key, start in zip(self._starts[1::2], self._starts[2::2], strict=True):
            if self._text(key) == name:
                if found is not None:
                    raise ServerError(f"message of {self.num_bytes} bytes: duplicate key '{name}'; send it once")
                found = start
        return None if found is None else self._text(found)

    def read(self, read_map: Callable[[dict], Any]) -> Any:
        """Return the content; `read_map` may turn a map into what it stands for. Bytes are bytes or memoryview.

        Raises:
            ServerError: a text is not UTF-8, or a key neither text nor bytes.
        """
        large = self._large
        pieces, end = [], 0
        for number, (start, _, next_end) in enumerate(large):
            pieces += [self._view[end:start], _PLACEHOLDER, number.to_bytes(4, "big")]
            end = next_end
        pieces.append(self._view[end:])

        def fill(_: int, number: bytes) -> memoryview:
            _, start, end = large[int.from_bytes(number, "big")]
            return self._view[start:end]

        try:
            return msgpack.unpackb(b"".join(pieces), object_hook=read_map, ext_hook=fill)
        except (ValueError, TypeError, msgpack.UnpackException) as error:  # a text or a key
            raise _malformed(self._view, str(error)[:MAX_SHOWN]) from error

    def _text(self, start: int) -> str | None:
        kind, width, size = _HEADS[self._view[start]]
        start += 1 + width
        if width:
            size = int.from_bytes(self._view[start - width : start], "big")
        if kind != _TEXT or size > MAX_FIELD_BYTES:
            return None
        try:
            return str(self._view[start : start + size], "utf-8")
        except UnicodeDecodeError:
            return None


def scan(message: bytes | memoryview) -> ScannedMessage:
    """Check a message's structure against the limits of this module, without reading its content.

    Raises:
        ServerError: truncated, not msgpack, or above a limit; names it.
    """
    view = memoryview(message).cast("B").toreadonly()
    end, position, num_objects = len(view), 0, 1
    starts: list[int] = []
    large: list[tuple[int, int, int]] = []
    to_come, outer = 1, []  # values of the innermost open container, and of those around it
    heads = _HEADS
    while to_come:
        if position >= end:
            raise _malformed(view, "it is truncated")
        if len(outer) < 2:
            starts.append(position)
        kind, width, size = heads[view[position]]
        position += 1
        to_come -= 1
        if width:
            size = int.from_bytes(view[position : position + width], "big")
            position += width
        if kind <= _BYTES:
            position += size
            if kind == _BYTES and size >= VIEWED_BYTES:
                large.append((position - size - width - 1, position - size, position))
            elif kind == _TEXT and size > MAX_TEXT_BYTES:
                raise _malformed(view, f"a text of {size} bytes, limit {MAX_TEXT_BYTES}")
        elif kind <= _MAP:
            num_values = _check_size(view, kind, size)
            num_objects += num_values
            if num_objects > MAX_OBJECTS:
                raise _malformed(view, f"more than {MAX_OBJECTS} values")
            outer.append(to_come)
            to_come = num_values
            if len(outer) > MAX_DEPTH:
                raise _malformed(view, f"nested deeper than {MAX_DEPTH} levels")
        else:
            raise _malformed(view, "an extension type" if kind == _EXTENSION else "a byte that has no meaning")
        while not to_come and outer:
            to_come = outer.pop()
    if position != end:
        raise _malformed(view, "it is truncated" if position > end else f"{end - position} bytes too many")
    return ScannedMessage(view, starts, large)


def _check_size(view: memoryview, kind: int, size: int) -> int:
    """Return the values of a list or map."""
    name, limit = ("map", MAX_MAP_ITEMS) if kind == _MAP else ("list", MAX_LIST_ITEMS)
    if size > limit:
        raise _malformed(view, f"a {name} of {size} items, limit {limit}")
    return 2 * size if kind == _MAP else size


def _malformed(view: memoryview, reason: str) -> ServerError:
    return ServerError(
        f"message of {len(view)} bytes: not msgpack within the limits ({reason}); it is damaged or has another format"
    )
