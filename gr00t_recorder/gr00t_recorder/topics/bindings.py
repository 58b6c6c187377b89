# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The topic map: where each key of an embodiment comes from on one robot, and where commands go.

One YAML file serves the recorder, the bag converter and the policy node, so that a policy sees what was recorded.
It may only name keys that the embodiment declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gr00t_recorder.topics.commands import CommandConfig
from gr00t_training.embodiment import ROBOT_KINDS, Embodiment, Rotation, load_embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.settings import MisplacedError, load_settings, setting
from gr00t_training.types import SOURCE_REF, KeyKind, KeyRef


class Stamp(str, Enum):
    """Which time a sample has."""

    HEADER = "header"  # header.stamp; a zero stamp falls back to the receive time and is counted
    RECEIVE = "receive"  # arrival at the node, or the log time of a bag


class Align(str, Enum):
    """Which sample belongs to a tick.

    Linear follows the key: rotations turn along the shortest way (slerp), keys of interpolation `step` (grippers)
    keep the earlier value, `wrap` goes the short way round. It is never drawn across an unusable message (NaN) nor
    between samples more than twice `max_age_s` apart (a clock that jumped, a publisher that was restarted): there the
    earlier sample holds, as where nothing follows.
    """

    HOLD = "hold"  # the newest stamped at or before the tick
    NEAREST = "nearest"  # the closest stamp on either side; the earlier one when equally close
    LINEAR = "linear"  # interpolated between the two neighbors; the newest one when there is none after the tick
    CAUSAL = "causal"  # the newest that had arrived by the tick, whatever its stamp


class Reliability(str, Enum):
    """DDS reliability of a subscription."""

    BEST_EFFORT = "best_effort"
    RELIABLE = "reliable"


@dataclass(frozen=True)
class StreamConfig:
    """One subscribed topic."""

    topic: str = setting(description="Topic name; relative names follow the node's namespace.")
    type: str = setting(description="Message type, as in sensor_msgs/msg/JointState.")
    stamp: Stamp = setting(Stamp.HEADER, "Time of a sample: header or receive. Types without a header need receive.")
    reliability: Reliability = setting(Reliability.BEST_EFFORT, "QoS reliability; best_effort receives from both.")
    depth: int = setting(10, "QoS history depth [messages].", ge=1, le=1000)
    latched: bool = setting(False, "QoS transient-local durability: the last message is received on connection.")
    max_age_s: float = setting(0.5, "Age from which the stream counts as stale [s].", ge=0.001, le=3600.0)

    def __post_init__(self) -> None:
        if self.type.count("/") != 2:
            raise ValueError(f"type '{self.type}' is not of the form package/msg/Name")


# Age from which a sample counts as filled when the binding says nothing [ticks]. A source at the tick rate is up to
# half a tick away from its nearest tick, and up to a whole one old when it is held; the rest is room for jitter.
RECORDED_ONLY = (KeyKind.ACTION, KeyKind.DEPTH, KeyKind.COMMAND)  # kinds that an observation does without
DEFAULT_TOLERANCE_TICKS = {Align.HOLD: 1.25, Align.NEAREST: 0.75, Align.LINEAR: 0.75, Align.CAUSAL: 1.25}
_ALIGN_TEXT = (
    "Which sample belongs to a tick: the newest stamped at or before it (hold), the closest (nearest), a value "
    "interpolated between both neighbors (linear: rotations turn, grippers step, holes and gaps are not bridged), or "
    "the newest that had arrived (causal)."
)
_TOLERANCE_TEXT = (
    "Age from which a sample counts as filled [s]; for causal the time since its arrival; absent: 0.75 ticks for "
    "nearest and linear, 1.25 for hold and causal."
)


@dataclass(frozen=True)
class VectorBinding:
    """Where a state or action key comes from."""

    stream: str = setting(description="Name of an entry under streams.")
    field: str = setting(
        "",
        "Field path of the values, indices included (points.-1.positions, pose.pose, axes.2); a point, quaternion, "
        "pose, twist or wrench stands for all its numbers; empty: by message type.",
    )
    fields: tuple[str, ...] = setting((), "Several field paths, joined in this order; instead of 'field'.")
    names_field: str = setting("", "Field path of the channel names; empty: name or joint_names, by message type.")
    select: tuple[str, ...] = setting((), "Channel names in the message, in key order; empty: the embodiment's names.")
    by_index: bool = setting(
        False,
        "Take the channels by their index, from 'start' on, although the type has names: for a JointState without "
        "names whose order is known.",
    )
    start: int = setting(0, "Index of the key's first channel in messages without names.", ge=0, le=100000)
    frames: tuple[str, ...] = setting(
        (), "Parent and child frame of a transform; every frame in between must come in the same message."
    )
    rotation: Rotation | None = setting(
        None, "Form of quaternions in the message for a key that declares no rotation; absent: w x y z."
    )
    unit: str = setting("", "Unit in the message, converted to the key's (deg to rad, mm to m); empty: the key's.")
    scale: float = setting(
        1.0, "Factor after 'unit', to the embodiment's unit; quaternions and matrices are left alone."
    )
    offset: float = setting(0.0, "Added after scaling, embodiment unit; quaternions and matrices are left alone.")
    wrap: bool = setting(False, "Whether the channels are angles of joints that turn without end: linear goes round.")
    align: Align = setting(Align.LINEAR, _ALIGN_TEXT)
    tolerance_s: float | None = setting(None, _TOLERANCE_TEXT, ge=0)
    required: bool = setting(True, "Whether an episode or observation without this key is refused.")

    def __post_init__(self) -> None:
        if self.fields and (self.field or self.names_field or self.select):
            raise ValueError("'fields' names every channel; leave out 'field', 'names_field' and 'select'")
        if self.by_index and (self.names_field or self.select or self.fields or self.frames):
            raise ValueError("'by_index' takes no names; leave out 'names_field', 'select', 'fields' and 'frames'")
        if len(self.frames) not in (0, 2):
            raise ValueError(f"frames has {len(self.frames)} names, expected parent and child, like [base_link, tool0]")


@dataclass(frozen=True)
class VideoBinding:
    """Where a camera comes from."""

    stream: str = setting(description="Name of an entry under streams.")
    align: Align = setting(Align.NEAREST, "Which image belongs to a tick; linear is not for images.")
    tolerance_s: float | None = setting(None, _TOLERANCE_TEXT, ge=0)
    resize: bool = setting(False, "Resize (area) to the embodiment's size; otherwise another size is refused.")
    levels: tuple[float, ...] = setting(
        (), "Values shown black and white, message unit, for images of measurements (16UC1, 32FC1), like [0, 4000]."
    )
    required: bool = setting(True, "Whether an episode or observation without this camera is refused.")

    def __post_init__(self) -> None:
        _refuse_linear(self.align)
        if self.levels and (len(self.levels) != 2 or self.levels[0] == self.levels[1]):
            raise ValueError(f"levels is {list(self.levels)}, expected two different values, like [0, 4000]")


@dataclass(frozen=True)
class DepthBinding:
    """Where a depth camera comes from."""

    stream: str = setting(description="Name of an entry under streams.")
    align: Align = setting(Align.NEAREST, "Which image belongs to a tick; linear is not for images.")
    tolerance_s: float | None = setting(None, _TOLERANCE_TEXT, ge=0)
    unit_m: float = setting(
        0.001, "Length of one count of 16-bit images [m] (REP 118: millimeters); 32FC1 is in meters.", ge=1e-6, le=1.0
    )
    resize: bool = setting(False, "Resize (nearest pixel) to the embodiment's size; otherwise another is refused.")
    required: bool = setting(True, "Whether an episode without this depth camera is refused.")

    def __post_init__(self) -> None:
        _refuse_linear(self.align)


def _refuse_linear(align: Align) -> None:
    if align is Align.LINEAR:
        raise ValueError("align 'linear' would mix two images; use nearest, hold or causal")


@dataclass(frozen=True)
class SourceBinding:
    """Where it comes from who commands: the newest message at or before a tick says it, unless it is too old."""

    stream: str = setting(
        description="Name of an entry under streams, of type gr00t_msgs/msg/CommandSource (~/command_source of "
        "policy_node)."
    )
    field: str = setting("source", "Field path of the number: 1 the policy, 2 a person, others see CommandSource.")
    required: bool = setting(
        True, "Whether an episode without it is refused, or ends; else such rows have 0: not known."
    )

    @property
    def vector(self) -> VectorBinding:
        """The same as the binding of a vector with one channel."""
        return VectorBinding(stream=self.stream, field=self.field, align=Align.HOLD, required=self.required)


@dataclass(frozen=True)
class TextBinding:
    """Where a text comes from."""

    stream: str = setting(description="Name of an entry under streams, of type std_msgs/msg/String.")


@dataclass(frozen=True)
class TopicMap:
    """Streams and the keys bound to them."""

    embodiment: str = setting(description="Name of a shipped embodiment, or path of its file (relative to this one).")
    streams: Mapping[str, StreamConfig] = setting(description="Subscribed topics by name.")
    state: Mapping[str, VectorBinding] = setting(description="State keys of the embodiment.")
    video: Mapping[str, VideoBinding] = setting(description="Cameras of the embodiment.")
    action: Mapping[str, VectorBinding] = setting(
        default_factory=dict, description="Action keys of the embodiment; needed to record."
    )
    depth: Mapping[str, DepthBinding] = setting(
        default_factory=dict, description="Depth cameras of the embodiment, where it has any; needed to record."
    )
    command_source: SourceBinding | None = setting(
        None, "Who commands, the policy or a person; absent: rows do not say it. Policies do not use it."
    )
    anchor: str = setting("", "Camera: its first image starts the ticks of an episode; empty: the first under video.")
    task: TextBinding | None = setting(None, "Topic with the task text.")
    events: TextBinding | None = setting(
        None, 'Topic with episode markers, JSON {"event": "start"|"stop"|"discard"|"take_back", "task": text}.'
    )
    commands: tuple[CommandConfig, ...] = setting((), "Where the policy's actions go.")
    max_skew_s: float = setting(
        0.5,
        "Most that the newest samples of two inputs of a policy may be apart in stamp [s]; 0: any. Recordings do not "
        "use it.",
        ge=0.0,
        le=3600.0,
    )
    max_ahead_s: float = setting(
        0.2,
        "Most that stamps of a policy's inputs may be ahead of the node's clock [s]; more than clocks differ and "
        "/clock of a simulator lags. Recordings do not use it.",
        ge=0.0,
        le=3600.0,
    )

    def __post_init__(self) -> None:
        bound = {(ref.kind.value, ref.key): binding for ref, binding in self.bindings.items() if ref != SOURCE_REF}
        others = {"command_source": self.command_source, "task": self.task, "events": self.events}
        named = {**bound, **{(name,): binding for name, binding in others.items() if binding is not None}}
        known = ", ".join(self.streams)
        faults = [
            ((*place, "stream"), f"stream '{binding.stream}' is not declared under streams ({known})")
            for place, binding in named.items()
            if binding.stream not in self.streams
        ]
        if self.anchor and self.anchor not in self.video:
            faults.append(
                (("anchor",), f"anchor '{self.anchor}' is not a camera under video ({', '.join(self.video)})")
            )
        if faults:
            raise MisplacedError(faults)

    @property
    def bindings(self) -> dict[KeyRef, VectorBinding | VideoBinding | DepthBinding]:
        """Every binding, by key."""
        found = {KeyRef(kind, key): binding for kind in ROBOT_KINDS for key, binding in self.bound(kind).items()}
        return found if self.command_source is None else {**found, SOURCE_REF: self.command_source.vector}

    def bound(self, kind: KeyKind) -> Mapping[str, VectorBinding | VideoBinding | DepthBinding]:
        """Return the bindings of a kind."""
        return {
            KeyKind.STATE: self.state,
            KeyKind.ACTION: self.action,
            KeyKind.VIDEO: self.video,
            KeyKind.DEPTH: self.depth,
        }[kind]

    @property
    def anchor_key(self) -> str:
        """Camera: its first image starts the ticks."""
        return self.anchor or next(iter(self.video))


def load_topic_map(path: str | Path) -> tuple[TopicMap, Embodiment]:
    """Read a topic map and the embodiment it names, and check one against the other.

    Raises:
        ConfigError: names the file (and line, where the fault has one), what was found and what was expected.
    """
    path = Path(path)
    topic_map = load_settings(TopicMap, path)
    local = path.parent / topic_map.embodiment
    embodiment = load_embodiment(local if local.is_file() else topic_map.embodiment)
    check_keys(topic_map, embodiment, str(path))
    return topic_map, embodiment


def check_keys(topic_map: TopicMap, embodiment: Embodiment, source: str) -> None:
    """Refuse the first of `key_problems`.

    Raises:
        ConfigError: names the item and both sides.
    """
    for _, text in key_problems(topic_map, embodiment):
        raise ConfigError(f"{source}: {text}")


def key_problems(topic_map: TopicMap, embodiment: Embodiment) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield keys that the embodiment does not declare, missing keys, selections of another width, wrong commands.

    Each comes with the keys that lead to it in the topic map.
    """
    for kind in ROBOT_KINDS:
        bound, declared = topic_map.bound(kind), embodiment.declared(kind)
        if kind in RECORDED_ONLY and not topic_map.action and not bound:
            continue  # a map for a policy only
        for key in bound:
            if key not in declared:
                known = ", ".join(declared) or "none"
                text = f"{KeyRef(kind, key)}: embodiment '{embodiment.name}' has no such key ({known})"
                yield (kind.value, key), text
        for key in declared:
            if key not in bound:
                yield (kind.value,), f"{kind}: no entry for key '{key}' of embodiment '{embodiment.name}'"
    for kind, bindings in ((KeyKind.STATE, topic_map.state), (KeyKind.ACTION, topic_map.action)):
        for key, binding in bindings.items():
            vector = embodiment.vectors(kind).get(key)
            if vector is not None and binding.select and len(binding.select) != vector.dim:
                text = (
                    f"{KeyRef(kind, key)}: select names {len(binding.select)} channels, the embodiment has {vector.dim}"
                )
                yield (kind.value, key, "select"), f"{text} ({', '.join(vector.names)})"
    yield from _command_problems(topic_map.commands, embodiment)


def _command_problems(
    commands: Sequence[CommandConfig], embodiment: Embodiment
) -> Iterator[tuple[tuple[str, ...], str]]:
    produced = {key: embodiment.action[key] for key in embodiment.action_keys}
    for i, command in enumerate(commands):
        place, subject = ("commands", str(i)), f"commands.{i} ({command.topic})"
        if command.topic in [other.topic for other in commands[:i]]:
            yield place, f"{subject}: duplicate name; put all keys of it into one command"
        try:
            command.check(produced)
        except ValueError as error:
            yield place, f"{subject}: embodiment '{embodiment.name}': {error}"
