# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests of the page: their names, their fields, and who may send them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TEXT = 2000  # characters; nodes refuse more than 1,000 with a reason of their own
MAX_ITEMS = 100_000


class RequestError(ValueError):
    """A request that is not known or not complete."""


@dataclass(frozen=True)
class Kind:
    """One request."""

    fields: Mapping[str, type] = field(default_factory=dict)
    needs_control: bool = True


ANYBODY = {"stop": Kind(needs_control=False), "take": Kind({"name": str}, needs_control=False)}
ROBOT = {
    "release": Kind(),
    "reset": Kind(),
    "run": Kind({"instruction": str, "time_limit_s": float}),
    "end_task": Kind(),
    "hold": Kind(),
    "take_over": Kind(),
    "give_back": Kind(),
    "jog": Kind({"rates": dict}),
    "lifecycle": Kind({"node": str, "transition": str}),
}
COLLECT = {
    "set_task": Kind({"task": str}),
    "episode_start": Kind({"task": str}),
    "episode_keep": Kind(),
    "episode_discard": Kind(),
    "episode_redo": Kind(),
    "episode_take_back": Kind(),
    "mark": Kind({"success": object, "valid": object, "note": str}),
}
KINDS: Mapping[str, Kind] = {**ANYBODY, **ROBOT, **COLLECT}


def parse(message: Any, kinds: Mapping[str, Kind] = KINDS) -> tuple[str, Kind, dict[str, Any]]:
    """Return name, kind and fields of a request of the page.

    Raises:
        RequestError: names what is wrong.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("do"), str):
        raise RequestError("a request is an object with 'do'; reload the page")
    name = message["do"]
    if name not in kinds:
        raise RequestError(f"request '{name[:40]}' is unknown; reload the page")
    kind = kinds[name]
    return name, kind, {each: _read(name, each, message.get(each), hint) for each, hint in kind.fields.items()}


def _read(request: str, name: str, value: Any, hint: type) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint is str and isinstance(value, str) and len(value) <= MAX_TEXT:
        return value.strip()
    if hint is object and value in (True, False, None):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is dict and isinstance(value, dict) and len(value) <= MAX_ITEMS and all(map(_is_number, value.values())):
        return {str(key): float(each) for key, each in value.items()}
    if (
        hint is list
        and isinstance(value, list)
        and len(value) <= MAX_ITEMS
        and all(type(each) is int for each in value)
    ):
        return value
    raise RequestError(
        f"request '{request}': '{name}' is {str(value)[:40]!r}, expected {hint.__name__}; reload the page"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
