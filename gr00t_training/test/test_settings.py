# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from gr00t_training.errors import ConfigError
from gr00t_training.settings import add_arguments, from_arguments, load_settings, parse_settings, setting


class Color(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Wheel:
    radius_m: float = setting(description="Radius [m].", ge=0.01, le=2.0)
    color: Color = setting(Color.RED, "Color.")


@dataclass(frozen=True)
class Cart:
    name: str = setting(description="Name.")
    wheels: Mapping[str, Wheel] = setting(default_factory=dict, description="Wheels.")
    tags: tuple[str, ...] = setting((), "Tags.")
    load_kg: float | None = setting(None, "Load [kg].", ge=0)
    is_open: bool = setting(False, "Whether it is open.")


def test_nested_yaml_becomes_typed_values() -> None:
    text = "name: c\nwheels:\n  left: {radius_m: 1, color: blue}\ntags: [x, y]\nload_kg: null\n"
    assert parse_settings(Cart, text, "f") == Cart(
        name="c", wheels={"left": Wheel(radius_m=1.0, color=Color.BLUE)}, tags=("x", "y")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"f:1: the file is empty"),
        ("name: [", r"f:1: not valid YAML"),
        ("name: c\ntgas: [x]\n", r"f:2: unknown key 'tgas'; did you mean 'tags'\?"),
        ("tags: [x]\n", r"f:1: missing key 'name': Name\."),
        ("name: 3\n", r"f:1: name: expected text, found '3'"),
        ("name: c\nname: d\n", r"f:2: duplicate key 'name', first on line 1"),
        ("name: c\nis_open: 1\n", r"f:2: is_open: expected true or false, found '1'"),
        ("name: c\ntags: x\n", r"f:2: tags: expected a list, found a single value"),
        ("name: c\nload_kg: .nan\n", r"f:2: load_kg is nan, expected at least 0"),
        (
            "name: c\nwheels:\n  left:\n    radius_m: 9\n",
            r"f:4: wheels\.left: radius_m is 9\.0, expected 0\.01 to 2\.0",
        ),
        ("name: c\nwheels:\n  left: {radius_m: 1,\n    color: pink}\n", r"f:4: .*'pink' is not one of red, blue"),
    ],
)
def test_bad_yaml_names_file_line_and_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings(Cart, text, "f")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read \(No such file"):
        load_settings(Cart, tmp_path / "absent.yaml")


def test_command_line_is_generated_from_the_fields() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Cart)
    arguments = parser.parse_args(["--name", "c", "--load-kg", "2", "--is-open", "--tags", "x", "y"])
    assert from_arguments(Cart, arguments) == Cart(name="c", load_kg=2.0, is_open=True, tags=("x", "y"))
    with pytest.raises(ConfigError, match="load_kg is -1"):
        from_arguments(Cart, parser.parse_args(["--name", "c", "--load-kg", "-1"]))
