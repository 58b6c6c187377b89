# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Damage to texts, to trees of JSON or YAML values, and to files, drawn from a random generator."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTILE: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: rng.choice([0, -1, 1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    lambda rng: rng.choice([0.0, -0.5, 1e-9, 1e30, 1e308, float("nan"), float("inf"), float("-inf")]),
    lambda rng: rng.choice([None, True, False, "", " ", "0", "1e5", "nan", "null"]),
    lambda rng: rng.choice(["../../outside/x", "/etc/passwd", "a/b", "..", "~", "C:\\x", "{0}", "%s%n", "$(id)"]),
    lambda rng: rng.choice(["\x1b[31mred", "a\nb", "\u202eabc", "\U0001f600", "\ud800", "é" * 50, "x" * 100_000]),
    lambda rng: rng.choice([[], {}, [[]], [{}], {"": ""}, [None] * 3, list(range(2000)), {"a": {"b": {"c": []}}}]),
    lambda rng: _deep(rng.choice([30, 60, 400])),
    lambda rng: {f"key{i}": i for i in range(rng.choice([1, 100, 5000]))},
)


def mutate_tree(tree: Any, rng: random.Random, changes: int) -> Any:
    """Return a tree of dicts and lists with some places changed; `tree` is not kept."""
    for _ in range(changes):
        holder, key = _place(tree, rng)
        if holder is None:
            return hostile(rng)
        _change(holder, key, rng)
    return tree


def hostile(rng: random.Random) -> Any:
    """Return a value that is seldom what is expected."""
    return rng.choice(HOSTILE)(rng)


def mutate_bytes(content: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """Return bytes flipped, cut, repeated, moved, or with one of `others` put in."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([1, 2, 8, 100, 4000]))
        match rng.randrange(6):
            case 0:
                data[at:end] = bytes(rng.randrange(256) for _ in range(min(end - at, 64)))
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = bytes(data[at:end]) * rng.choice([1, 3, 50])
            case 3:
                data[at:at] = rng.choice(others) if others else b"\0"
            case 4:
                del data[at:]
            case _:
                if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def replace_file(path: Path, rng: random.Random) -> None:
    """Put something in the place of a file: a pipe, a folder, a link, a device, a sparse giant, nothing, a pointer."""
    path.unlink(missing_ok=True)
    match rng.randrange(9):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "/dev/stdin", "../outside", path.name, "nowhere"]))
        case 3:
            with path.open("wb") as file:
                file.truncate(rng.choice([1, 2**25 + 1, 2**33, 2**41]))
        case 4:
            path.touch()
        case 5:
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        case 6:
            path.write_bytes(rng.choice([b"PK\x03\x04", b"\x80\x04", b"\x89PNG", b"\xff\xfe{\0}\0", b"\0" * 100]))
        case 7:
            path.write_text(rng.choice(["[", "{", '{"a":', "[" * 100_000, '{"a":' * 50_000, "[[]," * 100_000, "null"]))
        case _:
            pass  # removed


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def _place(tree: Any, rng: random.Random) -> tuple[Any, Any]:
    """Choose a place: its holder and key; shallow ones are as likely as deep ones."""
    holder, key = None, None
    while isinstance(tree, (dict, list)) and tree and (holder is None or rng.random() < 0.75):
        holder, key = tree, rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        tree = holder[key]
    return holder, key


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    match rng.randrange(7):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"{key}{rng.choice(['', 's', '_', '/..', ' '])}x"] = holder.pop(key)
        case 2 if isinstance(value, (int, float)) and not isinstance(value, bool):
            holder[key] = value + rng.choice([-1, 1]) if rng.random() < 0.5 else value * rng.choice([-1, 2, 0.5, 1000])
        case 3 if isinstance(value, list):
            holder[key] = (value * 3)[: rng.randrange(3 * len(value) + 1)]
        case 4 if len(holder) > 1:
            other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
            holder[key], holder[other] = holder[other], holder[key]
        case _:
            holder[key] = hostile(rng)
