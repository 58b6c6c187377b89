# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a first topic map, embodiment and limits file for a robot from the topics of one of its bags.

Joint names, image sizes, types and usable stamps come from the messages; the rest is guessed and marked with CHECK in
the files. They load as they are, so a dry run shows what is missing.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_recorder.bag.boundaries import is_own_events
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.suggest_vectors import (
    LEADER_WORDS,
    STRING,
    Part,
    choose_parts,
    first_message,
    is_commandable,
    observed_ranges,
    topic_list,
)
from gr00t_recorder.episodes.events import parse_event
from gr00t_recorder.topics.bindings import TopicMap, check_keys
from gr00t_recorder.topics.codecs import IMAGE_TYPES, stamp_of
from gr00t_recorder.topics.images import check_raw, decode_compressed
from gr00t_recorder.topics.streams import MIN_REPEATED, OTHER_CLOCK_S
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, DatasetError, ObservationError
from gr00t_training.io.text import printable
from gr00t_training.settings import parse_settings

TASK_WORDS = re.compile(r"task|instruction|language|prompt")
DEPTH_WORDS = re.compile(r"depth|disparity|16uc1|32fc1|mono16")
COMMON_WORDS = {"camera", "image", "image_raw", "image_rect", "compressed", "color", "rgb", "raw", "sensors", "robot"}
DEFAULT_FPS = 30
USUAL_RATES_HZ = (5, 10, 15, 20, 25, 30, 50, 60, 90)
MAX_STAMPS = 50  # inspected stamps of a topic
RANGE_MARGIN = 0.05  # of a channel's observed range, added on both sides
MIN_MARGIN = 0.02  # [unit of the channel]
SPEED_MARGIN = 1.2
MIN_SPEED = 0.1  # [unit of the channel / s]
PLAIN = re.compile(r"[A-Za-z_/~][\w./~-]*")
RESERVED = ("on", "off", "yes", "no", "y", "n", "true", "false", "null", "none")


@dataclass(frozen=True)
class _Camera:
    key: str
    topic: str
    type: str
    height: int
    width: int
    rate_hz: int


@dataclass(frozen=True)
class _Stream:
    """Entry under streams."""

    name: str
    topic: str
    type: str


def suggest_files(path: Path, folder: Path) -> list[Path]:
    """Write `embodiment.yaml`, `topics.yaml` and `limits.yaml` for the bag at `path` to `folder`; return their paths.

    Raises:
        ConfigError: a file exists already.
        DatasetError: the bag cannot be read, or holds no joint states or no images.
    """
    files = [folder / name for name in ("embodiment.yaml", "topics.yaml", "limits.yaml")]
    for file in files:
        if file.exists() or file.is_symlink():
            raise ConfigError(f"{file}: exists already; choose another folder")
    with Bag(path, allow_partial=True) as bag:
        state, action = choose_parts(bag)
        cameras = _cameras(bag)
        if not cameras:
            raise DatasetError(f"{path}: no color images to suggest a camera from; the bag has {topic_list(bag)}")
        embodiment = _embodiment_text(bag, state, action, cameras)
        topics = _topics_text(bag, state, action, cameras, with_commands=True)
        try:
            _check(embodiment, topics)
        except ConfigError:  # the recorded commands cannot be sent by a policy
            topics = _topics_text(bag, state, action, cameras, with_commands=False)
            _check(embodiment, topics)
        texts = [embodiment, topics, _limits_text(bag, action)]
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _check(embodiment: str, topics: str) -> None:
    parsed = parse_settings(Embodiment, embodiment, "embodiment.yaml")
    check_keys(parse_settings(TopicMap, topics, "topics.yaml"), parsed, "topics.yaml")


def _cameras(bag: Bag) -> list[_Camera]:
    """Return one entry per camera; the compressed topic if there is a compressed and a raw one."""
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
        _Camera(key, name, kind, height, width, _rate_hz(times[name]))
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


def _embodiment_text(bag: Bag, state: Sequence[Part], action: Sequence[Part], cameras: Sequence[_Camera]) -> str:
    rates = [camera.rate_hz for camera in cameras if camera.rate_hz]
    name = re.sub(r"[^a-z0-9]+", "_", bag.path.resolve().stem.lower()).strip("_")
    lines = [
        f"# First embodiment, from {printable(bag.path.name)}. CHECK every line marked so before you record with it.",
        f"name: {name if name[:1].isalpha() else f'robot_{name}'.rstrip('_')}  # CHECK",
        "tag: new_embodiment",
        f"fps: {min(rates, default=DEFAULT_FPS)}  # CHECK: rate of the rows [Hz]; this is the slowest camera's",
    ]
    for kind, parts in (("state", state), ("action", action)):
        lines.append(f"{kind}:")
        for part in parts:
            for key, places in part.groups().items():
                unit = "  # CHECK: unit, m where fingers slide" if key.endswith("gripper") else ""
                names = ", ".join(_quoted(part.channels[place]) for place in places)
                lines.append(f"  {key}: {{names: [{names}]}}{unit}")
    lines.append("video:")
    for camera in cameras:
        height, width = camera.height - camera.height % 2, camera.width - camera.width % 2
        lines.append(f"  {camera.key}: {{height: {height}, width: {width}}}")
    return "\n".join(lines) + "\n"


def _topics_text(
    bag: Bag, state: Sequence[Part], action: Sequence[Part], cameras: Sequence[_Camera], *, with_commands: bool
) -> str:
    streams = _streams(state, action, cameras)
    names = {stream.topic: stream.name for stream in streams}
    texts = _texts(bag)
    stamps = _stamps(bag, [stream.topic for stream in streams])
    lines = [
        f"# First topic map, from {printable(bag.path.name)}. CHECK every line marked so, then look at a dry run:",
        "#   gr00t_convert_bag BAG --topics topics.yaml --dry-run",
        "embodiment: embodiment.yaml",
        "streams:",
    ]
    for stream in streams:
        stamp, check = stamps[stream.topic]
        lines.append(f"  {stream.name}: {{{_stream_entries(bag, stream.topic)}{stamp}}}{check}")
    lines += [f"  {use}: {{{_stream_entries(bag, topic)}, stamp: receive}}" for use, topic in texts.items()]
    lines.append("state:")
    for part in state:
        lines += _bindings(part, names[part.source.topic], "")
    lines.append("action:")
    for part in action:
        lines.append(f"  # {part.remark}")
        lines += _bindings(part, names[part.source.topic], ", align: nearest")
    lines.append("video:")
    for camera in cameras:
        resize = ", resize: true" if camera.height % 2 or camera.width % 2 else ""
        lines.append(f"  {camera.key}: {{stream: camera_{camera.key}{resize}}}")
    lines += [f"{use}: {{stream: {use}}}" for use in texts]
    lines += _commands(state, action, with_commands)
    used = {*names, *texts.values()}
    unused = [topic for topic in bag.topics.values() if topic.name not in used]
    if unused:
        lines.append("# Topics of the bag that are not used:")
        lines += [
            f"#   {printable(topic.name)} ({printable(topic.type)})"
            for topic in sorted(unused, key=lambda topic: topic.name)
        ]
    return "\n".join(lines) + "\n"


def _streams(state: Sequence[Part], action: Sequence[Part], cameras: Sequence[_Camera]) -> list[_Stream]:
    streams: dict[str, _Stream] = {}
    for kind, parts in (("joints", state), ("command", action)):
        topics = dict.fromkeys(part.source.topic for part in parts)
        for part in parts:
            name = f"{part.label}_{kind}" if len(topics) > 1 and part.label else kind
            streams.setdefault(part.source.topic, _Stream(name, part.source.topic, part.source.type))
    for camera in cameras:
        streams.setdefault(camera.topic, _Stream(f"camera_{camera.key}", camera.topic, camera.type))
    return list(streams.values())


def _stream_entries(bag: Bag, topic: str) -> str:
    found = bag.topics[topic]
    latched = ", latched: true" if found.is_latched else ""
    return f"topic: {_quoted(topic)}, type: {_quoted(found.type)}{latched}"


def _bindings(part: Part, stream: str, align: str) -> list[str]:
    lines = []
    for key, places in part.groups().items():
        at = [part.places[place] for place in places]
        entries, check = f"stream: {stream}{align}{part.source.entries}", ""
        if part.source.is_named:
            names = [part.source.names[place] for place in at]
            if names != [part.channels[place] for place in places]:
                entries += f", select: [{', '.join(map(_quoted, names))}]"
        else:
            entries += f", start: {at[0]}" if at[0] else ""
            if at != list(range(at[0], at[0] + len(at))):
                check = "  # CHECK: these channels do not follow each other"
        lines.append(f"  {key}: {{{entries}}}{check}")
    return lines


def _commands(state: Sequence[Part], action: Sequence[Part], is_wanted: bool) -> list[str]:
    """Return the topics for a policy's actions: those of the bag's commands, except a leader moved by a person."""
    by_topic: dict[str, list[Part]] = {}
    for part in action:
        by_topic.setdefault(part.source.topic, []).append(part)
    measured = {part.source.topic for part in state}
    lines, remarks = [], []
    for topic, parts in by_topic.items():
        source = parts[0].source
        if topic in measured:
            continue
        sent = [(part, place) for part in parts for group in part.groups().values() for place in group]
        places = [part.places[place] for part, place in sent]
        is_whole = source.is_named or places == list(range(source.width))
        if not (is_wanted and is_commandable(parts[0]) and is_whole):
            why = "a person moved it" if LEADER_WORDS.search(topic.lower()) else "it cannot be sent as recorded"
            remarks.append(f"#   not to {printable(topic)} ({printable(source.type)}): {why}")
            continue
        keys = [key for part in parts for key in part.groups()]
        names = [source.names[place] for place in places] if source.is_named else []
        is_renamed = names and names != [part.channels[place] for part, place in sent]
        renamed = f", names: [{', '.join(map(_quoted, names))}]" if is_renamed else ""
        lines.append(
            f"  - {{topic: {_quoted(topic)}, type: {_quoted(source.type)}, keys: [{', '.join(keys)}]{renamed}}}"
        )
    if lines:
        return ["commands:  # CHECK: a policy sends to these topics", *lines, *remarks]
    return ["# commands: CHECK: name the topic that a policy sends to", *remarks]


def _limits_text(bag: Bag, action: Sequence[Part]) -> str:
    ranges = observed_ranges(bag, action)
    lines = [
        f"# First limits, from what was commanded in {printable(bag.path.name)}. These are NOT the robot's limits:",
        "# a policy stays within the ranges of this bag. CHECK every line before you move the robot.",
        "acceleration_per_velocity: 5.0  # CHECK",
        "joints:",
    ]
    for part in action:
        for name in part.channels:
            if name not in ranges:
                lines.append(f"  # {printable(name)}: no value in the bag; CHECK")
                continue
            low, high, speed = ranges[name]
            margin = max(MIN_MARGIN, RANGE_MARGIN * (high - low))
            speed = max(MIN_SPEED, SPEED_MARGIN * speed)
            limits = f"min: {low - margin:.3f}, max: {high + margin:.3f}, max_velocity: {speed:.3f}"
            lines.append(f"  {_quoted(name)}: {{{limits}}}  # CHECK")
    return "\n".join(lines) + "\n"


def _texts(bag: Bag) -> dict[str, str]:
    """Return the topics with messages that look like task texts or episode markers.

    Markers of this suite's recorder are left out: the conversion finds them itself.
    """
    found: dict[str, str] = {}
    for topic in bag.topics.values():
        message = first_message(bag, topic.name) if topic.type == STRING else None
        if message is None or is_own_events(bag, topic.name):
            continue
        try:
            parse_event(message.data)
            found.setdefault("events", topic.name)
        except ObservationError:
            if TASK_WORDS.search(topic.name.lower()):
                found.setdefault("task", topic.name)
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
            entries[topic] = (receive, "  # CHECK: the stamps in its messages do not change")
        else:
            entries[topic] = ("", "")
            delays_s[topic] = float(np.median(delays))
    least_s = min((abs(delay) for delay in delays_s.values()), default=0.0)
    for topic, delay_s in delays_s.items():
        if abs(delay_s) > least_s + OTHER_CLOCK_S:
            entries[topic] = (receive, "  # CHECK: the stamps in its messages are from another clock")
    return entries


def _quoted(name: str) -> str:
    return name if PLAIN.fullmatch(name) and name.lower() not in RESERVED else json.dumps(name)
