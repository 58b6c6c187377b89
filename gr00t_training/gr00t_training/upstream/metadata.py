# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Form of `metadata.json` of N1 and N1.5, checked before use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import ConfigError

_MOST_CHANNELS = 8192
_LARGEST_SIDE = 8192  # of an image [px]
_FASTEST_HZ = 1000


def check_metadata(tag: str, entry: Any) -> None:
    """Check the entry of one embodiment tag; missing parts are not reported here.

    Raises:
        ConfigError: a part has another form; names it.
    """
    modalities = _mapping(tag, entry, "modalities")
    for kind in ("video", "state", "action"):
        for key, facts in _mapping(f"{tag}.modalities", modalities, kind).items():
            place = f"{tag}.modalities.{kind}.{key}"
            if not isinstance(facts, Mapping):
                raise _error(place, facts, "an object")
            (_check_camera if kind == "video" else _check_vector)(place, facts)


def _check_camera(place: str, facts: Mapping[str, Any]) -> None:
    sides = facts.get("resolution", [0, 0])
    if not _are_counts(sides, 0, _LARGEST_SIDE) or len(sides) != 2:
        raise _error(f"{place}.resolution", sides, f"width and height up to {_LARGEST_SIDE}")
    rate = facts.get("fps", 1)
    if type(rate) not in (int, float) or not (math.isfinite(rate) and 0 < rate <= _FASTEST_HZ):
        raise _error(f"{place}.fps", rate, f"a rate up to {_FASTEST_HZ} Hz")


def _check_vector(place: str, facts: Mapping[str, Any]) -> None:
    shape = facts.get("shape", [1])
    if not _are_counts(shape, 1, _MOST_CHANNELS) or not shape:
        raise _error(f"{place}.shape", shape, f"a list of 1 to {_MOST_CHANNELS} channels")
    if not isinstance(facts.get("absolute", True), bool):
        raise _error(f"{place}.absolute", facts["absolute"], "true or false")
    form = facts.get("rotation_type")
    if form is not None and not isinstance(form, str):
        raise _error(f"{place}.rotation_type", form, "a text or null")


def _mapping(place: str, content: Any, key: str) -> Mapping[str, Any]:
    """Return a section, empty if it is absent."""
    if not isinstance(content, Mapping):
        raise _error(place, content, "an object")
    found = content.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise _error(f"{place}.{key}", found, "an object")
    return found or {}


def _are_counts(values: Any, low: int, high: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and low <= value <= high for value in values)


def _error(place: str, found: Any, expected: str) -> ConfigError:
    return ConfigError(f"{place} is {found!r:.80}, expected {expected}; restore the file")
