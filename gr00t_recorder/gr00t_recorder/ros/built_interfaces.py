# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the gr00t_msgs that is built with what the suite uses and, where they are at hand, with its sources.

For `gr00t doctor`: after an update of the suite without a new build of gr00t_msgs, nodes end with an AttributeError.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("gr00t_recorder", "gr00t_policy_node", "gr00t_bringup", "gr00t_console")
KINDS = ("msg", "srv", "action")
PARTS = {"msg": ("",), "srv": ("Request", "Response"), "action": ("Goal", "Result", "Feedback")}
FIELD = re.compile(r"\s*[A-Za-z][\w/]*(?:<=\d+)?(?:\[[<=\d]*\])?\s+([a-z]\w*)\s*(?:#.*)?(?:[^=#].*)?$")


@dataclass(frozen=True)
class Differences:
    """What differs, in words."""

    missing: list[str] = field(default_factory=list)  # nodes fail
    further: list[str] = field(default_factory=list)  # nodes work; machines with another build do not hear them


def differences() -> Differences:
    """Compare the built interfaces with those that the suite uses."""
    modules = {kind: import_module(f"gr00t_msgs.{kind}") for kind in KINDS}
    found = Differences()
    for kind, name in sorted(set(_used())):
        if not hasattr(modules[kind], name):
            found.missing.append(f"{kind}/{name} is not built")
    for path in _sources():
        kind, name = path.parent.name, path.stem
        built = getattr(modules[kind], name, None)
        if built is None:
            found.missing.append(f"{kind}/{name} is not built")
            continue
        for part, fields in zip(PARTS[kind], fields_of(path.read_text(encoding="utf-8")), strict=True):
            has = (getattr(built, part) if part else built).get_fields_and_field_types()
            found.missing.extend(f"{kind}/{name} has no field '{each}'" for each in fields if each not in has)
            found.further.extend(f"{kind}/{name} has a field '{each}' more" for each in has if each not in fields)
    return found


def fields_of(text: str) -> list[list[str]]:
    """Return the names of the fields in each part of a definition, without constants."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        match = FIELD.match(line)
        if line.strip() == "---":
            parts.append([])
        elif match and "=" not in line.split("#")[0].replace("<=", ""):
            parts[-1].append(match[1])
    return parts


def _used() -> Iterator[tuple[str, str]]:
    """Yield kind and name of the interfaces that the installed packages import."""
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in Path(folder).glob("ros/*.py"):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gr00t_msgs."):
                        yield from (((node.module or "").split(".")[1], name.name) for name in node.names)


def _sources() -> list[Path]:
    """Return the definitions of a source tree that this package is installed from, editable; else none."""
    root = Path(__file__).resolve().parents[3] / "gr00t_msgs"
    return [path for kind in KINDS for path in sorted(root.glob(f"{kind}/*.{kind}"))]


if __name__ == "__main__":
    print(f"\n{json.dumps(asdict(differences()))}")
