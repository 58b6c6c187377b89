# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the features of several datasets, and convert them to another version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.features import camera_block, channel_names, image_size, is_video
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, Embodiment, column_names, differences
from gr00t_training.errors import DatasetError

_IMAGE_NAMES = ["height", "width", "channels"]  # the only form that opens in every GR00T release


def common_features(sources: Sequence[SourceDataset]) -> dict[str, Any]:
    """Return the features that all datasets agree on: those of the first.

    Cameras without files are left out.

    Raises:
        DatasetError: the datasets cannot be one: another rate, other columns, sizes, codecs, or meaning of channels.
    """
    first = sources[0]
    features = _own_features(first)
    for other in sources[1:]:
        subject = f"{other.path} and {first.path} cannot be one dataset"
        if other.fps != first.fps:
            raise DatasetError(f"{subject}: {other.fps:g} Hz and {first.fps:g} Hz; record or convert at one rate")
        for name, found, expected in _differences(_own_features(other), features):
            raise DatasetError(f"{subject}: '{name}' is {found} in the one and {expected} in the other")
        if other.embodiment and first.embodiment and (items := differences(other.embodiment, first.embodiment)):
            raise DatasetError(f"{subject}, their embodiments differ: {'; '.join(items)}")
        if other.modality and first.modality and _meaning(other) != _meaning(first):
            raise DatasetError(
                f"{subject}: they differ in {schema.MODALITY_FILE}; keys and their channels must be the same"
            )
    return features


def features_of_version(features: Mapping[str, Any], version: str, fps: float, rows: pa.Table) -> dict[str, Any]:
    """Return `features` as a dataset of `version` declares them.

    Args:
        features: of any version.
        version: of the new dataset.
        fps: its rate.
        rows: of one episode; columns that are not declared get a declaration, declared ones that are absent lose it,
            since readers of v3.0 take the declarations for the schema.
    """
    adapted: dict[str, Any] = {}
    for name, feature in features.items():
        if is_video(feature):
            adapted[name] = _camera(feature, version, fps)
        elif name in rows.column_names or name in schema.NUMBERING_COLUMNS:
            adapted[name] = {**feature, "names": feature.get("names")}
    for name in rows.column_names:
        if name not in adapted:
            adapted[name] = _declared(rows.schema.field(name))
    wanted = schema.NUMBERING_COLUMNS if version == schema.Version.V30.value else ("frame_index",)
    for name in wanted:
        adapted.setdefault(name, {"dtype": "int64", "shape": [1], "names": None})
    return adapted


def check_embodiment(features: Mapping[str, Any], fps: float, embodiment: Embodiment) -> None:
    """Compare the features of a dataset with an embodiment.

    Raises:
        DatasetError: rate, channels or cameras are others; names found and expected.
    """
    subject = f"embodiment '{embodiment.name}'"
    if fps != embodiment.fps:
        raise DatasetError(f"{subject} has {embodiment.fps} Hz, the dataset has {fps:g} Hz; choose another")
    for column, keys in ((STATE_COLUMN, embodiment.state), (ACTION_COLUMN, embodiment.action)):
        expected = column_names(keys)
        feature = features.get(column, {})
        found = channel_names(feature.get("names"))
        if feature.get("shape") != [len(expected)] or (found and found != expected):
            raise DatasetError(
                f"{subject}: '{column}' has channels [{', '.join(expected)}], the dataset has "
                f"[{', '.join(found) or feature.get('shape')}]; choose another, or correct its names"
            )
    for key, video in embodiment.video.items():
        feature = features.get(schema.image_feature(key))
        if feature is None or (not video.is_any_size and image_size(feature) != (video.height, video.width)):
            found = "none" if feature is None else "{1}x{0}".format(*image_size(feature))
            raise DatasetError(
                f"{subject}: camera '{schema.image_feature(key)}' is {video.width}x{video.height}, the dataset has "
                f"{found}; choose another, or correct its cameras"
            )


def _own_features(source: SourceDataset) -> dict[str, Any]:
    return {
        name: feature for name, feature in source.features.items() if not is_video(feature) or name in source.cameras
    }


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name and both descriptions of every feature that differs."""
    names = list(dict.fromkeys([*expected, *found]))
    # lerobot's own columns may be declared in one set and left out in another
    names = [name for name in names if name not in schema.INDEX_COLUMNS]
    pairs = [(name, _described(found.get(name)), _described(expected.get(name))) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _described(feature: Mapping[str, Any] | None) -> str:
    if feature is None:
        return "absent"
    if is_video(feature):
        height, width = image_size(feature)
        codec = camera_block(feature).get("video.codec", "of unknown codec")
        return f"{width}x{height} {codec}"
    names = channel_names(feature.get("names"))
    return f"{feature['dtype']} {feature['shape']}" + (f" ({', '.join(names)})" if names else "")


def _meaning(source: SourceDataset) -> Any:
    return {kind: source.modality.get(kind) for kind in ("state", "action", "video", "annotation")}


def _camera(feature: Mapping[str, Any], version: str, fps: float) -> dict[str, Any]:
    height, width = image_size(feature)
    found = camera_block(feature)
    described = {
        "video.height": height,
        "video.width": width,
        "video.codec": found.get("video.codec"),
        "video.pix_fmt": found.get("video.pix_fmt", "yuv420p"),
        "video.is_depth_map": found.get("video.is_depth_map", False),
        "video.fps": int(fps) if fps == int(fps) else fps,
        "video.channels": 3,
        "has_audio": False,
    }
    # readers of v2.0 look for "channels" with "info" too; "video_info" is what lerobot of that time wrote
    block = {"video_info": described} if version == schema.Version.V20.value else {}
    return {"dtype": "video", "shape": [height, width, 3], "names": _IMAGE_NAMES, "info": described, **block}


def _declared(field: pa.Field) -> dict[str, Any]:
    kind, shape = field.type, [1]
    if pa.types.is_fixed_size_list(kind):
        kind, shape = kind.value_type, [kind.list_size]
    names = {
        pa.float16(): "float16",
        pa.float32(): "float32",
        pa.float64(): "float64",
        pa.bool_(): "bool",
        pa.string(): "string",
    }
    return {"dtype": names.get(kind, str(kind)), "shape": shape, "names": None}
