# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checks that need the metadata and the list of files, not what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.validation.contents import Contents
from gr00t_training.dataset.validation.findings import (
    RECORD_AGAIN,
    REPAIR,
    Finding,
    fault,
    guarded,
    warning,
)
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, column_names, modality_layout

# lerobot compares the asked time with the decoded one within this [s]
TIME_TOLERANCE_S = 1e-4
CONTAINED_KINDS = ("*.parquet", "*.mp4")  # lerobot counts such files when it appends


def check_metadata(contents: Contents) -> Iterator[Finding]:
    """Yield what is wrong with totals, lists, features, modality and files."""
    yield from guarded(schema.INFO_FILE, _check_info(contents))
    yield from guarded(contents.episodes_place, _check_episodes(contents))
    yield from guarded(schema.INFO_FILE, _check_features(contents))
    yield from guarded(schema.MODALITY_FILE, _check_modality(contents))
    yield from guarded(schema.EMBODIMENT_FILE, _check_embodiment(contents))
    yield from guarded(schema.INFO_FILE, _check_files(contents))
    if contents.is_v3:
        yield from guarded(contents.episodes_place, _check_spans(contents))


def _check_info(contents: Contents) -> Iterator[Finding]:
    info, num_episodes = contents.info, len(contents.episodes)
    totals = {
        "total_episodes": (num_episodes, True),
        "total_frames": (contents.num_frames, True),
        "total_tasks": (len(contents.tasks), False),
    }
    if not contents.is_v3:
        totals["total_videos"] = (num_episodes * len(contents.cameras), False)
        totals["total_chunks"] = (-(-num_episodes // info["chunks_size"]), False)
    for name, (expected, is_fault) in totals.items():
        if info.get(name) != expected:
            yield Finding(is_fault, schema.INFO_FILE, f"{name} is {info.get(name)}", str(expected), REPAIR)
    if contents.fps != int(contents.fps):
        yield fault(schema.INFO_FILE, f"fps is {contents.fps}", "a whole rate", "resample: convert the bag again")
    for name, text in (info.get("splits") or {}).items():
        parts = re.fullmatch(r"(\d+):(\d+)", str(text))
        if not parts or int(parts[2]) > num_episodes:
            yield warning(schema.INFO_FILE, f"split '{name}' is {text}", f"a range within 0:{num_episodes}", REPAIR)
    if contents.is_v3:
        for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
            if not info.get(name, 0) > 0:
                yield fault(schema.INFO_FILE, f"{name} is {info.get(name)}", "a positive number", "set it")


def _check_episodes(contents: Contents) -> Iterator[Finding]:
    indices = [episode.index for episode in contents.episodes]
    if not indices:
        yield fault(contents.episodes_place, "no episode", remedy=REPAIR)
    for place, index in enumerate(indices):
        if index != place:
            text = f"episode index {index} at place {place}"
            yield fault(contents.episodes_place, text, "0, 1, 2 and so on", REPAIR)
            break
    known = set(contents.tasks.values())
    for episode in contents.episodes:
        if episode.length < 1:
            yield fault(episode.name, f"has length {episode.length}", "at least 1", "run gr00t_dataset delete")
        for text in episode.tasks:
            if text not in known:
                yield fault(episode.name, f"task '{text}' is not in the list of tasks", remedy=REPAIR)


def _check_features(contents: Contents) -> Iterator[Finding]:
    for name, feature in contents.features.items():
        if "/" in name:
            yield fault(name, "a feature name has a '/'", remedy="rename it: readers take it for a folder")
        if feature["dtype"] == "video":
            yield from _check_camera(contents, name, feature)
        elif len(feature["shape"]) == 1 and feature.get("names"):
            yield from _check_names(name, feature, is_ours=contents.embodiment is not None)
    if contents.is_v3:
        return
    for name in (schema.STATE_COLUMN, schema.ACTION_COLUMN):
        if name not in contents.features and any(column == name for _, column, _, _ in contents.slices()):
            yield fault(name, f"is not a feature of {schema.INFO_FILE}", remedy="restore the file from a copy")


def _check_camera(contents: Contents, name: str, feature: Mapping[str, Any]) -> Iterator[Finding]:
    if name not in contents.cameras:
        text = f"a camera of {schema.INFO_FILE} that {schema.MODALITY_FILE} does not name"
        yield warning(name, text, remedy="lerobot wants its videos; name it or take it out")
        return
    names, shape = feature.get("names") or [], feature["shape"]
    block = "info" if "channels" in names or contents.is_v3 else "video_info"
    if block not in feature:
        yield fault(name, f"has no '{block}', which names {names} need (GR00T N1)", remedy=REPAIR)
    if "height" not in names or "width" not in names:
        yield fault(name, f"names are {names}", "height, width and channels", REPAIR)
    if any(side % 2 for side in shape[:2]):
        yield fault(name, f"shape is {shape}", "even sides, which yuv420p needs", "convert the bag again")


def channel_names(feature: Mapping[str, Any]) -> list[str] | None:
    """Return the channel names of a vector in whichever of the forms in use; None where it has none."""
    names = feature.get("names")
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    return names if isinstance(names, list) else None


def _check_names(name: str, feature: Mapping[str, Any], *, is_ours: bool) -> Iterator[Finding]:
    names, width = channel_names(feature), feature["shape"][0]
    if names is None:
        return
    if len(names) != width:
        yield fault(name, f"{len(names)} names for {width} channels", remedy="correct names in meta/info.json")
    repeated = {text for text in names if names.count(text) > 1}
    if repeated:
        # readers do not mind, and some of NVIDIA's samples have that; our tools go by name
        text = f"channel '{min(repeated)}' stands twice"
        yield Finding(is_ours, name, text, remedy="correct names in meta/info.json")


def _check_modality(contents: Contents) -> Iterator[Finding]:
    for key, column, start, end in contents.slices():
        if column not in contents.features:
            yield fault(
                key, f"column '{column}' is not a feature of {schema.INFO_FILE}", remedy="correct modality.json"
            )
            continue
        width = contents.features[column]["shape"][0]
        if not 0 <= start < end <= width:
            text = f"channels {start} to {end} are outside column '{column}' of {width}"
            yield fault(key, text, remedy=f"correct {schema.MODALITY_FILE}")
    for key, feature in (contents.modality_cameras or {}).items():
        if contents.features.get(feature, {}).get("dtype") != "video":
            text = f"'{feature}' is not a camera of {schema.INFO_FILE}"
            yield fault(f"video.{key}", text, remedy=f"correct {schema.MODALITY_FILE}")
    for key, column in contents.annotation_columns().items():
        if column not in contents.features:
            text = f"column '{column}' is not a feature of {schema.INFO_FILE}"
            yield Finding(contents.is_v3, f"annotation.{key}", text, remedy=f"correct {schema.MODALITY_FILE}")


def _check_embodiment(contents: Contents) -> Iterator[Finding]:
    embodiment = contents.embodiment
    if embodiment is None:
        return
    if contents.modality is not None and contents.modality != modality_layout(embodiment):
        yield fault(schema.MODALITY_FILE, f"does not follow from {schema.EMBODIMENT_FILE}", remedy=REPAIR)
    if contents.fps != embodiment.fps:
        expected = f"{embodiment.fps} as in {schema.EMBODIMENT_FILE}"
        yield fault(schema.INFO_FILE, f"fps is {contents.fps}", expected, REPAIR)
    for column, keys in ((STATE_COLUMN, embodiment.state), (ACTION_COLUMN, embodiment.action)):
        found = contents.features.get(column, {}).get("names")
        if found != column_names(keys):
            expected = f"{column_names(keys)} as in {schema.EMBODIMENT_FILE}"
            yield fault(column, f"names are {found}", expected, REPAIR)


def _check_files(contents: Contents) -> Iterator[Finding]:
    """Find files that are missing, and those that lerobot would count as episodes."""
    known = {episode.data_file for episode in contents.episodes}
    known |= {span.file for episode in contents.episodes for span in episode.videos.values()}
    for name in sorted(known):
        if not (contents.path / name).is_file():
            yield fault(name, "missing", remedy=RECORD_AGAIN)
    for path in sorted(path for kind in CONTAINED_KINDS for path in contents.path.rglob(kind)):
        name = path.relative_to(contents.path).as_posix()
        is_metadata = contents.is_v3 and name.startswith(schema.META + "/")
        if name not in known and not is_metadata:
            yield fault(name, "no episode has this file", remedy=REPAIR)


def _check_spans(contents: Contents) -> Iterator[Finding]:
    """Check where v3.0 places the episodes in their files."""
    index = 0
    for episode in contents.episodes:
        if episode.first_index != index:
            yield fault(episode.name, f"dataset_from_index is {episode.first_index}", str(index), REPAIR)
        index = episode.first_index + episode.length
    for feature in contents.cameras:
        used: dict[str, int] = {}  # frames of each file that earlier episodes have
        for episode in contents.episodes:
            span = episode.videos[feature]
            subject, expected_s = f"{episode.name}, {feature}", used.get(span.file, 0) / contents.fps
            if abs(span.start_s - expected_s) > TIME_TOLERANCE_S:
                text = f"from_timestamp is {span.start_s:.6f} s in {span.file}"
                yield fault(subject, text, f"{expected_s:.6f} s after the episodes before it", REPAIR)
            length_s = episode.length / contents.fps
            if span.end_s is not None and abs(span.end_s - span.start_s - length_s) > TIME_TOLERANCE_S:
                text = f"lasts {span.end_s - span.start_s:.6f} s in {span.file}"
                yield fault(subject, text, f"{length_s:.6f} s for {episode.length} rows", REPAIR)
            used[span.file] = used.get(span.file, 0) + episode.length
