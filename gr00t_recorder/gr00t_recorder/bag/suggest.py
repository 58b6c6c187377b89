# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find out what the topics of a bag say about its robot: joints, cameras, rates, types, usable stamps.

`suggest_texts` writes the files. A running robot is recorded into a bag first, so there is one way for both.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_recorder.bag.boundaries import is_own_events
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.suggest_texts import Answers, Camera, Range, Stream, Suggestion, joined, write_files
from gr00t_recorder.bag.suggest_vectors import (
    STRING,
    Part,
    choose_parts,
    first_message,
    observed_ranges,
    topic_list,
)
from gr00t_recorder.episodes.events import parse_event
from gr00t_recorder.topics.codecs import IMAGE_TYPES, stamp_of
from gr00t_recorder.topics.images import check_raw, decode_compressed
from gr00t_recorder.topics.streams import MIN_REPEATED, OTHER_CLOCK_S
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.io.text import printable

TASK_WORDS = re.compile(r"task|instruction|language|prompt")
DEPTH_WORDS = re.compile(r"depth|disparity|16uc1|32fc1|mono16")
COMMON_WORDS = {"camera", "image", "image_raw", "image_rect", "compressed", "color", "rgb", "raw", "sensors", "robot"}
DEFAULT_RATE_HZ = 30
USUAL_RATES_HZ = (5, 10, 15, 20, 25, 30, 50, 60, 90)
UNNAMED = ("bag", "bags", "rosbag", "rosbag2")  # what folders of bags are called when nobody names them
MAX_STAMPS = 50  # inspected stamps of a topic


def suggest_files(path: Path, folder: Path, answers: Answers | None = None) -> list[Path]:
    """Write `embodiment.yaml`, `topics.yaml` and `limits.yaml` for the bag at `path` to `folder`; return their paths.

    Raises:
        ConfigError: a file exists already, or an answer does not fit the robot.
        DatasetError: the bag cannot be read, or holds no joint states or no images.
    """
    with Bag(path, allow_partial=True) as bag:
        suggestion = suggest(bag)
    return write_files(suggestion, answers or Answers(), folder)


def suggest(bag: Bag, source: str = "", listening: Sequence[tuple[str, str]] = ()) -> Suggestion:
    """Return what the topics of a bag say.

    Args:
        bag: of a robot.
        source: what headings call it; empty: the name of the bag.
        listening: topics and actions on which commands are taken, with their types.

    Raises:
        DatasetError: the bag cannot be read, or holds no joint states or no images.
    """
    path = bag.path.resolve()
    state, action = choose_parts(bag)
    found = _cameras(bag)
    if not found:
        raise DatasetError(f"{bag.path}: no color images to suggest a camera from; the bag has {topic_list(bag)}")
    cameras = tuple(camera for camera, _ in found)
    texts = _texts(bag)
    streams = _streams(bag, state, action, cameras)
    used = {stream.topic for stream in (*streams, *texts.values())}
    return Suggestion(
        source=source or printable(bag.path.name),
        name=robot_name(path.parent.name if path.stem in UNNAMED else path.stem),
        rate_hz=min((rate_hz for _, rate_hz in found if rate_hz), default=DEFAULT_RATE_HZ),
        state=tuple(state),
        action=tuple(action),
        cameras=cameras,
        streams=tuple(streams),
        texts=texts,
        ranges=_ranges(bag, state, action),
        unused=tuple((topic.name, topic.type) for topic in bag.topics.values() if topic.name not in used),
        listening=tuple(listening),
    )


def _ranges(bag: Bag, state: Sequence[Part], action: Sequence[Part]) -> dict[str, Range]:
    """Return the ranges of the commands, widened to what was measured: the first command is where the robot is."""
    measured = observed_ranges(bag, state)
    return {
        name: joined(found, measured[name]) if name in measured else found
        for name, found in observed_ranges(bag, action).items()
    }


def robot_name(text: str) -> str:
    """Return a name for a robot from the name of a file or folder."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if name[:1].isalpha() else f"robot_{name}".rstrip("_")


def _cameras(bag: Bag) -> list[tuple[Camera, int]]:
    """Return each camera and its rate [Hz]; the compressed topic if there is a compressed and a raw one."""
    found: dict[str, tuple[str, int, int]] = {}
    for kind in reversed(IMAGE_TYPES):  # the smaller one is preferred
        for topic in sorted(bag.topics.values(), key=lambda entry: entry.name):
            message = first_message(bag, topic.name) if topic.type == kind else None
            size = None if message is None else _image_size(topic.name, message)
            base = topic.name.removesuffix("/compressed")
            if size is not None and base not in [other.removesuffix("/compressed") for other in found]:
                found[topic.name] = (kind, *size)
    keys = _camera_keys(list(found))
    times = bag.times(found)
    return [
        (Camera(key, name, kind, height, width), _rate_hz(times[name]))
        for key, (name, (kind, height, width)) in zip(keys, found.items(), strict=True)
    ]


def _rate_hz(times: np.ndarray) -> int:
    """Return the likely configured rate of a camera, 0 if there are too few images."""
    if times.size < 3:
        return 0
    rate_hz = 1e9 / max(float(np.median(np.diff(times))), 1.0)
    usual = min(USUAL_RATES_HZ, key=lambda other: abs(other - rate_hz))
    return usual if abs(usual - rate_hz) < 0.1 * usual else round(rate_hz)


def _image_size(topic: str, message: Any) -> tuple[int, int] | None:
    """Return height and width of a color image, None for others."""
    form = (getattr(message, "encoding", "") or getattr(message, "format", "")).lower()
    if DEPTH_WORDS.search(f"{topic.lower()} {form}"):
        return None
    try:
        if hasattr(message, "height"):
            check_raw(message)
            return int(message.height), int(message.width)
        height, width, _ = decode_compressed(message).shape
    except ObservationError:
        return None
    return height, width


def _camera_keys(topics: Sequence[str]) -> list[str]:
    """Return a short key for each topic: its last specific word, or two if one is not unique."""
    words = [[part for part in topic.lower().split("/") if part and part not in COMMON_WORDS] for topic in topics]
    short = [_key("_".join(each[-1:])) for each in words]
    long = [_key("_".join(each[-2:])) for each in words]
    keys: list[str] = []
    for number, key in enumerate(short):
        key = key if short.count(key) == 1 else long[number]
        keys.append(key if key not in keys else f"{key}_{number + 1}")
    return keys


def _key(words: str) -> str:
    key = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    return key if key[:1].isalpha() else f"camera_{key}".rstrip("_")


def _streams(bag: Bag, state: Sequence[Part], action: Sequence[Part], cameras: Sequence[Camera]) -> list[Stream]:
    names: dict[str, str] = {}  # by topic
    for kind, parts in (("joints", state), ("command", action)):
        topics = dict.fromkeys(part.source.topic for part in parts)
        for part in parts:
            names.setdefault(part.source.topic, f"{part.label}_{kind}" if len(topics) > 1 and part.label else kind)
    for camera in cameras:
        names.setdefault(camera.topic, f"camera_{camera.key}")
    stamps = _stamps(bag, list(names))
    return [
        Stream(name, topic, bag.topics[topic].type, _latched(bag, topic) + stamps[topic][0], stamps[topic][1])
        for topic, name in names.items()
    ]


def _latched(bag: Bag, topic: str) -> str:
    return ", latched: true" if bag.topics[topic].is_latched else ""


def _texts(bag: Bag) -> dict[str, Stream]:
    """Return the streams with messages that look like task texts or episode markers, by use.

    Markers of this suite's recorder are left out: the conversion finds them itself.
    """
    found: dict[str, Stream] = {}
    for topic in bag.topics.values():
        message = first_message(bag, topic.name) if topic.type == STRING else None
        if message is None or is_own_events(bag, topic.name):
            continue
        try:
            parse_event(message.data)
            use = "events"
        except ObservationError:
            use = "task" if TASK_WORDS.search(topic.name.lower()) else ""
        if use:
            entries = f"{_latched(bag, topic.name)}, stamp: receive"
            found.setdefault(use, Stream(use, topic.name, topic.type, entries))
    return found


def _stamps(bag: Bag, topics: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return for each topic the entry about its stamps, and a remark."""
    receive = ", stamp: receive"
    entries: dict[str, tuple[str, str]] = {}
    delays_s: dict[str, float] = {}
    for topic in topics:
        stamps, delays = [], []
        for message in itertools.islice(bag.messages([topic]), MAX_STAMPS):
            try:
                stamp_ns = stamp_of(bag.deserialize(message))
            except DatasetError:
                continue
            stamps.append(stamp_ns)
            delays.append((message.log_ns - (stamp_ns or 0)) / 1e9)
        known = [stamp for stamp in stamps if stamp]
        if not known:
            entries[topic] = (receive, "")  # no header, or its stamp is never set
        elif len(known) > MIN_REPEATED and len(set(known)) == 1:
            entries[topic] = (receive, "the stamps in its messages do not change")
        else:
            entries[topic] = ("", "")
            delays_s[topic] = float(np.median(delays))
    least_s = min((abs(delay) for delay in delays_s.values()), default=0.0)
    for topic, delay_s in delays_s.items():
        if abs(delay_s) > least_s + OTHER_CLOCK_S:
            entries[topic] = (receive, "the stamps in its messages are from another clock")
    return entries
