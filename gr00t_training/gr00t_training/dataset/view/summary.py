# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Summary of a dataset in numbers; nothing is decoded for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.dataset.metadata.features import camera_block, channel_names, image_size
from gr00t_training.dataset.metadata.modality import derived_modality, parse_modality
from gr00t_training.dataset.quality import Marks
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.repair.unfinished import find_unfinished
from gr00t_training.io.files import walk
from gr00t_training.io.mirror import address_of, mirror_of, open_folder, size_of
from gr00t_training.types import VECTOR_KINDS, KeyRef


@dataclass(frozen=True)
class CameraSummary:
    """One camera."""

    feature: str
    width: int  # pixels
    height: int
    codec: str  # of the first episode's file, or as declared if that is not here
    size_bytes: int  # of its files


@dataclass(frozen=True)
class VectorSummary:
    """One key of the state or the action."""

    key: str  # state.arm
    column: str
    names: list[str]  # of its channels; empty if the dataset has none


@dataclass(frozen=True)
class DatasetSummary:
    """A dataset in numbers."""

    path: str
    version: str
    robot_type: str | None
    embodiment: str | None  # name
    tag: str | None  # GR00T's embodiment tag
    fingerprint: str | None
    fps: float
    num_episodes: int
    num_frames: int
    hours: float
    shortest: int  # rows of the shortest episode
    longest: int
    tasks: dict[str, int]  # text -> episodes
    vectors: list[VectorSummary]
    cameras: list[CameraSummary]
    depth: list[str]  # depth cameras with sidecar files
    success: dict[str, int]  # "yes", "no", "unmarked" -> episodes
    valid: dict[str, int]
    num_unfinished: int  # episodes in the staging folder that `repair` may recover
    size_bytes: int  # of all files


def summarize(path: str | Path) -> DatasetSummary:
    """Sum up the dataset in the folder `path`, which may be in object storage.

    Raises:
        DatasetError: not a dataset, or damaged metadata.
    """
    source = SourceDataset(open_folder(path))
    embodiment = source.embodiment
    lengths = source.episodes.length
    marked = [source.marks(index) for index in source.episodes.indices.tolist() if source.side_files(index)]
    marks = marked + [Marks()] * (len(lengths) - len(marked))
    tasks = Counter(text for place in range(len(lengths)) for text in dict.fromkeys(source.episodes.tasks_of(place)))
    return DatasetSummary(
        path=address_of(source.path),
        version=source.version,
        robot_type=source.info.get("robot_type"),
        embodiment=embodiment.name if embodiment else None,
        tag=embodiment.tag if embodiment else None,
        fingerprint=embodiment.fingerprint() if embodiment else None,
        fps=source.fps,
        num_episodes=len(source.episodes),
        num_frames=source.num_frames,
        hours=source.num_frames / source.fps / 3600,
        shortest=int(lengths.min()) if len(lengths) else 0,
        longest=int(lengths.max(initial=0)),
        tasks=dict(tasks.most_common()),
        vectors=_vectors(source),
        cameras=[_camera(source, name) for name in source.cameras],
        depth=list(embodiment.depth) if embodiment else [],
        success=_counts([mark.is_success for mark in marks]),
        valid=_counts([mark.is_valid for mark in marks]),
        num_unfinished=len(find_unfinished(source.path)[0]),
        size_bytes=_total_bytes(source.path),
    )


def _total_bytes(root: Path) -> int:
    mirror = mirror_of(root)
    if mirror is not None:
        return sum(state.size for state in mirror.objects.values())
    return sum(entry.stat().st_size for entry in walk(root) if entry.is_file())


def _vectors(source: SourceDataset) -> list[VectorSummary]:
    stored = source.metadata.modality
    modality = derived_modality(source.features) if stored is None else parse_modality(stored)
    return [
        VectorSummary(str(KeyRef(kind, key)), part.column, names[part.start : part.end])
        for kind in VECTOR_KINDS
        for key, part in modality.vectors(kind).items()
        for names in [channel_names(source.features.get(part.column, {}).get("names"))]
    ]


def _camera(source: SourceDataset, name: str) -> CameraSummary:
    feature = source.features[name]
    height, width = image_size(feature, name)
    codec = str(camera_block(feature).get("video.codec", "unknown"))
    paths = {episode.videos[name].path for episode in source.episodes}
    sizes = {path: size for path in paths if (size := size_of(path)) is not None}
    if sizes and mirror_of(source.path) is None:  # a file is not fetched for it
        reader = VideoReader(min(sizes))
        codec = reader.codec
        reader.close()
    return CameraSummary(
        feature=name,
        width=width,
        height=height,
        codec=codec,
        size_bytes=sum(sizes.values()),
    )


def _counts(marks: list[bool | None]) -> dict[str, int]:
    return {"yes": marks.count(True), "no": marks.count(False), "unmarked": marks.count(None)}
