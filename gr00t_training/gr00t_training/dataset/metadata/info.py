# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`meta/info.json`: read in one form, made for a new dataset, and brought up to date after a change.

`TOTALS` is the only list of the numbers in it that follow from the episodes: recorder, editing and repair write them,
validation checks them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.features import is_video, normalised_features
from gr00t_training.dataset.metadata.numbers import MAX_FPS, MIN_FPS, real, shown, whole
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.text import printable

_MAX_FILE_MB = 10**6


@dataclass(frozen=True)
class Counts:
    """Numbers that the totals of `info.json` follow from."""

    episodes: int
    frames: int
    tasks: int | None  # None: the list of tasks cannot be read
    cameras: int
    chunks_size: int = schema.CHUNKS_SIZE


@dataclass(frozen=True)
class Total:
    """One total of `info.json`."""

    count: Callable[[Counts], int | None]
    is_fault: bool = False  # some reader fails or skips episodes where the number is wrong
    is_v2_only: bool = False


TOTALS: dict[str, Total] = {  # in the order of the file
    "total_episodes": Total(lambda counts: counts.episodes, is_fault=True),
    "total_frames": Total(lambda counts: counts.frames, is_fault=True),
    "total_tasks": Total(lambda counts: counts.tasks),
    "total_videos": Total(lambda counts: counts.episodes * counts.cameras, is_v2_only=True),
    "total_chunks": Total(lambda counts: -(-counts.episodes // counts.chunks_size), is_v2_only=True),
}


def read_info(root: Path) -> dict[str, Any]:
    """Read `info.json` of the dataset in `root`; see `normalised_info`.

    Raises:
        DatasetError: missing, damaged, of another version, with a path that leaves the dataset, or files of before and
            after a repair are mixed.
    """
    if (root / schema.REPAIR_STEPS).exists():
        raise DatasetError(f"{root}: a repair was interrupted; run gr00t_dataset repair first")
    path = schema.meta_file(root, schema.INFO_FILE)
    return normalised_info(schema.read_object(path), str(path))


def normalised_info(info: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Return `info.json` with the used entries in one form; everything else unchanged.

    `codebase_version` is one of `schema.READ_VERSIONS`, `fps` and `chunks_size` are numbers, the two paths
    are templates that were filled once, and features are as `normalised_features` has them.
    """
    found = dict(info)
    found["codebase_version"] = _version(info.get("codebase_version"), subject)
    found["fps"] = real(info.get("fps"), f"{subject}: fps", MIN_FPS, MAX_FPS)
    found["chunks_size"] = whole(
        info.get("chunks_size", schema.CHUNKS_SIZE), f"{subject}: chunks_size", low=1, high=10**6
    )
    found["features"] = normalised_features(info.get("features"), subject)
    if "robot_type" in info:
        found["robot_type"] = _text(info["robot_type"])
    _check_templates(found, subject)
    return found


def totals(version: str, counts: Counts) -> dict[str, int]:
    """Return the totals that `info.json` of that version has, as far as they are known."""
    is_v3 = version == schema.Version.V30.value
    found = {name: total.count(counts) for name, total in TOTALS.items() if not (is_v3 and total.is_v2_only)}
    return {name: number for name, number in found.items() if number is not None}


def make_info(
    version: schema.Version,
    features: Mapping[str, Any],
    counts: Counts,
    *,
    fps: float,
    robot_type: str | None,
    data_files_mb: float = schema.DATA_FILES_MB,
    video_files_mb: float = schema.VIDEO_FILES_MB,
) -> dict[str, Any]:
    """Return `info.json` of a dataset with the suite's path templates; the sizes are v3.0's only."""
    is_v3 = version is schema.Version.V30
    sizes = {"data_files_size_in_mb": data_files_mb, "video_files_size_in_mb": video_files_mb} if is_v3 else {}
    return {
        "codebase_version": version.value,
        "robot_type": robot_type,
        **totals(version.value, counts),
        "chunks_size": schema.CHUNKS_SIZE,
        **sizes,
        "fps": fps,
        "splits": {"train": f"0:{counts.episodes}"},
        "data_path": schema.SHARED_DATA_PATH if is_v3 else schema.DATA_PATH,
        "video_path": schema.SHARED_VIDEO_PATH if is_v3 else schema.VIDEO_PATH,
        "features": features,
    }


def make_recorded_info(
    embodiment: Embodiment,
    codec: str,
    version: schema.Version,
    num_episodes: int,
    num_frames: int,
    num_tasks: int,
    *,
    has_source: bool = False,
) -> dict[str, Any]:
    """Return `info.json` of a dataset recorded for `embodiment`; `codec`, `has_source`: see `schema.make_features`."""
    return make_info(
        version,
        schema.make_features(embodiment, codec, has_source=has_source),
        Counts(num_episodes, num_frames, num_tasks, len(embodiment.video)),
        fps=embodiment.fps,
        robot_type=embodiment.robot_type or embodiment.name,
    )


def refresh_counts(info: dict[str, Any], counts: Counts) -> None:
    """Set the totals of `info`, and its splits where one of them is not a range of the episodes."""
    info |= totals(info["codebase_version"], counts)
    splits = info.get("splits")
    if not isinstance(splits, dict) or not all(is_split(text, counts.episodes) for text in splits.values()):
        info["splits"] = {"train": f"0:{counts.episodes}"}


def is_split(text: Any, num_episodes: int) -> bool:
    """Whether a split like "0:5" is a range of the episodes."""
    parts = re.fullmatch(r"(\d+):(\d+)", str(text))
    return parts is not None and int(parts[2]) <= num_episodes


def file_size_mb(info: Mapping[str, Any], name: str, default: int) -> float | int:
    """Return the size beyond which files of v3.0 are not appended to [MB]; `default` where nothing valid is given."""
    try:
        return real(info.get(name), name, 1e-6, _MAX_FILE_MB)
    except DatasetError:
        return default


def _version(value: Any, subject: str) -> str:
    text = str(value if value is not None else "").strip().lower().removeprefix("v")
    version = f"v{text}" if text else ""
    if version not in schema.READ_VERSIONS:
        raise DatasetError(
            f"{subject}: version '{printable(version)}', expected one of {', '.join(schema.READ_VERSIONS)}"
        )
    return version


def _text(value: Any) -> str | None:
    return None if value is None else printable(value if isinstance(value, str) else repr(value))


def _check_templates(info: dict[str, Any], subject: str) -> None:
    """Fill the templates once, so that every later use is known to stay inside the dataset."""
    is_v3 = info["codebase_version"] == schema.Version.V30.value
    cameras = [name for name, feature in info["features"].items() if is_video(feature)]
    if not isinstance(info.get("data_path"), str):
        raise DatasetError(f"{subject}: data_path is {shown(info.get('data_path'))}, expected a path template")
    if cameras and info.get("video_path") is None:
        info["video_path"] = schema.SHARED_VIDEO_PATH if is_v3 else schema.VIDEO_PATH
    if is_v3:
        schema.shared_path(info["data_path"], 0)
    else:
        schema.data_path(0, info["data_path"])
        _check_field(info["data_path"], "episode_index", subject)
    for name in cameras:
        if is_v3:
            schema.shared_path(info["video_path"], 0, name)
        else:
            schema.video_path(0, name, info["video_path"])
            _check_field(info["video_path"], "episode_index", subject)
        if len(cameras) > 1:
            _check_field(info["video_path"], "video_key", subject)


def _check_field(template: str, field: str, subject: str) -> None:
    if "{" + field not in template:
        raise DatasetError(
            f"{subject}: path template '{printable(template)}' names one file for all, expected {{{field}}} in it"
        )
