# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find numbers in messages by field path, and split the standard geometry into parts.

Messages are read by attribute only, so those of rclpy and those deserialized from a bag take the same path. Rotations
leave here as the dataset's quaternion, w x y z; in messages they are x y z w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gr00t_training.embodiment import Rotation
from gr00t_training.errors import ObservationError
from gr00t_training.rotations import from_matrix, to_matrix

ROTATION = None  # stands for a quaternion in a shape

# name of a geometry message without Stamped and WithCovariance -> its shape: widths of its parts in order, numbers
# side by side being one part
_SHAPES: dict[str, tuple[int | None, ...]] = {
    "Point": (3,),
    "Point32": (3,),
    "Vector3": (3,),
    "Pose2D": (3,),
    "Quaternion": (ROTATION,),
    "Pose": (3, ROTATION),
    "Transform": (3, ROTATION),
    "Twist": (6,),
    "Velocity": (6,),
    "Accel": (6,),
    "Wrench": (6,),
}
GEOMETRY_TYPES = tuple(_SHAPES)
# attributes of two parts in order, then the only attribute of wrappers (stamped, with covariance)
_PAIRS = (("position", "orientation"), ("translation", "rotation"), ("linear", "angular"), ("force", "torque"))
_WRAPPERS = ("pose", "twist", "velocity", "accel", "wrench", "transform", "point", "vector", "quaternion")


class Part(NamedTuple):
    """Some numbers of a message."""

    values: np.ndarray  # (N,) float64; a rotation is a quaternion w x y z as it came, not normalized
    is_rotation: bool

    @property
    def width(self) -> int | None:
        """Entry in a shape."""
        return ROTATION if self.is_rotation else self.values.size


def geometry_shape(message_type: str) -> tuple[int | None, ...] | None:
    """Return the shape of a geometry_msgs type taken whole, None for other types."""
    package, _, name = message_type.split("/")
    base = name.removesuffix("Stamped").removesuffix("WithCovariance")
    return _SHAPES.get(base) if package == "geometry_msgs" else None


def field_value(message: Any, path: str) -> Any:
    """Follow a path such as `points.0.positions` or `points.-1.positions`; an empty one is the message itself.

    Raises:
        ObservationError: names the part that is missing.
    """
    value = message
    for part in path.split(".") if path else ():
        try:
            value = value[int(part)] if part.lstrip("-").isdigit() else getattr(value, part)
        except (AttributeError, IndexError, TypeError) as error:
            raise ObservationError(f"message has no field '{path}' ('{part}' is missing)") from error
    return value


def joined_parts(message: Any, paths: Sequence[str]) -> list[Part]:
    """Return the numbers under several paths in order, those side by side as one part; raises as `parts_of`."""
    parts: list[Part] = []
    for path in paths:
        for part in parts_of(message, path):
            if parts and not part.is_rotation and not parts[-1].is_rotation:
                parts[-1] = Part(np.concatenate([parts[-1].values, part.values]), is_rotation=False)
            else:
                parts.append(part)
    return parts


def parts_of(message: Any, path: str) -> list[Part]:
    """Return the numbers under a path; geometry is split in the order of its definition.

    Raises:
        ObservationError: the path is missing, or does not lead to numbers.
    """
    value = field_value(message, path)
    parts = _geometry(value)
    if parts is not None:
        return parts
    if isinstance(value, str):
        raise ObservationError(f"'{path}' is a text, expected numbers")
    try:
        return [Part(np.atleast_1d(np.asarray(value, dtype=np.float64)).reshape(-1), is_rotation=False)]
    except (TypeError, ValueError) as error:
        found = type(value).__name__
        raise ObservationError(f"'{path or 'message'}' is {found}, expected numbers; name a field inside") from error


def transform_between(message: Any, parent: str, child: str) -> list[Part] | None:
    """Return the pose of frame `child` in frame `parent`, None if the message does not link them.

    Args:
        message: tf2_msgs/msg/TFMessage or geometry_msgs/msg/TransformStamped.
        parent: frame that the pose is expressed in.
        child: frame below it; the frames in between must be in the same message.

    Raises:
        ObservationError: a rotation has no length.
    """
    stamped = getattr(message, "transforms", None)
    links = {_frame(link.child_frame_id): link for link in ([message] if stamped is None else stamped)}
    chain = []
    frame = _frame(child)
    while frame != _frame(parent):
        link = links.pop(frame, None)  # popped: a loop ends
        if link is None:
            return None
        chain.append(link.transform)
        frame = _frame(link.header.frame_id)
    if len(chain) == 1:
        return _geometry(chain[0])
    rotation, position = np.eye(3), np.zeros(3)
    for transform in chain:  # from the child upwards
        upward = _matrix(_quaternion(transform.rotation))
        position = upward @ position + _vector(transform.translation)
        rotation = upward @ rotation
    return [Part(position, is_rotation=False), Part(from_matrix(rotation, Rotation.QUATERNION), is_rotation=True)]


def frames_in(message: Any) -> str:
    """Return the links of a transform message for people: `base -> tool`."""
    stamped = getattr(message, "transforms", None)
    links = [message] if stamped is None else stamped
    return ", ".join(f"{_frame(link.header.frame_id)} -> {_frame(link.child_frame_id)}" for link in links[:8])


def _geometry(value: Any) -> list[Part] | None:
    """Split a geometry message into parts; None if it is not one."""
    if hasattr(value, "x") and hasattr(value, "y"):
        if hasattr(value, "w"):
            return [Part(_quaternion(value), is_rotation=True)]
        third = next((name for name in ("z", "theta") if hasattr(value, name)), None)
        numbers = [value.x, value.y, *([] if third is None else [getattr(value, third)])]
        return [Part(np.array(numbers, dtype=np.float64), is_rotation=False)]
    for first, second in _PAIRS:
        if hasattr(value, first) and hasattr(value, second):
            parts = [_geometry(getattr(value, first)), _geometry(getattr(value, second))]
            return None if None in parts else [part for group in parts for part in group or ()]
    inner = [name for name in _WRAPPERS if hasattr(value, name)]
    return _geometry(getattr(value, inner[0])) if len(inner) == 1 else None


def _vector(value: Any) -> np.ndarray:
    return np.array([value.x, value.y, value.z], dtype=np.float64)


def _quaternion(value: Any) -> np.ndarray:
    return np.array([value.w, value.x, value.y, value.z], dtype=np.float64)


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    try:
        return to_matrix(quaternion, Rotation.QUATERNION)
    except ValueError as error:
        raise ObservationError(f"{error}") from error


def _frame(name: str) -> str:
    return name.removeprefix("/")  # frame names of ROS 1 began with it
