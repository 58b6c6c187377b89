# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find out what a LeRobot dataset says about its robot: keys, channels, rate, image sizes, ranges. It has no topics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gr00t_recorder.bag.suggest import robot_name
from gr00t_recorder.bag.suggest_texts import Camera, Range, Stream, Suggestion, joined
from gr00t_recorder.bag.suggest_vectors import GRIPPER_WORDS, JOINT_STATE, Part, Vectors
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE
from gr00t_training.dataset.metadata.features import channel_names, image_size
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, Interpolation, Normalization, VectorKey, VideoKey
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable
from gr00t_training.types import KeyKind, KeyRef

JOINTS_TOPIC = "joint_states"
MAX_EPISODES = 20  # whose speeds are measured
SPEED_SHARE = 0.99  # quantile of the speeds
MOST_RAD = 12.6  # two turns: greater values are no radians


def is_dataset(path: Path) -> bool:
    """Whether a folder is a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


def suggest_from_dataset(path: Path, joints: str = "", cameras: Mapping[str, str] | None = None) -> Suggestion:
    """Return what a dataset says about its robot.

    Args:
        path: folder of the dataset, v2.0 to v3.0.
        joints: topic of the joint states; empty: guessed and marked.
        cameras: topic by camera; others are guessed and marked.

    Raises:
        DatasetError: it cannot be read.
        ConfigError: a topic for a camera that it does not have, or no state, action or camera.
    """
    dataset = EpisodeDataset(path)
    checks: dict[tuple[str, str], str] = {}
    embodiment = dataset.embodiment or _embodiment(dataset, checks)
    topics = dict(cameras or {})
    unknown = [key for key in topics if key not in embodiment.video]
    if unknown:
        raise ConfigError(f"--camera: '{unknown[0]}' is not a camera of {path} ({', '.join(embodiment.video)})")
    measured = _source(joints or JOINTS_TOPIC, embodiment.state)
    commanded = dataclasses.replace(_source("", embodiment.action), type="")
    found = [_camera(key, size, topics.get(key, "")) for key, size in embodiment.video.items()]
    streams = [Stream("joints", measured.topic, JOINT_STATE, "", "" if joints else "topic of the joint states")]
    for camera in found:
        check = "" if camera.key in topics else "topic and type of this camera"
        streams.append(Stream(f"camera_{camera.key}", camera.topic, camera.type, "", check))
    return Suggestion(
        source=f"dataset {printable(path.resolve().name)}",
        name=embodiment.name,
        rate_hz=embodiment.fps,
        state=(_part(measured, embodiment.state),),
        action=(_part(commanded, embodiment.action),),
        cameras=tuple(found),
        streams=tuple(streams),
        ranges=_ranges(dataset, embodiment),
        known=embodiment,
        checks=checks,
    )


def _embodiment(dataset: EpisodeDataset, checks: dict[tuple[str, str], str]) -> Embodiment:
    """Return the embodiment of a dataset that another tool wrote; what is guessed goes to `checks`."""
    keys = {kind: _vectors(dataset, kind, checks) for kind in (KeyKind.STATE, KeyKind.ACTION)}
    cameras = {}
    for key in dataset.modality.video:
        height, width = image_size(dataset.features[dataset.video_feature(key)], key)
        cameras[key] = VideoKey(height=height - height % 2, width=width - width % 2)
    name = dataset.metadata.info.get("robot_type")
    try:
        return Embodiment(
            name=robot_name(name if isinstance(name, str) and name != "unknown" else dataset.path.resolve().name),
            tag="new_embodiment",
            fps=max(round(dataset.fps), 1),
            state=keys[KeyKind.STATE],
            action=keys[KeyKind.ACTION],
            video=cameras,
        )
    except ValueError as error:
        raise ConfigError(f"{dataset.path}: no embodiment can be made of it: {error}") from error


def _vectors(dataset: EpisodeDataset, kind: KeyKind, checks: dict[tuple[str, str], str]) -> dict[str, VectorKey]:
    found: dict[str, VectorKey] = {}
    taken: set[str] = set()
    for key in dataset.modality.vectors(kind):
        part = dataset.slice_of(KeyRef(kind, key))
        names = channel_names(dataset.features[part.column].get("names"))[part.start : part.end]
        width = part.end - part.start
        is_known = len(names) == width and len(set(names)) == width and not taken & set(names)
        if not is_known:
            names = [f"{key}_{number}" for number in range(width)]
        taken |= set(names)
        is_gripper = bool(GRIPPER_WORDS.search(key.lower()))
        statistics = dataset.statistics(KeyRef(kind, key))
        largest = float(np.nanmax(np.abs([statistics.min, statistics.max])))
        unit = "deg" if largest > MOST_RAD and not is_gripper else "rad"
        found[key] = VectorKey(
            names=tuple(names),
            unit=unit,
            normalization=Normalization.MIN_MAX,
            interpolation=Interpolation.STEP if is_gripper and kind is KeyKind.ACTION else Interpolation.LINEAR,
        )
        what = "unit" if is_known else "unit, and the names of the channels, which the dataset does not tell"
        checks[kind.value, key] = f"{what}; values reach {largest:.4g}"
    return found


def _source(topic: str, keys: Mapping[str, VectorKey]) -> Vectors:
    names = tuple(name for vector in keys.values() for name in vector.names)
    return Vectors(topic, JOINT_STATE, names, len(names), 0)


def _part(source: Vectors, keys: Mapping[str, VectorKey]) -> Part:
    places: dict[str, Sequence[int]] = {}
    start = 0
    for key, vector in keys.items():
        places[key] = range(start, start + vector.dim)
        start += vector.dim
    return Part("", source, source.names, tuple(range(len(source.names))), keys=places)


def _camera(key: str, size: VideoKey, topic: str) -> Camera:
    topic = topic or f"{key}/image_raw/compressed"
    kind = COMPRESSED_IMAGE_TYPE if topic.endswith("compressed") else IMAGE_TYPE
    return Camera(key, topic, kind, size.height, size.width, is_resized=True)


def _ranges(dataset: EpisodeDataset, embodiment: Embodiment) -> dict[str, Range]:
    """Return least, greatest and fastest value of every action channel, where it was measured included."""
    found: dict[str, Range] = {}
    measured: dict[str, Range] = {}
    for key, vector in embodiment.state.items():
        statistics = dataset.statistics(KeyRef(KeyKind.STATE, key))
        ends = zip(statistics.min.tolist(), statistics.max.tolist(), strict=True)
        measured.update({name: (low, high, 0.0) for name, (low, high) in zip(vector.names, ends, strict=True)})
    for key, vector in embodiment.action.items():
        ref = KeyRef(KeyKind.ACTION, key)
        statistics = dataset.statistics(ref)
        steps = [
            np.abs(np.diff(dataset.vectors(ref, episode.index), axis=0))
            for episode in dataset.episodes[:MAX_EPISODES]
            if episode.length > 1
        ]
        moved = [step for step in steps if len(step)]
        fastest = np.quantile(np.concatenate(moved), SPEED_SHARE, axis=0) if moved else np.zeros(vector.dim)
        for i, name in enumerate(vector.names):
            commanded = float(statistics.min[i]), float(statistics.max[i]), float(fastest[i]) * dataset.fps
            found[name] = joined(commanded, measured[name]) if name in measured else commanded
    return found
