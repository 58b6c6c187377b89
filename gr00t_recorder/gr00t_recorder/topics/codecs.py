# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Message types: where their vectors are, whether they have a header, and how to add one.

`VECTOR_TYPES` has the types of the common packages. Any other type is read by `field` or `fields` of the topic map. For
one that no field path describes, register a function that returns its values:

    register_codec("my_msgs/msg/Hand", lambda message: [finger.angle for finger in message.fingers])

A topic map then binds the type without `field`. Commands and nodes import the registering module when your package
names it as an entry point of the group `gr00t_recorder.codecs`.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gr00t_recorder.topics.bindings import Stamp, StreamConfig
from gr00t_training.errors import ConfigError

ENTRY_POINTS = "gr00t_recorder.codecs"
IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)
TRANSFORM_TYPES = ("tf2_msgs/msg/TFMessage", "geometry_msgs/msg/TransformStamped")


@dataclass(frozen=True)
class VectorType:
    """How vectors are read from messages of one type, where the topic map does not say it."""

    field: str = ""  # path of the values; empty: the topic map names it, or `values` reads them
    names_field: str = ""  # path of the channel names; empty: channels go by index
    remedy: str = ""  # what to set in the topic map, for a type without a default
    values: Callable[[Any], Any] | None = None  # message -> numbers
    names: Callable[[Any], Sequence[str]] | None = None  # message -> a name for each of the numbers
    has_header: bool = True

    @property
    def has_default(self) -> bool:
        """Whether a topic map may leave out `field`, or the channels have names."""
        return bool(self.field or self.names_field or self.values)


_NUMBERS = ("Float32", "Float64", *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)))
VECTOR_TYPES: Mapping[str, VectorType] = {
    "sensor_msgs/msg/JointState": VectorType("position", "name"),
    "trajectory_msgs/msg/JointTrajectory": VectorType("points.0.positions", "joint_names"),
    "control_msgs/msg/JointTrajectoryControllerState": VectorType(
        names_field="joint_names", remedy="set 'field' to feedback.positions (Humble: actual.positions)"
    ),
    "nav_msgs/msg/Odometry": VectorType("pose"),
    "std_msgs/msg/Bool": VectorType("data"),
    **{f"std_msgs/msg/{name}": VectorType("data") for name in _NUMBERS},
    **{f"std_msgs/msg/{name}MultiArray": VectorType("data") for name in _NUMBERS},
    "sensor_msgs/msg/Imu": VectorType(
        remedy="set 'field' to orientation, angular_velocity or linear_acceleration, or 'fields'"
    ),
    "sensor_msgs/msg/Joy": VectorType(remedy="set 'field' to axes or buttons, or 'fields', like [axes.1, buttons.0]"),
    "std_msgs/msg/String": VectorType(remedy="a text is not a vector; bind it as 'task' or 'events'"),
    "tf2_msgs/msg/TFMessage": VectorType(remedy="set 'frames' to parent and child, like [base_link, tool0]"),
}
_OTHER = VectorType(remedy="set 'field' (and 'names_field') in the topic map, or register a codec")
_registered: dict[str, VectorType] = {}


def register_codec(
    message_type: str,
    values: Callable[[Any], Any],
    *,
    names: Callable[[Any], Sequence[str]] | None = None,
    has_header: bool = True,
) -> None:
    """Register how to read a vector from messages of a type; a later call replaces an earlier one.

    Args:
        message_type: as in `my_msgs/msg/Hand`.
        values: message -> `(N,)` numbers in the unit of the message; live and from bags, messages have the same
            attributes. What it raises makes that message an unusable one.
        names: message -> a channel name for each value: `select` and messages with some of the channels work, as for a
            JointState. None: channels go by index (`start`).
        has_header: whether messages have `header.stamp`; otherwise the topic map needs `stamp: receive`.

    Raises:
        ConfigError: not of the form package/msg/Name, or a type that is known without registering it.
    """
    if message_type.count("/") != 2:
        raise ConfigError(f"register_codec: type '{message_type}' is not of the form package/msg/Name")
    if message_type in VECTOR_TYPES or message_type in IMAGE_TYPES:
        raise ConfigError(f"register_codec: {message_type} is a known type; use 'field' or 'fields' of the topic map")
    _registered[message_type] = VectorType(values=values, names=names, has_header=has_header)


def vector_type(message_type: str) -> VectorType:
    """Return how vectors of a type are read; one without defaults where it is not known.

    Raises:
        ConfigError: a module of the entry points cannot be imported.
    """
    _import_codecs()
    return VECTOR_TYPES.get(message_type) or _registered.get(message_type, _OTHER)


def check_stamp(name: str, config: StreamConfig) -> None:
    """Refuse a stream with stamps from the header if its type has no header.

    Raises:
        ConfigError: names the key and the remedy.
    """
    if config.stamp is Stamp.HEADER and not _has_header(config.type):
        raise ConfigError(f"{name}: {config.type} on {config.topic} has no header; set 'stamp: receive' for the stream")


def stamp_of(message: Any) -> int | None:
    """Return the header stamp in nanoseconds, None if the message has none; for transforms that of the first."""
    header = getattr(message, "header", None)
    if header is None:
        transforms = getattr(message, "transforms", None)
        if not transforms:
            return None
        header = transforms[0].header
    try:
        return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
    except AttributeError:  # a header of the lab's own
        return None


def _has_header(message_type: str) -> bool:
    package, _, name = message_type.split("/")
    if package == "geometry_msgs":
        return "Stamped" in name or name == "PoseArray"
    return package != "std_msgs" and vector_type(message_type).has_header


@functools.cache
def _import_codecs() -> None:
    """Import what installed packages offer, once per process."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            raise ConfigError(f"codec '{entry.name}' ({entry.value}): {error!r}; correct or uninstall it") from error
