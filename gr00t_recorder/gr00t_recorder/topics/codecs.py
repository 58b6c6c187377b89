# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn messages into vectors and images.

Messages are read by attribute only, so those of rclpy and those deserialised from a bag take the same path. A message
that cannot be used raises ObservationError with the reason; a message that is merely not meant for a key gives None.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import cv2
import numpy as np

from gr00t_recorder.topics.bindings import VectorBinding, VideoBinding
from gr00t_training.embodiment import VectorKey, VideoKey
from gr00t_training.errors import ConfigError, ObservationError

# message type -> field of the values, field of the channel names (empty: channels go by index)
VALUE_FIELDS = {
    "sensor_msgs/msg/JointState": ("position", "name"),
    "trajectory_msgs/msg/JointTrajectory": ("points.0.positions", "joint_names"),
    "std_msgs/msg/Float32": ("data", ""),
    "std_msgs/msg/Float64": ("data", ""),
    "std_msgs/msg/Float32MultiArray": ("data", ""),
    "std_msgs/msg/Float64MultiArray": ("data", ""),
}
IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"

# encoding -> channels in a pixel, conversion to RGB (absent: the bytes are RGB already)
RAW_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
}
JPEG_START = b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"
JPEG_TAIL = 64  # some cameras pad the data after its end
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_BIT_DEPTH_OFFSET = 24  # 8 signature, 8 chunk header, 8 width and height (PNG specification, IHDR)
MAX_REMEMBERED_ORDERS = 32  # publishers keep one order of names; more means that the order is random


class Channels(NamedTuple):
    """Values of some channels of a key; all of them unless the publisher sends parts."""

    indices: tuple[int, ...]  # places in the key's vector
    values: np.ndarray  # (len(indices),) float64, embodiment units


class VectorCodec:
    """Takes one state or action key out of messages of one type."""

    def __init__(self, subject: str, message_type: str, binding: VectorBinding, key: VectorKey) -> None:
        """Resolve the fields; ConfigError when the type has no default and the binding names none."""
        default_field, default_names = VALUE_FIELDS.get(message_type, ("", ""))
        field = binding.field or default_field
        if not field:
            raise ConfigError(
                f"{subject}: no default field for {message_type}; set 'field' (and 'names_field') in the topic map"
            )
        names_field = binding.names_field or default_names
        if binding.select and not names_field:
            raise ConfigError(f"{subject}: 'select' needs names, {message_type} has none; use 'start' or 'names_field'")
        self.names = binding.select or key.names
        self.names_seen: tuple[str, ...] = ()  # in any message
        self.names_newest: tuple[str, ...] = ()  # in the newest message
        self._field = field
        self._names_field = names_field
        self._start = binding.start
        self._scale, self._offset = binding.scale, binding.offset
        self._places: dict[tuple[str, ...], tuple[tuple[int, ...], np.ndarray]] = {}

    def decode(self, message: Any) -> Channels | None:
        """Return the key's channels in `message`, None when it carries none of them.

        Raises:
            ObservationError: field missing, too few values, a value is not finite.
        """
        values = np.atleast_1d(np.asarray(_field_value(message, self._field), dtype=np.float64))
        if not self._names_field:
            indices, places = tuple(range(len(self.names))), np.arange(self._start, self._start + len(self.names))
            if values.size <= places[-1]:
                raise ObservationError(
                    f"{self._field} has {values.size} values, expected at least {self._start + len(self.names)}"
                )
        else:
            names = tuple(_field_value(message, self._names_field))
            self.names_newest = names
            indices, places = self._places_of(names)
            if not indices:
                return None
            if values.size != len(names):
                raise ObservationError(f"{self._field} has {values.size} values for {len(names)} names")
        chosen = values[places] * self._scale + self._offset
        if not np.isfinite(chosen).all():
            bad = indices[int(np.flatnonzero(~np.isfinite(chosen))[0])]
            raise ObservationError(f"{self._field} of '{self.names[bad]}' is not finite")
        return Channels(indices, chosen)

    def _places_of(self, names: tuple[str, ...]) -> tuple[tuple[int, ...], np.ndarray]:
        """Return (channel indices, their places in a message with these names)."""
        known = self._places.get(names)
        if known is not None:
            return known
        self.names_seen = tuple(dict.fromkeys([*self.names_seen, *names]))[:100]
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

    def __init__(
        self, subject: str, message_type: str, binding: VideoBinding, video: VideoKey, *, num_kept: int = 1
    ) -> None:
        """Choose the decoder; the last `num_kept` images are kept. ConfigError for a type that is not an image."""
        if message_type not in (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE):
            raise ConfigError(
                f"{subject}: type {message_type} is not an image; expected {IMAGE_TYPE} or {COMPRESSED_IMAGE_TYPE}"
            )
        self._is_compressed = message_type == COMPRESSED_IMAGE_TYPE
        self._resize = binding.resize
        self._video = video
        self._kept: deque[tuple[Any, np.ndarray]] = deque(maxlen=num_kept)  # held images are not decoded again

    def check(self, message: Any) -> None:
        """Refuse what can be seen without decoding; ObservationError gives the reason."""
        if self._is_compressed:
            _check_compressed(message)
        else:
            _check_raw(message)
            self._check_size(message.height, message.width)

    def decode(self, message: Any) -> np.ndarray:
        """Return the image, `(H, W, 3)` uint8 RGB, contiguous; callers share it and must not write to it.

        Raises:
            ObservationError: damaged, unsupported encoding, or another size than the embodiment's.
        """
        for held, image in tuple(self._kept):
            if held is message:
                return image
        image = decode_compressed(message) if self._is_compressed else decode_raw(message)
        self._check_size(*image.shape[:2])
        if image.shape[:2] != (self._video.height, self._video.width):
            image = cv2.resize(image, (self._video.width, self._video.height), interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(image)
        self._kept.append((message, image))
        return image

    def _check_size(self, height: int, width: int) -> None:
        if not self._resize and (height, width) != (self._video.height, self._video.width):
            raise ObservationError(
                f"image is {width}x{height}, the embodiment expects {self._video.width}x{self._video.height}; "
                "set 'resize: true' in the topic map or correct the embodiment"
            )


def decode_raw(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/msg/Image to `(H, W, 3)` uint8 RGB; rgb8 is a view of the message, not a copy.

    Rows may be padded (`step`); `is_bigendian` has no meaning for the 8-bit encodings supported here.
    """
    _check_raw(message)
    channels, conversion = RAW_ENCODINGS[message.encoding]
    flat = np.frombuffer(message.data, dtype=np.uint8, count=message.height * message.step)
    rows = flat.reshape(message.height, message.step)
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    if conversion is None:
        return pixels
    return cv2.cvtColor(pixels, conversion)


def decode_compressed(message: Any) -> np.ndarray:
    """Decode a JPEG or PNG sensor_msgs/msg/CompressedImage to `(H, W, 3)` uint8 RGB."""
    _check_compressed(message)
    encoded = np.frombuffer(message.data, dtype=np.uint8)
    # the EXIF orientation is ignored: cameras on robots are calibrated as they are mounted
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ObservationError(f"image data of {encoded.size} bytes cannot be decoded")
    # "rgb8; jpeg compressed rgb8": written without swapping channels first, so that the decoder's "BGR" is RGB
    is_rgb = "rgb" in message.format.lower().partition("compressed")[2]
    return image if is_rgb else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_raw(message: Any) -> None:
    if message.encoding not in RAW_ENCODINGS:
        raise ObservationError(
            f"image encoding '{message.encoding}' is not supported; expected {', '.join(RAW_ENCODINGS)}"
        )
    channels, _ = RAW_ENCODINGS[message.encoding]
    if not message.height or not message.width or message.step < message.width * channels:
        raise ObservationError(
            f"image of {message.width}x{message.height} {message.encoding} has step {message.step}, "
            f"expected at least {message.width * channels}"
        )
    if len(message.data) < message.height * message.step:
        raise ObservationError(
            f"image data has {len(message.data)} bytes, expected {message.height * message.step} (height x step)"
        )


def _check_compressed(message: Any) -> None:
    text = message.format.lower()
    if "compresseddepth" in text or (text and not any(name in text for name in ("jpeg", "jpg", "png"))):
        raise ObservationError(f"image format '{message.format}' is not supported; expected jpeg or png")
    start = bytes(message.data[: PNG_BIT_DEPTH_OFFSET + 1])
    if start.startswith(PNG_START):
        if len(start) > PNG_BIT_DEPTH_OFFSET and start[PNG_BIT_DEPTH_OFFSET] == 16:
            raise ObservationError("image is a PNG of 16 bits a channel, expected 8")
    elif not start.startswith(JPEG_START):
        raise ObservationError("image data is neither JPEG nor PNG")
    elif JPEG_END not in bytes(message.data[-JPEG_TAIL:]):
        raise ObservationError("JPEG data is cut short")  # the decoder would fill the rest with grey


def _field_value(message: Any, path: str) -> Any:
    """Follow a path such as `points.0.positions`; ObservationError names the part that is missing."""
    value = message
    for part in path.split("."):
        try:
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        except (AttributeError, IndexError, TypeError) as error:
            raise ObservationError(f"message has no field '{path}' ('{part}' is missing)") from error
    return value


def stamp_of(message: Any) -> int | None:
    """Return the header stamp in nanoseconds, None when the message has no header."""
    header = getattr(message, "header", None)
    if header is None:
        return None
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def age_text(age_ns: int) -> str:
    """Return an age for messages to people: `0.12 s`."""
    return f"{math.copysign(abs(age_ns) / 1e9, age_ns):.2f} s"
