# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a first topic map and embodiment for a robot from the topics of one of its bags.

What a message says is taken (joint names, image sizes, types); what only the lab can know is guessed and marked with
CHECK in the files. They load as they are, so a dry run shows what is missing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.episodes import parse_event
from gr00t_recorder.topics.codecs import decode_compressed
from gr00t_training.errors import ConfigError, DatasetError, ObservationError

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAYS = ("std_msgs/msg/Float64MultiArray", "std_msgs/msg/Float32MultiArray")
IMAGES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")  # the smaller one is preferred
STRING = "std_msgs/msg/String"
COMMAND_WORDS = re.compile(r"command|cmd|leader|target|desired|goal|reference|action|trajectory")
TASK_WORDS = re.compile(r"task|instruction|language|prompt")
GRIPPER_WORDS = re.compile(r"gripper|finger|jaw")
DEPTH_WORDS = re.compile(r"depth|disparity|16uc1|32fc1|mono16")
DULL_WORDS = {"camera", "image", "image_raw", "image_rect", "compressed", "color", "rgb", "raw", "sensors", "robot"}
MAX_LOOKED_AT = 200  # messages; publishers of partial joint states have all come by then
DEFAULT_FPS = 30
USUAL_RATES_HZ = (5, 10, 15, 20, 25, 30, 50, 60, 90)


@dataclass(frozen=True)
class _Vectors:
    """A topic that carries a vector."""

    stream: str
    topic: str
    type: str
    names: tuple[str, ...]
    num_messages: int
    entries: str = ""  # of its bindings, where the type has no default


@dataclass(frozen=True)
class _Camera:
    key: str
    topic: str
    type: str
    height: int
    width: int
    rate_hz: int


def suggest_files(path: Path, folder: Path) -> list[Path]:
    """Write `embodiment.yaml` and `topics.yaml` for the bag at `path` to `folder`; return their paths.

    Raises:
        ConfigError: a file exists already.
        DatasetError: the bag cannot be read, or holds no joint states or no images.
    """
    files = [folder / "embodiment.yaml", folder / "topics.yaml"]
    for file in files:
        if file.exists():
            raise ConfigError(f"{file}: exists already; choose another folder, so that your own work is not lost")
    with Bag(path, allow_partial=True) as bag:
        state, action, note = _choose_vectors(bag)
        cameras = _cameras(bag)
        if not cameras:
            raise DatasetError(f"{path}: no colour images to suggest a camera from; the bag has {_topic_list(bag)}")
        texts = [_embodiment_text(bag, state, action, cameras), _topics_text(bag, state, action, note, cameras)]
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _choose_vectors(bag: Bag) -> tuple[_Vectors, _Vectors, str]:
    """Return what is likely the state, what is likely the action, and a remark about the choice."""
    joints = [topic for topic in bag.topics.values() if topic.type == JOINT_STATE]
    found = [
        _Vectors("", topic.name, topic.type, _joint_names(bag, topic.name), _count(bag, topic.name)) for topic in joints
    ]
    found = sorted((entry for entry in found if entry.names), key=lambda entry: (_is_command(entry), -len(entry.names)))
    if not found:
        raise DatasetError(f"{bag.path}: no joint names on any {JOINT_STATE} topic; the bag has {_topic_list(bag)}")
    state = dataclasses.replace(found[0], stream="joints")
    commands = [entry for entry in found[1:] if _is_command(entry)]
    commands += [entry for entry in (_command(bag, name, state) for name in bag.topics) if entry is not None]
    if not commands:
        note = "CHECK: no topic looks like a command, so the state itself stands for the action; name the real one"
        return state, state, note
    best = max(commands, key=lambda entry: (len(set(entry.names) & set(state.names)), entry.num_messages))
    others = [entry.topic for entry in commands if entry is not best]
    note = "CHECK: is this the command that the robot followed?" + (f" Others: {', '.join(others)}" if others else "")
    return state, dataclasses.replace(best, stream="command"), note


def _is_command(entry: _Vectors) -> bool:
    return bool(COMMAND_WORDS.search(entry.topic.lower()))


def _command(bag: Bag, name: str, state: _Vectors) -> _Vectors | None:
    """Return a topic that is no joint state, when its messages can drive the joints of the state."""
    topic = bag.topics[name]
    if topic.type == JOINT_STATE or topic.type in IMAGES:
        return None
    message = _first(bag, name)
    if message is None:
        return None
    if topic.type in ARRAYS:
        is_command = len(message.data) == len(state.names)
        return _Vectors("", name, topic.type, state.names, _count(bag, name)) if is_command else None
    names, field = (tuple(message.joint_names), "") if topic.type == TRAJECTORY else _named_values(message)
    if not names or not set(names) <= set(state.names):
        return None
    return _Vectors("", name, topic.type, names, _count(bag, name), field)


def _named_values(message: Any) -> tuple[tuple[str, ...], str]:
    """Return channel names in a message of a type of the lab's own, and the entries of a binding that reads them."""
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    for names_field, names in values.items():
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            continue
        fitting = [
            field
            for field, array in values.items()
            if isinstance(array, np.ndarray) and array.dtype.kind == "f" and len(array) == len(names)
        ]
        if fitting:
            return tuple(names), f", field: {min(fitting, key=_likeliness)}, names_field: {names_field}"
    return (), ""


def _likeliness(field: str) -> int:
    return 0 if "pos" in field else 1


def _joint_names(bag: Bag, topic: str) -> tuple[str, ...]:
    """Return the joints of a topic that several publishers may share, in the order in which they come."""
    names: dict[str, None] = {}
    for number, message in enumerate(bag.messages([topic])):
        if number == MAX_LOOKED_AT:
            break
        names.update(dict.fromkeys(bag.deserialize(message).name))
    return tuple(names)


def _cameras(bag: Bag) -> list[_Camera]:
    """Return one entry per camera; where a camera has a compressed and a raw topic, the compressed one."""
    found: dict[str, _Camera] = {}
    for kind in IMAGES:
        for topic in sorted(bag.topics.values(), key=lambda entry: entry.name):
            message = _first(bag, topic.name) if topic.type == kind else None
            size = None if message is None else _image_size(topic.name, message)
            if size is None:
                continue
            base = topic.name.removesuffix("/compressed")
            if any(entry.topic.removesuffix("/compressed") == base for entry in found.values()):
                continue
            key = _camera_key(topic.name, found)
            times = bag.times([topic.name])[topic.name]
            found[key] = _Camera(key, topic.name, kind, *size, _rate_hz(times))
    return list(found.values())


def _rate_hz(times: np.ndarray) -> int:
    """Return the rate that a camera is likely set to, 0 when there are too few images to tell."""
    if times.size < 3:
        return 0
    rate_hz = 1e9 / max(float(np.median(np.diff(times))), 1.0)
    usual = min(USUAL_RATES_HZ, key=lambda other: abs(other - rate_hz))
    return usual if abs(usual - rate_hz) < 0.1 * usual else round(rate_hz)


def _image_size(topic: str, message: Any) -> tuple[int, int] | None:
    """Return height and width of a colour image, None for others."""
    form = (getattr(message, "encoding", "") or getattr(message, "format", "")).lower()
    if DEPTH_WORDS.search(f"{topic.lower()} {form}"):
        return None
    if hasattr(message, "height"):
        return int(message.height), int(message.width)
    try:
        height, width, _ = decode_compressed(message).shape
    except ObservationError:
        return None
    return height, width


def _camera_key(topic: str, taken: dict[str, _Camera]) -> str:
    parts = [part for part in topic.lower().split("/") if part and part not in DULL_WORDS]
    key = re.sub(r"\W+", "_", parts[-1] if parts else "camera").strip("_") or "camera"
    number = 2
    while key in taken:
        key, number = f"{key.rstrip('0123456789_')}_{number}", number + 1
    return key


def _embodiment_text(bag: Bag, state: _Vectors, action: _Vectors, cameras: Sequence[_Camera]) -> str:
    rates = [camera.rate_hz for camera in cameras if camera.rate_hz]
    lines = [
        f"# First embodiment, from {bag.path.name}. CHECK every line marked so before you record with it.",
        f"name: {re.sub(r'[^a-z0-9]+', '_', bag.path.resolve().stem.lower()).strip('_') or 'robot'}  # CHECK",
        "tag: new_embodiment",
        f"fps: {min(rates, default=DEFAULT_FPS)}  # CHECK: rate of the rows [Hz]; this is the slowest camera's",
    ]
    for kind, names in (("state", state.names), ("action", _action_names(state, action))):
        lines.append(f"{kind}:")
        for key, group in _groups(names).items():
            unit = "  # CHECK: unit, m where fingers slide" if key == "gripper" else ""
            lines.append(f"  {key}: {{names: [{', '.join(_quoted(name) for name in group)}]}}{unit}")
    lines.append("video:")
    for camera in cameras:
        height, width = camera.height - camera.height % 2, camera.width - camera.width % 2
        lines.append(f"  {camera.key}: {{height: {height}, width: {width}}}")
    return "\n".join(lines) + "\n"


def _topics_text(bag: Bag, state: _Vectors, action: _Vectors, note: str, cameras: Sequence[_Camera]) -> str:
    lines = [
        f"# First topic map, from {bag.path.name}. CHECK every line marked so, then look at a dry run:",
        "#   gr00t_convert_bag BAG --topics topics.yaml --dry-run",
        "embodiment: embodiment.yaml",
        "streams:",
        f"  {state.stream}: {{topic: {state.topic}, type: {state.type}}}",
    ]
    if action is not state:
        lines.append(f"  {action.stream}: {{topic: {action.topic}, type: {action.type}{_stamp(bag, action.topic)}}}")
    lines += [f"  camera_{camera.key}: {{topic: {camera.topic}, type: {camera.type}}}" for camera in cameras]
    texts = _texts(bag)
    lines += [f"  {use}: {{topic: {topic}, type: {STRING}, stamp: receive}}" for use, topic in texts.items()]
    lines.append("state:")
    lines += [f"  {key}: {{stream: {state.stream}}}" for key in _groups(state.names)]
    lines.append(f"action:  # {note}")
    names = _action_names(state, action)
    for key, group in _groups(names).items():
        places = [names.index(name) for name in group]
        start = f", start: {places[0]}" if action.type in ARRAYS and places[0] else ""
        check = "  # CHECK: these channels do not follow each other" if start and np.ptp(places) >= len(places) else ""
        lines.append(f"  {key}: {{stream: {action.stream}, align: nearest{start}{action.entries}}}{check}")
    lines.append("video:")
    for camera in cameras:
        resize = ", resize: true" if camera.height % 2 or camera.width % 2 else ""
        lines.append(f"  {camera.key}: {{stream: camera_{camera.key}{resize}}}")
    lines += [f"{use}: {{stream: {use}}}" for use in texts]
    used = {state.topic, action.topic, *(camera.topic for camera in cameras), *texts.values()}
    unused = [topic for topic in bag.topics.values() if topic.name not in used]
    if unused:
        lines.append("# Topics of the bag that are not used:")
        lines += [f"#   {topic.name} ({topic.type})" for topic in sorted(unused, key=lambda topic: topic.name)]
    return "\n".join(lines) + "\n"


def _action_names(state: _Vectors, action: _Vectors) -> tuple[str, ...]:
    """Return the action's channels in the state's order; trajectories and leaders may name fewer or others."""
    shared = tuple(name for name in state.names if name in action.names)
    return shared if len(shared) == len(action.names) else action.names


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Split joint names into arm and gripper."""
    gripper = [name for name in names if GRIPPER_WORDS.search(name.lower())]
    arm = [name for name in names if name not in gripper]
    return {key: group for key, group in (("arm", arm), ("gripper", gripper)) if group}


def _texts(bag: Bag) -> dict[str, str]:
    """Return the topics of task text and episode markers, where their messages look so."""
    found: dict[str, str] = {}
    for topic in bag.topics.values():
        message = _first(bag, topic.name) if topic.type == STRING else None
        if message is None:
            continue
        try:
            parse_event(message.data)
            found.setdefault("events", topic.name)
        except ObservationError:
            if TASK_WORDS.search(topic.name.lower()):
                found.setdefault("task", topic.name)
    return found


def _stamp(bag: Bag, topic: str) -> str:
    message = _first(bag, topic)
    return "" if hasattr(message, "header") else ", stamp: receive"


def _first(bag: Bag, topic: str) -> Any:
    """Return the first message of a topic, None when there is none or it cannot be read."""
    try:
        return next((bag.deserialize(message) for message in bag.messages([topic])), None)
    except DatasetError:
        return None


def _count(bag: Bag, topic: str) -> int:
    return int(bag.times([topic])[topic].size)


def _topic_list(bag: Bag) -> str:
    return ", ".join(f"{topic.name} ({topic.type})" for topic in bag.topics.values()) or "no topics"


def _quoted(name: str) -> str:
    return (
        name
        if re.fullmatch(r"[A-Za-z_][\w.-]*", name) and name.lower() not in ("on", "off", "yes", "no")
        else f'"{name}"'
    )
