# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read a ROS parameters file as the node will: which sections apply to a node, and which value wins.

The launch files pass the file itself to the node. They read it to find what it does not set, and to refuse a file whose
settings would not reach the node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_recorder.ros.parameter_sections import section_matches
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable
from gr00t_training.io.yaml_text import read_yaml

FILE_LIMIT = 2**20  # [bytes]
PARAMETERS_KEY = "ros__parameters"


@dataclass(frozen=True)
class ParametersFile:
    """What a parameters file sets for one node."""

    path: Path
    node: str  # fully qualified name
    sections: tuple[tuple[str, Mapping[str, Any]], ...]  # that apply to the node, in order: the last one wins

    @property
    def values(self) -> dict[str, Any]:
        """Value of each parameter that the file sets for the node; an empty text sets nothing."""
        merged = {name: value for _, section in self.sections for name, value in section.items()}
        return {name: value for name, value in merged.items() if value not in ("", None)}

    def check_overrides(self, names: Collection[str]) -> None:
        """Check that launch arguments win over this file.

        ROS merges sections of one name at the place of the first one, and launch writes its arguments into the section
        of the node's full name: a section behind that one would win over them.

        Raises:
            ConfigError: a section would override them; names both sections.
        """
        order = [section for section, _ in self.sections]
        if self.node not in order:
            return
        for section, values in self.sections[order.index(self.node) + 1 :]:
            if clashing := sorted(set(values) & set(names)):
                raise ConfigError(
                    f"{self.path}: section '{section}' after section '{self.node}' sets '{clashing[0]}', so the "
                    f"launch argument could not override it; move section '{section}' to the top"
                )


def read_parameters(path: Path, node: str) -> ParametersFile:
    """Read what a parameters file sets for the node of a fully qualified name, such as `/policy`.

    Raises:
        ConfigError: missing, not a parameters file, or without a section for the node; names the file.
    """
    sections = read_sections(path)
    own = tuple((name, values) for name, values in sections.items() if section_matches(name, node))
    if not own:
        found = ", ".join(printable(name) for name in sections)
        raise ConfigError(
            f"{path}: no section is for node '{node}' (found {found}), so none of its parameters would be used; "
            f"name the section '/**' or '{node}'"
        )
    return ParametersFile(path, node, own)


def read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """Return the parameters in each section of a parameters file, in order; raises as `read_parameters` does."""
    document = read_yaml(path, ConfigError, FILE_LIMIT)
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path}: is not a parameters file; expected '/**:' with '{PARAMETERS_KEY}:' below it")
    sections: dict[str, dict[str, Any]] = {}
    _collect(path, document, "", sections)
    if not sections:
        raise ConfigError(f"{path}: has no '{PARAMETERS_KEY}'; write the parameters as '/**:' / '{PARAMETERS_KEY}:'")
    return sections


def _collect(path: Path, level: Mapping[Any, Any], name: str, sections: dict[str, dict[str, Any]]) -> None:
    """Find `ros__parameters` below nested namespaces; a section's name is kept as written, with '/' between levels."""
    for key, value in level.items():
        if key == PARAMETERS_KEY:
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{path}: '{PARAMETERS_KEY}' of '{printable(name)}' is not a mapping of names to values"
                )
            sections.setdefault(name, {}).update({str(parameter): each for parameter, each in value.items()})
        elif isinstance(value, Mapping):
            _collect(path, value, f"{name.rstrip('/')}/{key}".replace("//", "/") if name else str(key), sections)
