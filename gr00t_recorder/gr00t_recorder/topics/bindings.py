# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The topic map: where each key of an embodiment comes from on one robot, and where commands go.

One YAML file serves the recorder, the bag converter and the policy node, so that a policy sees what was recorded.
It may only name keys that the embodiment declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gr00t_training.embodiment import Embodiment, VectorKey, load_embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.settings import load_settings, setting


class Stamp(str, Enum):
    """Which time a sample has."""

    HEADER = "header"  # header.stamp; a zero stamp falls back to the receive time and is counted
    RECEIVE = "receive"  # arrival at the node, or the log time of a bag


class Align(str, Enum):
    """Which sample belongs to a tick."""

    HOLD = "hold"  # the newest stamped at or before the tick
    NEAREST = "nearest"  # the closest stamp on either side; the earlier one when equally close
    LINEAR = "linear"  # interpolated between the two neighbours; the newest one when there is none after the tick
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


@dataclass(frozen=True)
class VectorBinding:
    """Where a state or action key comes from."""

    stream: str = setting(description="Name of an entry under streams.")
    field: str = setting("", "Field path of the values; empty: position(s) or data, by message type.")
    names_field: str = setting("", "Field path of the channel names; empty: name or joint_names, by message type.")
    select: tuple[str, ...] = setting((), "Channel names in the message, in key order; empty: the embodiment's names.")
    start: int = setting(0, "Index of the key's first channel in messages without names.", ge=0, le=100000)
    scale: float = setting(1.0, "Factor from message unit to embodiment unit.")
    offset: float = setting(0.0, "Added after scaling, embodiment unit.")
    align: Align = setting(Align.LINEAR, "Which sample belongs to a tick.")
    tolerance_s: float | None = setting(None, "Age from which a sample counts as filled [s]; absent: 0.75 ticks.", ge=0)
    required: bool = setting(True, "Whether an episode or observation without this key is refused.")


@dataclass(frozen=True)
class VideoBinding:
    """Where a camera comes from."""

    stream: str = setting(description="Name of an entry under streams.")
    align: Align = setting(Align.NEAREST, "Which image belongs to a tick; linear is not for images.")
    tolerance_s: float | None = setting(None, "Age from which an image counts as filled [s]; absent: 0.75 ticks.", ge=0)
    resize: bool = setting(False, "Resize (area) to the embodiment's size; otherwise another size is refused.")
    required: bool = setting(True, "Whether an episode or observation without this camera is refused.")

    def __post_init__(self) -> None:
        if self.align is Align.LINEAR:
            raise ValueError("align 'linear' would mix two images; use nearest, hold or causal")


@dataclass(frozen=True)
class TextBinding:
    """Where a text comes from."""

    stream: str = setting(description="Name of an entry under streams, of type std_msgs/msg/String.")


@dataclass(frozen=True)
class CommandConfig:
    """Where the policy's actions go."""

    topic: str = setting(description="Topic name; relative names follow the node's namespace.")
    type: str = setting(description="trajectory_msgs/msg/JointTrajectory or std_msgs/msg/Float64MultiArray.")
    keys: tuple[str, ...] = setting((), "Action keys in order; empty: all that the model produces.")
    names: tuple[str, ...] = setting((), "Joint names in the message; empty: the embodiment's names.")

    def __post_init__(self) -> None:
        if self.type not in COMMAND_TYPES:
            raise ValueError(f"type '{self.type}' cannot be commanded; expected one of {', '.join(COMMAND_TYPES)}")


COMMAND_TYPES = ("trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray")


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
    anchor: str = setting("", "Camera whose first image starts the ticks of an episode; empty: the first under video.")
    task: TextBinding | None = setting(None, "Topic with the task text.")
    events: TextBinding | None = setting(
        None, 'Topic with episode markers, JSON {"event": "start"|"stop"|"discard", "task": text}.'
    )
    commands: tuple[CommandConfig, ...] = setting((), "Where the policy's actions go.")

    def __post_init__(self) -> None:
        bindings = [*self.state.values(), *self.video.values(), *self.action.values()]
        for binding in [*bindings, *(text for text in (self.task, self.events) if text)]:
            if binding.stream not in self.streams:
                raise ValueError(f"stream '{binding.stream}' is not declared under streams ({', '.join(self.streams)})")
        if self.anchor and self.anchor not in self.video:
            raise ValueError(f"anchor '{self.anchor}' is not a camera under video ({', '.join(self.video)})")

    @property
    def anchor_key(self) -> str:
        """Camera whose first image starts the ticks."""
        return self.anchor or next(iter(self.video))


def load_topic_map(path: str | Path) -> tuple[TopicMap, Embodiment]:
    """Read a topic map and the embodiment it names, and hold one against the other.

    Raises:
        ConfigError: names the file (and line, where the fault has one), what was found and what was expected.
    """
    path = Path(path)
    topic_map = load_settings(TopicMap, path)
    beside = path.parent / topic_map.embodiment
    embodiment = load_embodiment(beside if beside.is_file() else topic_map.embodiment)
    check_keys(topic_map, embodiment, str(path))
    return topic_map, embodiment


def check_keys(topic_map: TopicMap, embodiment: Embodiment, source: str) -> None:
    """Refuse keys that the embodiment does not declare, missing keys, and selections of another width.

    Raises:
        ConfigError: names the item and both sides.
    """
    for kind in ("state", "action", "video"):
        bound, declared = getattr(topic_map, kind), getattr(embodiment, kind)
        if kind == "action" and not bound:
            continue
        for key in bound:
            if key not in declared:
                raise ConfigError(
                    f"{source}: {kind}.{key}: embodiment '{embodiment.name}' has no such key ({', '.join(declared)})"
                )
        missing = [key for key in declared if key not in bound]
        if missing:
            raise ConfigError(f"{source}: {kind}: no entry for key '{missing[0]}' of embodiment '{embodiment.name}'")
    for kind in ("state", "action"):
        for key, binding in getattr(topic_map, kind).items():
            _check_width(binding, getattr(embodiment, kind)[key], f"{source}: {kind}.{key}")
    for command in topic_map.commands:
        unknown = [key for key in command.keys if key not in embodiment.action_keys]
        if unknown:
            raise ConfigError(
                f"{source}: commands: the model of '{embodiment.name}' does not produce action key '{unknown[0]}' "
                f"({', '.join(embodiment.action_keys)})"
            )


def _check_width(binding: VectorBinding, key: VectorKey, subject: str) -> None:
    if binding.select and len(binding.select) != key.dim:
        raise ConfigError(
            f"{subject}: select names {len(binding.select)} channels, the embodiment has {key.dim} "
            f"({', '.join(key.names)})"
        )
