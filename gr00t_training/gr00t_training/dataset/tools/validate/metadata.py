# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checks that need the metadata and the list of files, not what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.features import (
    IMAGE,
    IMAGES_IN_ROWS,
    VIDEO,
    channel_names,
    has_plain_axes,
    image_size,
    is_video,
    width_of,
)
from gr00t_training.dataset.metadata.info import TOTALS, Counts, file_size_mb, is_split, totals
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.metadata.numbers import shown
from gr00t_training.dataset.tools.validate.findings import (
    RECORD_AGAIN,
    REPAIR,
    TABLE_ORDER,
    TABLE_ROWS,
    UNFINISHED,
    Finding,
    camera_of,
    fault,
    guarded,
    places_in,
    warning,
)
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, column_names, modality_layout
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import exists, mirror_of

# lerobot compares the requested time with the decoded one within this [s]
TIME_TOLERANCE_S = 1e-4
RETASK = "add it, or run gr00t_dataset retask"
CONVERT = "run gr00t_dataset convert, which numbers episodes from 0"
CONTAINED_KINDS = ("*.parquet", "*.mp4")  # lerobot counts such files when it appends


def check_metadata(metadata: DatasetMetadata) -> Iterator[Finding]:
    """Yield what is wrong with totals, lists, features, modality and files."""
    if metadata.is_listed:  # else nothing is known to compare with, and a finding says so
        yield from guarded(schema.INFO_FILE, _check_info(metadata))
        yield from guarded(metadata.episodes_place, _check_episodes(metadata))
    yield from guarded(schema.INFO_FILE, _check_features(metadata))
    yield from guarded(schema.MODALITY_FILE, _check_modality(metadata))
    yield from guarded(schema.EMBODIMENT_FILE, _check_embodiment(metadata))
    yield from guarded(schema.INFO_FILE, _check_files(metadata))
    if metadata.is_v3:
        yield from guarded(metadata.episodes_place, _check_spans(metadata))


def _check_info(metadata: DatasetMetadata) -> Iterator[Finding]:
    info, num_episodes = metadata.info, len(metadata.episodes)
    counts = Counts(num_episodes, metadata.num_frames, len(metadata.tasks), len(metadata.cameras), info["chunks_size"])
    for name, expected in totals(info["codebase_version"], counts).items():
        if name == "total_frames" and metadata.is_subset and info.get(name) == metadata.num_rows_spanned:
            continue  # of rows that are there
        if info.get(name) != expected:
            yield Finding(TOTALS[name].is_fault, schema.INFO_FILE, f"{name} is {info.get(name)}", str(expected), REPAIR)
    if metadata.fps != int(metadata.fps):
        yield fault(schema.INFO_FILE, f"fps is {metadata.fps}", "a whole rate", "resample: convert the bag again")
    for name, text in (info.get("splits") or {}).items():
        if not is_split(text, num_episodes):
            yield warning(schema.INFO_FILE, f"split '{name}' is {text}", f"a range within 0:{num_episodes}", REPAIR)
    if metadata.is_v3:
        for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
            if file_size_mb(info, name, -1) != info.get(name):
                yield fault(schema.INFO_FILE, f"{name} is {shown(info.get(name))}", "a positive number", "set it")


def _check_episodes(metadata: DatasetMetadata) -> Iterator[Finding]:
    if not metadata.order:
        otherwise = "restore it from a copy"
        yield fault(metadata.episodes_place, "no episode", "", REPAIR, (UNFINISHED, metadata.episodes_place), otherwise)
    for place, index in enumerate(metadata.order):
        if index != place:
            targets = (TABLE_ORDER,) if metadata.is_v3 else ()
            text = f"episode index {index} at place {place}"
            yield fault(metadata.episodes_place, text, "0, 1, 2 and so on", REPAIR, targets, CONVERT)
            break
    known = set(metadata.tasks.values())
    for episode in metadata.episodes:
        if episode.length < 1:
            yield fault(episode.name, f"has length {episode.length}", "at least 1", "run gr00t_dataset delete")
        for text in episode.tasks:
            if text not in known:
                yield fault(
                    episode.name,
                    f"task '{text}' is not in the list of tasks",
                    "",
                    REPAIR,
                    (metadata.tasks_place,),
                    RETASK,
                )


def _check_features(metadata: DatasetMetadata) -> Iterator[Finding]:
    for name, feature in metadata.features.items():
        if "/" in name:
            yield fault(name, "a feature name has a '/'", remedy="rename it: readers take it for a folder")
        if is_video(feature):
            yield from _check_camera(metadata, name, feature)
        elif feature["dtype"] == IMAGE:
            yield fault(name, f"dtype is image: {IMAGES_IN_ROWS}")
        elif len(feature["shape"]) == 1 and feature.get("names"):
            yield from _check_names(name, feature, is_ours=metadata.embodiment is not None)
    if metadata.is_v3:
        return
    for name in (schema.STATE_COLUMN, schema.ACTION_COLUMN):
        if name not in metadata.features and any(column == name for _, column, _, _ in metadata.slices()):
            yield fault(name, f"is not a feature of {schema.INFO_FILE}", remedy="restore the file from a copy")


def _check_camera(metadata: DatasetMetadata, name: str, feature: Mapping[str, Any]) -> Iterator[Finding]:
    if name not in metadata.cameras:
        text = f"a camera of {schema.INFO_FILE} that {schema.MODALITY_FILE} does not name"
        yield warning(name, text, remedy="lerobot needs its videos; add the camera there or remove it here")
        return
    names = feature.get("names") or []
    if not has_plain_axes(feature):
        found = shown(names) if names else "missing"
        again = f"write it again with gr00t_dataset convert --to {metadata.info['codebase_version']}"
        yield fault(name, f"names are {found}", "height, width and channels", REPAIR, (camera_of(name),), again)
    else:
        block = "info" if "channels" in names or metadata.is_v3 else "video_info"
        if block not in feature:
            text = f"has no '{block}', which names {names} need (GR00T N1)"
            yield fault(name, text, "", REPAIR, (camera_of(name),), f"correct {schema.INFO_FILE}")
    size = image_size(feature, name)
    if any(side % 2 for side in size):
        yield fault(name, f"is {size[1]}x{size[0]}", "even sides, which yuv420p needs", "convert the bag again")


def _check_names(name: str, feature: Mapping[str, Any], *, is_ours: bool) -> Iterator[Finding]:
    names, width = channel_names(feature.get("names")), feature["shape"][0]
    if not names:
        return
    if len(names) != width:
        yield fault(name, f"{len(names)} names for {width} channels", remedy="correct names in meta/info.json")
    repeated = {text for text in names if names.count(text) > 1}
    if repeated:
        # readers do not mind, and some of NVIDIA's samples have that; our tools go by name
        text = f"duplicate channel '{min(repeated)}'"
        yield Finding(is_ours, name, text, remedy="correct names in meta/info.json")


def _check_modality(metadata: DatasetMetadata) -> Iterator[Finding]:
    for ref, column, start, end in metadata.slices():
        if column not in metadata.features:
            yield fault(
                str(ref), f"column '{column}' is not a feature of {schema.INFO_FILE}", remedy="correct modality.json"
            )
            continue
        width = width_of(metadata.features[column])
        if not 0 <= start < end <= width:
            text = f"channels {start} to {end} are outside column '{column}' of {width}"
            yield fault(str(ref), text, remedy=f"correct {schema.MODALITY_FILE}")
    for key, feature in (metadata.modality_cameras or {}).items():
        if metadata.features.get(feature, {}).get("dtype") not in (VIDEO, IMAGE):
            text = f"'{feature}' is not a camera of {schema.INFO_FILE}"
            yield fault(f"video.{key}", text, remedy=f"correct {schema.MODALITY_FILE}")
    for key, column in metadata.annotation_columns().items():
        if column not in metadata.features:
            text = f"column '{column}' is not a feature of {schema.INFO_FILE}"
            yield Finding(metadata.is_v3, f"annotation.{key}", text, remedy=f"correct {schema.MODALITY_FILE}")


def _check_embodiment(metadata: DatasetMetadata) -> Iterator[Finding]:
    embodiment = metadata.embodiment
    if embodiment is None:
        return
    if metadata.modality is not None and metadata.modality != modality_layout(embodiment):
        yield fault(schema.MODALITY_FILE, f"does not follow from {schema.EMBODIMENT_FILE}", remedy=REPAIR)
    if metadata.fps != embodiment.fps:
        expected = f"{embodiment.fps} as in {schema.EMBODIMENT_FILE}"
        yield fault(schema.INFO_FILE, f"fps is {metadata.fps}", expected, "correct the one that is wrong by hand")
    for column, keys in ((STATE_COLUMN, embodiment.state), (ACTION_COLUMN, embodiment.action)):
        found = metadata.features.get(column, {}).get("names")
        if found != column_names(keys):
            expected = f"{column_names(keys)} as in {schema.EMBODIMENT_FILE}"
            yield fault(column, f"names are {found}", expected, REPAIR, (schema.INFO_FILE,))


def _check_files(metadata: DatasetMetadata) -> Iterator[Finding]:
    """Find files that are missing, and those that lerobot would count as episodes."""
    known = {metadata.name_of(episode.rows.path) for episode in metadata.episodes}
    known |= {metadata.name_of(span.path) for episode in metadata.episodes for span in episode.videos.values()}
    for name in sorted(known):
        try:
            if not exists(metadata.file(name)):
                yield fault(name, "missing", "", REPAIR, (name,), RECORD_AGAIN)
        except DatasetError as error:
            yield fault(name, str(error))
    if not metadata.is_listed:
        return
    for name in sorted(_contained(metadata.path)):
        is_metadata = metadata.is_v3 and name.startswith(schema.META + "/")
        if name not in known and not is_metadata:
            yield fault(name, "no episode has this file", remedy=REPAIR)


def _contained(root: Path) -> Iterator[str]:
    """Yield the names of the files of a dataset that lerobot counts."""
    mirror = mirror_of(root)
    if mirror is not None:
        yield from (name for name in mirror.objects if any(fnmatch(name, kind) for kind in CONTAINED_KINDS))
        return
    for kind in CONTAINED_KINDS:
        yield from (path.relative_to(root).as_posix() for path in root.rglob(kind))


def _check_spans(metadata: DatasetMetadata) -> Iterator[Finding]:
    """Check where v3.0 places the episodes in their files; rows and frames without an episode may be between them."""
    index = 0
    for episode in metadata.episodes:
        if episode.from_index < index:
            text = f"dataset_from_index is {episode.from_index}"
            yield fault(episode.name, text, f"{index} or more", REPAIR, (TABLE_ROWS,))
        index = episode.from_index + episode.length
    for feature in metadata.cameras:
        ends: dict[str, tuple[float, str]] = {}  # of each file, and the episode that ends there
        for episode in sorted(metadata.episodes, key=lambda episode: episode.times_s[feature][0]):
            file = metadata.name_of(episode.videos[feature].path)
            first_s, last_s = episode.times_s[feature]
            subject, targets = f"{episode.name}, {feature}", (places_in(file),)
            text = f"from_timestamp is {first_s:.6f} s in {file}"
            frame, (end_s, before) = first_s * metadata.fps, ends.get(file, (0.0, "the file"))
            if abs(frame - round(frame)) > TIME_TOLERANCE_S * metadata.fps:
                yield fault(subject, text, "the time of a frame", REPAIR, targets)
            elif first_s < end_s - TIME_TOLERANCE_S:
                expected = f"{end_s:.6f} s or more, where {before} ends" if end_s else "0 s or more"
                yield fault(subject, text, expected, REPAIR, targets)
            length_s = episode.length / metadata.fps
            if last_s - first_s < length_s - TIME_TOLERANCE_S:
                text = f"lasts {last_s - first_s:.6f} s in {file}"
                yield fault(subject, text, f"{length_s:.6f} s for {episode.length} rows", REPAIR, targets)
            ends[file] = (first_s + length_s, episode.name)
