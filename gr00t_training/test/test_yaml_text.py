# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""YAML of others: what is refused, with its line, and what still works."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.yaml_text import DEPTH_LIMIT, NODE_LIMIT, SIZE_LIMIT, parse_yaml, read_yaml
from gr00t_training.settings import load_settings, parse_settings, setting


@dataclass(frozen=True)
class Anything:
    x: Any = setting(None, "Any value.")
    texts: Mapping[str, str] = setting(default_factory=dict, description="Texts.")
    number: float = setting(0.0, "A number.", le=1e6)


LAUGHS = "x:\n" + "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'ha'}]\n" for i in range(12))
CHAIN = "x:\n" + "".join(f"  - &a{i} [[[[[[[[[[{f'*a{i - 1}' if i else 1}]]]]]]]]]]\n" for i in range(9))

REFUSED = {
    "billion laughs": (LAUGHS, r"f:7: more than 200000 values"),
    "alias of itself": ("x: &a\n  - 1\n  - *a\n", r"f:3: alias '\*a' contains itself"),
    "cycle over a mapping": ("x: &a {b: 1,\n c: *a}\n", r"f:2: alias '\*a' contains itself"),
    "deep by aliases": (CHAIN, r"f:5: nested deeper than 40 levels"),
    "deep list": ("x:\n " + "[" * 100_000, r"f:2: nested deeper"),
    "deep mapping": ("x: " + "{a: " * 100_000, r"f:1: nested deeper"),
    "deep block": ("- " * 10_000, r"f:1: nested deeper"),
    "deep keys": ("? " * 10_000, r"f:1: a list or mapping is used as a key"),
    "many values": ("x: [" + "1," * (NODE_LIMIT + 9) + "]", r"f:1: more than 200000 values"),
    "python tag": ("number: 1\nx: !!python/object/apply:os.system [id]\n", r"f:2: tag '!!python/object/apply:os\.sys"),
    "tag of a key": ("!!python/name:os.system : 1\n", r"f:1: tag"),
    "own tag": ("x: !thing 3\n", r"f:1: tag '!thing' is not supported"),
    "binary": ("x: !!binary aGk=\n", r"f:1: tag '!!binary'"),
    "set": ("x: !!set {a}\n", r"f:1: tag '!!set'"),
    "list tag on a mapping": ("x: !!seq {a: 1}\n", r"f:1: tag '!!seq'"),
    "date": ("x: !!timestamp 2001-99-99\n", r"f:1: tag '!!timestamp'"),
    "bool that is none": ("x: !!bool maybe\n", r"f:1: 'maybe' is not"),
    "int that is none": ("x: !!int ''\n", r"f:1: '' is not"),
    "int of underscores": ("x: 0x_\n", r"f:1: '0x_' is not a 64-bit number"),
    "huge int": (f"x:\n  {10**30}\n", r"f:2: '1000.*' is not a 64-bit number"),
    "int of megabytes": ("number: " + "9" * 1_000_000, r"f:1: number: expected a number, found '9+\.\.\.'"),
    "two documents": ("x: 1\n---\nx: 2\n", r"f:2: a second document begins"),
    "NUL": ("x: 1\nnumber: \0\n", r"f:2: not valid YAML: character \\x00"),
    "escape beyond Unicode": ('x: "\\UFFFFFFFF"\n', r"f:1: not valid YAML"),
    "half a surrogate": ('x: 1\ntexts: {a: "\\ud83d"}\n', r"f:2: not valid YAML: half of a surrogate"),
    "version of megabytes": ("%YAML 1." + "9" * 100_000 + "\n--- {}\n", r"f:1: not valid YAML"),
    "duplicate key": ("x: 1\nx: 2\n", r"f:2: duplicate key 'x', first on line 1"),
    "duplicate key below": ("x:\n  a: 1\n  'a': 2\n", r"f:3: duplicate key 'a', first on line 2"),
    "duplicate anchor": ("x: [&a 1, &a 2]\n", r"f:1: duplicate anchor"),
    "unknown alias": ("x: *nothing\n", r"f:1: alias '\*nothing' has no anchor"),
    "list as a key": ("texts:\n  ? [a, b]\n  : c\n", r"f:2: a list or mapping is used as a key"),
    "mapping as a key": ("{a: 1}: b\n", r"f:1: a list or mapping is used as a key"),
    "alias as a key": ("x: &a [1]\ntexts: {*a : b}\n", r"f:2: a list or mapping is used as a key"),
    "merge": ("x: &a {b: 1}\ntexts:\n  <<: *a\n", r"f:3: merge keys"),
    "control character": ('"x\\e[31m": 1\n', r"f:1: unknown key 'x\\x1b\[31m'"),
    "not closed": ("x: [1,\n", r"f:2: not valid YAML"),
    "tabs": ("x:\n\t- 1\n", r"f:2: not valid YAML"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_hostile_yaml_is_one_error_with_its_line(name: str) -> None:
    text, message = REFUSED[name]
    start_s = time.process_time()
    with pytest.raises(ConfigError, match=message) as found:
        parse_settings(Anything, text, "f")
    assert time.process_time() - start_s < 60  # slow machines; without limits it would take hours
    assert len(str(found.value)) < 400
    assert str(found.value).isprintable()


def test_anchors_dates_and_numbers_keep_working() -> None:
    text = """
x:
  - &pose {joints: &joints [a, b], stamp: 2024-02-31, text: !!str 12, 7: "\\ud83d\\ude00"}
  - *pose
  - {names: *joints, small: 1e-6, large: 2.5E+3, hex: 0x1F, none: ~, on: off, big: 18446744073709551615}
"""
    pose = {"joints": ["a", "b"], "stamp": "2024-02-31", "text": "12", "7": "😀"}
    last = {"names": ["a", "b"], "small": 1e-6, "large": 2500.0, "hex": 31, "none": None, "on": False, "big": 2**64 - 1}
    assert parse_yaml(text, "f") == {"x": [pose, pose, last]}
    assert parse_settings(Anything, text, "f").x == [pose, pose, last]
    assert parse_yaml("", "f") is None
    assert parse_yaml("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT, "f") is not None


def test_anchored_settings_are_typed() -> None:
    text = "texts: &t {a: b}\nx: *t\nnumber: 1e3\n"
    assert parse_settings(Anything, text, "f") == Anything(texts={"a": "b"}, x={"a": "b"}, number=1000.0)


@pytest.mark.parametrize("kind", ["pipe", "folder", "large", "latin", "utf16", "lfs", "absent", "device"])
def test_files_that_are_no_text_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(SIZE_LIMIT + 1)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind != "absent":
        contents = {
            "latin": "x: é\n".encode("latin-1"),
            "utf16": "x: 1\n".encode("utf-16"),
            "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        }
        path.write_bytes(contents[kind])
    for error, read in (
        (ConfigError, lambda: load_settings(Anything, path)),
        (DatasetError, lambda: read_yaml(path, DatasetError)),
    ):
        with pytest.raises(error, match=str(path)):
            read()
