# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files with some settings of fine-tuning, for a kind of machine.

The keys are fields of `FinetuneSettings` and `TrainerSettings`. A recipe replaces defaults; options of the command
replace a recipe.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.yaml_text import SIZE_LIMIT
from gr00t_training.settings import parse_values
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings

_OF_ONE_RUN = ("output", "resume", "trainer")  # are given for each run


def recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(resources.files("gr00t_training") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Return the settings that a recipe gives, by name.

    Args:
        recipe: name of one that comes with the package, or a YAML file.

    Raises:
        ConfigError: no such recipe, not YAML, unknown key, wrong type or value; names file and line.
    """
    path = recipes().get(str(recipe), Path(recipe))
    if not path.is_file():
        raise ConfigError(f"no recipe '{recipe}' (found: {', '.join(recipes())}); choose one, or pass a YAML file")
    text = read_text(path, ConfigError, SIZE_LIMIT)
    return parse_values((FinetuneSettings, TrainerSettings), text, str(path), without=_OF_ONE_RUN)


def recipe_text(settings: FinetuneSettings, trainer: TrainerSettings) -> str:
    """Return all settings as a recipe, with what they mean."""
    lines = []
    for part in (settings, trainer):
        for field in dataclasses.fields(part):
            if field.name not in _OF_ONE_RUN:
                value = getattr(part, field.name)
                plain = _plain(value)
                shown = yaml.safe_dump(plain, default_flow_style=True, width=10_000).splitlines()[0]
                lines.append(f"{f'{field.name}: {shown}':<34} # {field.metadata['description']}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """Return a setting as YAML writes it."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
