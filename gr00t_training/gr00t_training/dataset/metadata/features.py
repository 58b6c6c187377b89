# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The `features` of `info.json`: dtype, shape and names in every form that writers of datasets use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gr00t_training.dataset.metadata.numbers import shown, whole
from gr00t_training.errors import DatasetError
from gr00t_training.io.image_header import MAX_SIDE
from gr00t_training.io.text import printable

VIDEO, IMAGE = "video", "image"
IMAGES_IN_ROWS = "images in parquet are not read; encode them as video"

MAX_WIDTH = 2**20  # values of one row of one column
_AXES = {
    "height": "height",
    "h": "height",
    "rows": "height",
    "width": "width",
    "w": "width",
    "cols": "width",
    "columns": "width",
    "channel": "channels",
    "channels": "channels",
    "c": "channels",
    "rgb": "channels",
}


def normalised_features(value: Any, subject: str) -> dict[str, dict[str, Any]]:
    """Return the features with `dtype` as text and `shape` as list of whole numbers, everything else unchanged.

    Raises:
        DatasetError: one of them has another form; names it.
    """
    if not isinstance(value, Mapping):
        raise DatasetError(f"{subject}: 'features' is {shown(value)}, expected an object with an entry per column")
    found: dict[str, dict[str, Any]] = {}
    for name, feature in value.items():
        place = f"{subject}: feature '{printable(name)}'"
        if not name.strip() or not name.isprintable():
            raise DatasetError(f"{place}: its name is empty or has control characters; rename it")
        if not isinstance(feature, Mapping):
            raise DatasetError(f"{place}: is {shown(feature)}, expected an object with dtype and shape")
        if not isinstance(feature.get("dtype"), str):
            raise DatasetError(f"{place}: dtype is {shown(feature.get('dtype'))}, expected a text like float32")
        found[name] = {**feature, "shape": _shape(feature.get("shape"), place)}
    return found


def is_video(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is a camera with video files."""
    return feature["dtype"] == VIDEO


def width_of(feature: Mapping[str, Any]) -> int:
    """Return the number of values that a row of the feature has."""
    return math.prod(feature["shape"])


def image_size(feature: Mapping[str, Any], name: str = "") -> tuple[int, int]:
    """Return height and width of a camera [px], whichever order and names its axes have.

    Raises:
        DatasetError: neither names nor shape give them.
    """
    shape: list[int] = feature["shape"]
    size = _size_by_names(shape, axis_names(feature.get("names"))) or _size_by_shape(shape)
    size = size or _size_by_block(camera_block(feature))
    if size is None or not all(1 <= side <= MAX_SIDE for side in size):
        raise DatasetError(
            f"feature '{printable(name)}': shape {shown(shape)} with names {shown(feature.get('names'))} gives no "
            f"height and width (at most {MAX_SIDE}); expected a shape like [480, 640, 3]"
        )
    return size


def axis_names(names: Any) -> list[str] | None:
    """Return the axes of a camera in their order (height, width, channels); None if the names do not say."""
    for candidate in _axis_lists(names):
        axes = [_AXES.get(str(name).lower(), "") for name in candidate]
        if axes.count("height") == 1 and axes.count("width") == 1:
            return axes
    return None


def has_plain_axes(feature: Mapping[str, Any]) -> bool:
    """Whether the names of the axes are in the form that GR00T's loaders look for."""
    names = feature.get("names")
    return isinstance(names, list) and "height" in names and "width" in names


def channel_names(names: Any) -> list[str]:
    """Return channel names from any form in use: a list, a list in a list, lists by group, name -> position."""
    if isinstance(names, Mapping):
        positions = list(names.values())
        if positions and all(isinstance(place, int) and not isinstance(place, bool) for place in positions):
            return sorted(map(str, names), key=lambda name: names[name])
        names = [name for group in positions for name in (group if isinstance(group, list) else [group])]
    if isinstance(names, str):
        names = [names]
    if isinstance(names, list) and names and isinstance(names[0], list):
        names = names[0]
    return [str(name) for name in names] if isinstance(names, list) else []


def camera_block(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a camera says about its video: `info`, or `video_info` of older writers; empty if nothing."""
    for name in ("info", "video_info"):
        if isinstance(feature.get(name), Mapping):
            return feature[name]
    return {}


def _shape(value: Any, subject: str) -> list[int]:
    if value is None:
        raise DatasetError(f"{subject}: shape is missing, expected a list like [7]")
    sides = value if isinstance(value, list) else [value]
    if len(sides) > 8:
        raise DatasetError(f"{subject}: shape has {len(sides)} sides, expected at most 8")
    shape = [whole(side, f"{subject}: shape {shown(value)}: a side", high=MAX_WIDTH) for side in sides]
    shape = shape or [1]  # a scalar
    if math.prod(shape) > MAX_WIDTH * 128:
        raise DatasetError(f"{subject}: shape {shown(value)} has more values than any robot; correct it")
    return shape


def _axis_lists(names: Any) -> list[list[Any]]:
    if isinstance(names, Mapping):
        return [*(value for value in names.values() if isinstance(value, list)), list(names)]
    if isinstance(names, str):
        return [list(names), names.replace(",", " ").split()]
    if isinstance(names, list) and names and isinstance(names[0], list):
        return [names[0]]
    return [names] if isinstance(names, list) else []


def _size_by_names(shape: list[int], axes: list[str] | None) -> tuple[int, int] | None:
    if axes is None or len(axes) != len(shape):
        return None
    channels = shape[axes.index("channels")] if "channels" in axes else 3
    size = shape[axes.index("height")], shape[axes.index("width")]
    # some writers move the axes of the shape and leave the names as they were
    return size if channels <= 4 or _size_by_shape(shape) is None else None


def _size_by_shape(shape: list[int]) -> tuple[int, int] | None:
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) != 3:
        return None
    if shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        return shape[1], shape[2]
    return shape[0], shape[1]


def _size_by_block(block: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = block.get("video.height"), block.get("video.width")
    return sides if all(isinstance(side, int) for side in sides) else None  # type: ignore[return-value]
