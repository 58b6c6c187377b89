# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Guess the joints of a robot and their command topics from the topics of a bag.

Arms with separate topics (left and right, leader and follower) are distinguished by words in the topic names.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.topics.codecs import IMAGE_TYPES, stamp_of, vector_type
from gr00t_recorder.topics.commands import COMMAND_TYPES
from gr00t_training.errors import DatasetError
from gr00t_training.io.text import printable

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAYS = ("std_msgs/msg/Float64MultiArray", "std_msgs/msg/Float32MultiArray")
STRING = "std_msgs/msg/String"
COMMAND_WORDS = re.compile(r"command|cmd|leader|master|teleop|target|desired|goal|reference|action|trajectory")
LEADER_WORDS = re.compile(r"leader|master|teleop")  # moved by a person: a policy does not publish there
GRIPPER_WORDS = re.compile(r"gripper|finger|jaw")
COMMON_TOKENS = frozenset(
    ["joint", "joints", "state", "states", "robot", "follower", "arm", "feedback", "actual", "js"]
)
MAX_INSPECTED = 200  # messages; by then all publishers of partial joint states have sent
MAX_RANGED = 200_000  # messages of a topic used to measure its range
SPEED_SHARE = 0.99  # quantile of the speeds: stamps jitter
MAX_NAME = 200  # characters of a channel's name, as an embodiment allows
MAX_NAMES = 500  # channels of a robot


@dataclass(frozen=True)
class Vectors:
    """A topic that carries a vector."""

    topic: str
    type: str
    names: tuple[str, ...]  # in the messages; empty: an array without names
    width: int
    num_messages: int
    entries: str = ""  # of its bindings, where the type has no default
    is_named: bool = True

    @property
    def is_command(self) -> bool:
        """Whether its name or type is that of a command."""
        return bool(COMMAND_WORDS.search(self.topic.lower())) or self.type == TRAJECTORY or self.type in ARRAYS


@dataclass(frozen=True)
class Part:
    """Channels of the state or the action from one topic."""

    label: str  # of the arm; empty if there is only one
    source: Vectors
    channels: tuple[str, ...]  # names in the embodiment
    places: tuple[int, ...]  # of the channels in the messages
    remark: str = ""
    keys: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)  # where they are known; else by name

    def groups(self) -> dict[str, list[int]]:
        """Return places among `channels` by key: the known ones, else arm and gripper."""
        if self.keys:
            return {key: list(places) for key, places in self.keys.items()}
        is_gripper = [bool(GRIPPER_WORDS.search(name.lower())) for name in self.channels]
        found = {"arm": [i for i, each in enumerate(is_gripper) if not each]}
        found["gripper"] = [i for i, each in enumerate(is_gripper) if each]
        return {self._key(kind): places for kind, places in found.items() if places}

    def _key(self, kind: str) -> str:
        if not self.label or self.label.endswith(kind):
            return self.label or kind
        return f"{self.label}_{kind}"


def choose_parts(bag: Bag) -> tuple[list[Part], list[Part]]:
    """Return the likely state and the likely action, arm by arm.

    Raises:
        DatasetError: the bag has no joint states.
    """
    found = [entry for entry in (_vectors(bag, name) for name in sorted(bag.topics)) if entry is not None]
    states = _state_topics(found)
    if not states:
        raise DatasetError(f"{bag.path}: no joint names on any {JOINT_STATE} topic; the bag has {topic_list(bag)}")
    labels = _labels([entry.topic for entry in states])
    state_parts = _state_parts(states, labels)
    commands = [entry for entry in found if entry not in states]
    return state_parts, _action_parts(state_parts, commands)


def observed_ranges(bag: Bag, parts: Sequence[Part]) -> dict[str, tuple[float, float, float]]:
    """Return least, greatest and fastest [1/s] of each channel in the bag; channels without values are left out."""
    ranges: dict[str, tuple[float, float, float]] = {}
    for part in parts:
        times, rows = [], []
        for message in itertools.islice(bag.messages([part.source.topic]), MAX_RANGED):
            try:
                found = bag.deserialize(message)
            except DatasetError:
                continue
            row = _row(part, found)
            if row is not None:
                times.append((stamp_of(found) or message.log_ns) / 1e9)
                rows.append(row)
        if not rows:
            continue
        values, seconds = np.array(rows), np.array(times)
        known = np.isfinite(values).all(axis=1)
        values, seconds = values[known], seconds[known]
        if not len(values):
            continue
        steps_s = np.maximum(np.diff(seconds), 1e-3)[:, None]
        speeds = np.abs(np.diff(values, axis=0)) / steps_s if len(values) > 1 else np.zeros((1, values.shape[1]))
        fastest = np.quantile(speeds, SPEED_SHARE, axis=0)
        for i, name in enumerate(part.channels):
            ranges[name] = float(values[:, i].min()), float(values[:, i].max()), float(fastest[i])
    return ranges


def is_commandable(part: Part) -> bool:
    """Whether a policy can publish to the topic of a part."""
    return part.source.type in COMMAND_TYPES and not LEADER_WORDS.search(part.source.topic.lower())


def first_message(bag: Bag, topic: str) -> Any:
    """Return the first message of a topic, None if there is none or it cannot be read."""
    try:
        return next((bag.deserialize(message) for message in bag.messages([topic])), None)
    except DatasetError:
        return None


def topic_list(bag: Bag) -> str:
    """Return the topics with their types as text."""
    return (
        ", ".join(f"{printable(topic.name)} ({printable(topic.type)})" for topic in bag.topics.values()) or "no topics"
    )


def _vectors(bag: Bag, name: str) -> Vectors | None:
    topic = bag.topics[name]
    if topic.type in IMAGE_TYPES or topic.type == STRING:
        return None
    message = first_message(bag, name)
    if message is None:
        return None
    count = int(bag.times([name])[name].size)
    if topic.type == JOINT_STATE:
        names = _joint_names(bag, name)
        if names:
            return Vectors(name, topic.type, names, len(names), count)
        width = len(message.position)
        unnamed = tuple(f"joint_{number + 1}" for number in range(width))
        return Vectors(name, topic.type, unnamed, width, count, ", by_index: true", is_named=False) if width else None
    if topic.type == TRAJECTORY:
        names = tuple(message.joint_names)
        return Vectors(name, topic.type, names, len(names), count) if names else None
    if topic.type in ARRAYS:
        return Vectors(name, topic.type, (), len(message.data), count, is_named=False)
    if vector_type(topic.type).has_default or not dataclasses.is_dataclass(message):
        return None
    names, entries = _named_values(message)
    if names:
        return Vectors(name, topic.type, names, len(names), count, entries)
    field, width = _unnamed_values(message)
    return Vectors(name, topic.type, (), width, count, f", field: {field}", is_named=False) if field else None


def _joint_names(bag: Bag, topic: str) -> tuple[str, ...]:
    """Return the joints of a topic in order of appearance; several publishers may share it."""
    names: dict[str, None] = {}
    for message in itertools.islice(bag.messages([topic]), MAX_INSPECTED):
        try:
            names.update(dict.fromkeys(bag.deserialize(message).name))
        except DatasetError:
            continue
    return tuple(names)[:MAX_NAMES]


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}


def _named_values(message: Any) -> tuple[tuple[str, ...], str]:
    """Return channel names in a message of a custom type, and the entries of a binding that reads them."""
    values = _fields(message)
    for names_field, names in values.items():
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            continue
        fitting = [field for field, array in values.items() if _is_numbers(array) and len(array) == len(names)]
        if fitting and len(set(names)) == len(names) <= MAX_NAMES:
            return tuple(names), f", field: {min(fitting, key=_likeliness)}, names_field: {names_field}"
    return (), ""


def _unnamed_values(message: Any) -> tuple[str, int]:
    """Return the most likely array of numbers in a message without names, and its width."""
    arrays = {field: len(array) for field, array in _fields(message).items() if _is_numbers(array) and len(array)}
    fitting = {field: width for field, width in arrays.items() if width <= MAX_NAMES}
    field = min(fitting, key=_likeliness, default="")
    return field, fitting.get(field, 0)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 1


def _likeliness(field: str) -> int:
    return 0 if "pos" in field else 1 if field in ("q", "joints", "data", "values", "command") else 2


def _state_topics(found: Sequence[Vectors]) -> list[Vectors]:
    """Return the topics of measured positions: joint states, else custom types with names."""
    for kinds in (lambda entry: entry.type == JOINT_STATE, lambda entry: entry.is_named and entry.type != TRAJECTORY):
        named = [entry for entry in found if kinds(entry) and entry.names]
        states = [entry for entry in named if not entry.is_command]
        if not states and named:
            return [max(named, key=lambda entry: len(entry.names))]
        if states:
            return [entry for entry in states if not any(_repeats(entry, other) for other in states)]
    return []


def _repeats(entry: Vectors, other: Vectors) -> bool:
    """Whether another topic has the same joints of the same arm, and is preferred."""
    if entry is other or not set(entry.names) <= set(other.names):
        return False
    if set(entry.names) == set(other.names):
        if _sides(entry.topic) != _sides(other.topic):
            return False
        return (entry.num_messages, other.topic) < (other.num_messages, entry.topic)
    return True


def _sides(topic: str) -> frozenset[str]:
    tokens = _tokens(topic) - COMMON_TOKENS
    return frozenset(tokens)


def _tokens(topic: str) -> set[str]:
    return {token for token in re.split(r"[^a-z0-9]+", topic.lower()) if token}


def _labels(topics: Sequence[str]) -> list[str]:
    """Return a short name for each topic: the words that differ."""
    if len(topics) == 1:
        return [""]
    ordered = [[token for token in re.split(r"[^a-z0-9]+", topic.lower()) if token] for topic in topics]
    common = set.intersection(*(set(tokens) for tokens in ordered)) | COMMON_TOKENS
    labels: list[str] = []
    for number, tokens in enumerate(ordered):
        label = "_".join(token for token in dict.fromkeys(tokens) if token not in common).lstrip("0123456789_")
        labels.append(label if label and label not in labels else f"group_{number + 1}")
    return labels


def _state_parts(states: Sequence[Vectors], labels: Sequence[str]) -> list[Part]:
    counts: dict[str, int] = {}
    for entry in states:
        for name in entry.names:
            counts[name] = counts.get(name, 0) + 1
    is_shared = any(count > 1 for count in counts.values())
    return [
        Part(
            label,
            entry,
            tuple(_channel(f"{label}_{name}" if is_shared else name, i) for i, name in enumerate(entry.names)),
            tuple(range(len(entry.names))),
        )
        for entry, label in zip(states, labels, strict=True)
    ]


def _channel(name: str, number: int) -> str:
    """Return the name of a channel in an embodiment, which takes printable ones only."""
    return name if name.strip() and name.isprintable() and len(name) <= MAX_NAME else f"channel_{number + 1}"


def _action_parts(states: Sequence[Part], commands: Sequence[Vectors]) -> list[Part]:
    whole = _whole_array(states, commands)
    taken: list[Part] = []
    for number, state in enumerate(states):
        fitting = [part for part in (_action_part(state, entry, states) for entry in commands) if part is not None]
        best = max(fitting, key=lambda part: _fit(state, part), default=None)
        if best is None and whole is not None:
            start = sum(len(each.channels) for each in states[:number])
            places = tuple(range(start, start + len(state.channels)))
            best = Part(state.label, whole, state.channels, places, "CHECK: are the channels in this order?")
        if best is None:
            remark = "CHECK: no topic looks like a command, so the state is used as the action; name the real topic"
            best = dataclasses.replace(state, remark=remark)
        else:
            others = [part.source.topic for part in fitting if part.source is not best.source]
            remark = best.remark or "CHECK: is this the command that the robot followed?"
            remark += f" Others: {', '.join(map(printable, others))}" if others else ""
            best = dataclasses.replace(best, remark=remark)
        taken.append(best)
    return taken


def _whole_array(states: Sequence[Part], commands: Sequence[Vectors]) -> Vectors | None:
    """Return an array that commands all arms at once."""
    width = sum(len(state.channels) for state in states)
    fitting = [entry for entry in commands if not entry.is_named and entry.width == width]
    return max(fitting, key=lambda entry: entry.num_messages, default=None) if len(states) > 1 else None


def _action_part(state: Part, entry: Vectors, states: Sequence[Part]) -> Part | None:
    """Return the channels of a topic that may command an arm, else None."""
    is_side = len(states) == 1 or set(state.label.split("_")) <= _tokens(entry.topic)
    if not entry.is_named:
        if entry.width != len(state.channels) or not is_side or entry.type == JOINT_STATE:
            return None
        return Part(state.label, entry, state.channels, tuple(range(entry.width)))
    own = dict(zip(state.source.names, state.channels, strict=True))
    shared = [name for name in state.source.names if name in entry.names]
    is_unique = not any(set(shared) & set(other.source.names) for other in states if other is not state)
    if shared and (is_side or is_unique) and (entry.is_command or len(shared) == len(entry.names)):
        # the rest of its channels belongs to other arms, or to none
        is_other = len(states) == 1 and len(shared) < len(entry.names)
        names = entry.names if is_other else tuple(shared)
        channels = tuple(own.get(name) or _channel(name, i) for i, name in enumerate(names))
        return Part(state.label, entry, channels, tuple(entry.names.index(name) for name in names))
    if entry.type == JOINT_STATE and entry.is_command and is_side:  # a leader arm with other names
        if entry.width == len(state.channels):  # a policy's actions need the names of the state
            remark = "CHECK: the names differ, so joints are taken in this order"
            return Part(state.label, entry, state.channels, tuple(range(entry.width)), remark)
        prefix = f"{state.label}_" if len(states) > 1 else ""
        channels = tuple(_channel(prefix + name, i) for i, name in enumerate(entry.names))
        return Part(state.label, entry, channels, tuple(range(entry.width)))
    return None


def _fit(state: Part, part: Part) -> tuple[int, int, int, int]:
    is_side = set(state.label.split("_")) <= _tokens(part.source.topic)
    shared = len(set(part.channels) & set(state.channels)) if part.source.is_named else 0
    return int(is_side), shared, int(part.source.is_named), part.source.num_messages


def _row(part: Part, message: Any) -> list[float] | None:
    """Return the values of a part's channels in a message, None if one is missing."""
    fields = _binding_fields(part.source)
    try:
        values = message.points[0].positions if part.source.type == TRAJECTORY else getattr(message, fields["field"])
        if not part.source.is_named:
            return [float(values[place]) for place in part.places]
        names = list(getattr(message, fields["names_field"]))
        return [float(values[names.index(part.source.names[place])]) for place in part.places]
    except (AttributeError, IndexError, ValueError, TypeError, OverflowError):
        return None


def _binding_fields(source: Vectors) -> Mapping[str, str]:
    known = vector_type(source.type)
    given = dict(re.findall(r"(\w+): (\w+)", source.entries))
    return {"field": given.get("field", known.field), "names_field": given.get("names_field", known.names_field)}
