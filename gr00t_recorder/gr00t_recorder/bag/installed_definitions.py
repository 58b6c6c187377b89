# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find message definitions in installed packages, with all dependencies, so that a bag is readable elsewhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from gr00t_training.errors import ConfigError

SEPARATOR = "=" * 80
BUILTIN_TYPES = frozenset(
    [*("bool", "byte", "char", "string", "wstring", "float32", "float64"),
     *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")]
)  # fmt: skip
FIELD_TYPE = re.compile(r"\s*([A-Za-z][\w/]*)")  # before array bounds, string bounds, name and default


@lru_cache(maxsize=256)
def full_definition(type_name: str) -> str:
    """Return the definition of `package/msg/Name` followed by those of all types in it, in MCAP's format ros2msg.

    Raises:
        ConfigError: a definition is not installed.
    """
    texts = {type_name: _text(type_name)}
    waiting = [type_name]
    while waiting:
        name = waiting.pop()
        for needed in _field_types(texts[name], name.split("/")[0]):
            if needed not in texts:
                texts[needed] = _text(needed)
                waiting.append(needed)
    first, *others = texts.items()
    parts = [first[1], *(f"{SEPARATOR}\nMSG: {_short(name)}\n{text}" for name, text in others)]
    return "\n".join(part.rstrip("\n") for part in parts) + "\n"


def _text(type_name: str) -> str:
    package, kind, name = type_name.split("/")
    for prefix in _prefixes():
        path = prefix / "share" / package / kind / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ConfigError(
        f"message type {type_name}: its definition share/{package}/{kind}/{name}.msg is not installed; without it a "
        "bag cannot be read elsewhere: install the package, or leave the topic out of the bag"
    )


def _prefixes() -> Iterator[Path]:
    yield from (Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix)
    yield Path(sys.prefix)  # packages installed by pip


def _field_types(text: str, package: str) -> Iterator[str]:
    for line in text.splitlines():
        match = FIELD_TYPE.match(line.partition("#")[0])
        if match is None or match[1] in BUILTIN_TYPES:
            continue
        parts = match[1].split("/")
        if len(parts) == 1:
            yield f"{package}/msg/{parts[0]}"
        elif len(parts) == 2:
            yield f"{parts[0]}/msg/{parts[1]}"
        else:
            yield match[1]


def _short(type_name: str) -> str:
    package, _, name = type_name.split("/")
    return f"{package}/{name}"
