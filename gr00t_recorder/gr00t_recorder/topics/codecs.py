# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn messages into the vectors, images and depth images of keys.

Messages are read by attribute only, so those of rclpy and those deserialised from a bag take the same path. A message
that cannot be used raises ObservationError with the reason; a message that is merely not meant for a key gives None.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any, NamedTuple

import cv2
import numpy as np

from gr00t_recorder.topics.bindings import DepthBinding, VectorBinding, VideoBinding
from gr00t_recorder.topics.fields import (
    ROTATION,
    Part,
    field_value,
    frames_in,
    geometry_shape,
    joined_parts,
    transform_between,
)
from gr00t_recorder.topics.images import (
    check_compressed,
    check_measured,
    check_raw,
    decode_compressed,
    decode_measured,
    decode_raw,
)
from gr00t_recorder.topics.layout import Blend, Layout, declared_turns, scaling
from gr00t_training.embodiment import DepthKey, VectorKey, VideoKey
from gr00t_training.errors import ConfigError, ObservationError

_INTEGERS = tuple(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
# message type -> field of the values, field of the channel names (empty: channels go by index)
VALUE_FIELDS = {
    "sensor_msgs/msg/JointState": ("position", "name"),
    "trajectory_msgs/msg/JointTrajectory": ("points.0.positions", "joint_names"),
    "control_msgs/msg/JointTrajectoryControllerState": ("", "joint_names"),
    "nav_msgs/msg/Odometry": ("pose", ""),
    "std_msgs/msg/Bool": ("data", ""),
    **{f"std_msgs/msg/{name}": ("data", "") for name in ("Float32", "Float64", *_INTEGERS)},
    **{f"std_msgs/msg/{name}MultiArray": ("data", "") for name in ("Float32", "Float64", *_INTEGERS)},
}
# what to set where a type has several things to offer
_REMEDIES = {
    "control_msgs/msg/JointTrajectoryControllerState": "set 'field' to feedback.positions (Humble: actual.positions)",
    "sensor_msgs/msg/Imu": "set 'field' to orientation, angular_velocity or linear_acceleration, or 'fields'",
    "sensor_msgs/msg/Joy": "set 'field' to axes or buttons, or 'fields', like [axes.1, buttons.0]",
    "std_msgs/msg/String": "a text is no vector; bind it as 'task' or 'events'",
    "tf2_msgs/msg/TFMessage": "set 'frames' to parent and child, like [base_link, tool0]",
}
TRANSFORM_TYPES = ("tf2_msgs/msg/TFMessage", "geometry_msgs/msg/TransformStamped")
IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
MAX_REMEMBERED_ORDERS = 32  # publishers keep one order of names; more means that the order is random
MAX_COUNT = 65535  # of 16 bits


class Channels(NamedTuple):
    """Values of some channels of a key; all of them unless the publisher sends parts."""

    indices: tuple[int, ...]  # places in the key's vector
    values: np.ndarray  # (len(indices),) float64, embodiment units


class NotFiniteError(ObservationError):
    """A message that names its channels but holds NaN or infinity for one of them: a hole in their course."""

    def __init__(self, message: str, indices: tuple[int, ...]) -> None:
        super().__init__(message)
        self.indices = indices  # channels of the message, as in Channels


class VectorCodec:
    """Takes one state or action key out of messages of one type."""

    def __init__(self, subject: str, message_type: str, binding: VectorBinding, key: VectorKey) -> None:
        """Resolve the fields; ConfigError when the type has no default, or its numbers do not fit the key."""
        self.names = binding.select or key.names
        self.names_seen: tuple[str, ...] = ()  # in any message: channel names, or links between frames
        self.carried = ""  # names or links of the newest message
        self.frames = binding.frames
        self._key, self._binding, self._subject = key, binding, subject
        self._paths, self._names_field = _resolve_fields(subject, message_type, binding)
        self._everything = tuple(range(key.dim))
        self._places: dict[tuple[str, ...], tuple[tuple[int, ...], np.ndarray]] = {}
        self._layout: Layout | None = None
        try:
            scaling(key, binding)
            self.blend = Blend(key, binding, declared_turns(key))
            shape = self._known_shape(message_type)
            if shape is not None:
                self._plan(shape)
        except ValueError as error:
            raise ConfigError(f"{subject}: {self._what(message_type)} {error}") from error

    def is_meant(self, message: Any) -> bool:
        """Whether a message is about the key; transforms of other frames come on the same topic, with other clocks."""
        if not self.frames or transform_between(message, *self.frames) is not None:
            return True
        self._note(tuple(frames_in(message).split(", ")))
        return False

    def decode(self, message: Any) -> Channels | None:
        """Return the key's channels in `message`, None when it carries none of them.

        Raises:
            NotFiniteError: a value is not finite.
            ObservationError: field missing, too few values, no rotation.
        """
        if self._names_field:
            return self._decode_named(message)
        parts = self._parts(message)
        if parts is None:
            return None
        shape = tuple(part.width for part in parts)
        if self._layout is None or self._layout.shape != shape:
            try:
                self._plan(shape)
            except ValueError as error:
                raise ObservationError(f"{self._what('message')} {error}") from error
        assert self._layout is not None
        return self._checked(self._everything, self._layout.vector(parts))

    def _decode_named(self, message: Any) -> Channels | None:
        path = self._paths[0]
        values = np.atleast_1d(np.asarray(field_value(message, path), dtype=np.float64))
        names = tuple(field_value(message, self._names_field))
        indices, places = self._places_of(names)
        if not indices:
            return None
        if values.size != len(names):
            raise ObservationError(f"{path} has {values.size} values for {len(names)} names")
        if len(indices) < self._key.dim and self.blend.turns:
            raise ObservationError(f"{path} has {len(indices)} of {self._key.dim} channels; a rotation comes whole")
        assert self._layout is not None
        try:
            return self._checked(indices, self._layout.finished(values[places], indices))
        except ValueError as error:
            raise ObservationError(f"{path}: {error}") from error

    def _checked(self, indices: tuple[int, ...], values: np.ndarray) -> Channels:
        if not np.isfinite(values).all():
            bad = indices[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise NotFiniteError(f"{self._what('message')} of '{self.names[bad]}' is not finite", indices)
        return Channels(indices, values)

    def _parts(self, message: Any) -> list[Part] | None:
        if self.frames:
            return transform_between(message, *self.frames)
        return joined_parts(message, self._paths)

    def _known_shape(self, message_type: str) -> tuple[int | None, ...] | None:
        """Return the shape of what will come, None where only the messages tell."""
        if self._names_field:
            return (self._key.dim,)
        if self.frames:
            return (3, ROTATION)
        return geometry_shape(message_type) if self._paths == ("",) else None

    def _plan(self, shape: tuple[int | None, ...]) -> None:
        binding = dataclasses.replace(self._binding, start=0) if self._names_field else self._binding
        self._layout = Layout(shape, self._key, binding)
        self.blend = Blend(self._key, binding, self._layout.turns, self._layout.wrapped)

    def _what(self, whole: str) -> str:
        """Name what is read of a message; `whole` where it is the message itself."""
        if self.frames:
            return f"{self.frames[0]} -> {self.frames[1]}"
        return ", ".join(self._paths) or whole

    def _note(self, names: tuple[str, ...]) -> None:
        self.carried = ", ".join(names)
        if not set(names) <= set(self.names_seen):
            self.names_seen = tuple(dict.fromkeys([*self.names_seen, *names]))[:100]

    def _places_of(self, names: tuple[str, ...]) -> tuple[tuple[int, ...], np.ndarray]:
        """Return (channel indices, their places in a message with these names)."""
        known = self._places.get(names)
        if known is not None:
            if not known[0]:
                self._note(names)
            return known
        self._note(names)
        repeated = [name for name in self.names if names.count(name) > 1]
        if repeated:
            raise ObservationError(f"name '{repeated[0]}' stands twice in {self._names_field}")
        present = [(i, names.index(name)) for i, name in enumerate(self.names) if name in names]
        result = tuple(i for i, _ in present), np.array([place for _, place in present], dtype=np.intp)
        if len(self._places) >= MAX_REMEMBERED_ORDERS:
            self._places.clear()
        self._places[names] = result
        return result


class ImageCodec:
    """Turns image messages of one camera into `(H, W, 3)` uint8 RGB."""

    _interpolation = cv2.INTER_AREA

    def __init__(
        self,
        subject: str,
        message_type: str,
        binding: VideoBinding | DepthBinding,
        size: VideoKey | DepthKey,
        *,
        num_kept: int = 1,
    ) -> None:
        """Choose the decoder; the last `num_kept` images are kept. ConfigError for a type that is not an image."""
        if message_type not in (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE):
            raise ConfigError(
                f"{subject}: type {message_type} is not an image; expected {IMAGE_TYPE} or {COMPRESSED_IMAGE_TYPE}"
            )
        self._is_compressed = message_type == COMPRESSED_IMAGE_TYPE
        self._resize = binding.resize
        self._levels = binding.levels if isinstance(binding, VideoBinding) else ()
        self._size = (size.height, size.width)
        self._kept: deque[tuple[Any, np.ndarray]] = deque(maxlen=num_kept)  # held images are not decoded again

    def check(self, message: Any) -> None:
        """Refuse what can be seen without decoding; ObservationError gives the reason."""
        self._check_form(message)
        if not self._is_compressed:
            self._check_size(message.height, message.width)

    def decode(self, message: Any) -> np.ndarray:
        """Return the image, contiguous; callers share it and must not write to it.

        Raises:
            ObservationError: damaged, unsupported encoding, or another size than the embodiment's.
        """
        for held, image in tuple(self._kept):
            if held is message:
                return image
        image = self._pixels(message)
        self._check_size(*image.shape[:2])
        if image.shape[:2] != self._size:
            image = cv2.resize(image, self._size[::-1], interpolation=self._interpolation)
        image = np.ascontiguousarray(image)
        self._kept.append((message, image))
        return image

    def _check_form(self, message: Any) -> None:
        (check_compressed if self._is_compressed else check_raw)(message, self._levels)

    def _pixels(self, message: Any) -> np.ndarray:
        return (decode_compressed if self._is_compressed else decode_raw)(message, self._levels)

    def _check_size(self, height: int, width: int) -> None:
        if not self._resize and (height, width) != self._size:
            raise ObservationError(
                f"image is {width}x{height}, the embodiment expects {self._size[1]}x{self._size[0]}; "
                "set 'resize: true' in the topic map or correct the embodiment"
            )


class DepthCodec(ImageCodec):
    """Turns depth images into `(H, W)` uint16 counts of the key's unit; 0 is no measurement.

    NaN, infinity, negative values and what lies beyond 65535 counts are no measurement either.
    """

    _interpolation = cv2.INTER_NEAREST_EXACT  # a mean of near and far would be a place where nothing is

    def __init__(
        self, subject: str, message_type: str, binding: DepthBinding, depth: DepthKey, *, num_kept: int = 1
    ) -> None:
        """Choose the decoder; ConfigError for a type that is not an image."""
        super().__init__(subject, message_type, binding, depth, num_kept=num_kept)
        self._count_m, self._unit_m = binding.unit_m, depth.unit_m

    def _check_form(self, message: Any) -> None:
        check_measured(message)

    def _pixels(self, message: Any) -> np.ndarray:
        measured = decode_measured(message)
        if measured.dtype == np.uint16:
            if self._count_m == self._unit_m:
                return measured
            measured = measured * np.float64(self._count_m)
        with np.errstate(invalid="ignore", over="ignore"):
            counts = np.rint(measured.astype(np.float64) / self._unit_m)
            return np.where((counts > 0) & (counts <= MAX_COUNT), counts, 0).astype(np.uint16)


def _resolve_fields(subject: str, message_type: str, binding: VectorBinding) -> tuple[tuple[str, ...], str]:
    """Return the paths of the values and of the names (empty: none); ConfigError when they cannot be known."""
    default, default_names = VALUE_FIELDS.get(message_type, ("", ""))
    if binding.frames:
        if message_type not in TRANSFORM_TYPES:
            raise ConfigError(f"{subject}: 'frames' is for {' and '.join(TRANSFORM_TYPES)}, not for {message_type}")
        return ("",), ""
    if message_type == "tf2_msgs/msg/TFMessage" or message_type == "std_msgs/msg/String":
        raise ConfigError(f"{subject}: {message_type}: {_REMEDIES[message_type]}")
    if binding.fields:
        return binding.fields, ""
    field = binding.field or default
    if not field and geometry_shape(message_type) is None:
        remedy = _REMEDIES.get(message_type, "set 'field' (and 'names_field') in the topic map")
        raise ConfigError(f"{subject}: no default field for {message_type}; {remedy}")
    names_field = binding.names_field or default_names
    if binding.select and not names_field:
        raise ConfigError(f"{subject}: 'select' needs names, {message_type} has none; use 'start' or 'names_field'")
    return (field,), names_field


def stamp_of(message: Any) -> int | None:
    """Return the header stamp in nanoseconds, None when the message has none; for transforms that of the first."""
    header = getattr(message, "header", None)
    if header is None:
        transforms = getattr(message, "transforms", None)
        if not transforms:
            return None
        header = transforms[0].header
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def age_text(age_ns: int) -> str:
    """Return an age for messages to people: `0.12 s`."""
    return f"{math.copysign(abs(age_ns) / 1e9, age_ns):.2f} s"
