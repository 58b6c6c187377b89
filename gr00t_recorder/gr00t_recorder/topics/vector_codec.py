# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn the messages of one stream into the vector of a state or action key.

Messages are read by attribute only, so those of rclpy and those deserialized from a bag take the same path. A message
that cannot be used raises ObservationError with the reason; one that carries nothing of the key gives None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gr00t_recorder.topics.bindings import VectorBinding
from gr00t_recorder.topics.codecs import TRANSFORM_TYPES, vector_type
from gr00t_recorder.topics.fields import (
    ROTATION,
    Part,
    field_value,
    frames_in,
    geometry_shape,
    joined_parts,
    transform_between,
)
from gr00t_recorder.topics.layout import Blend, Layout, declared_turns, scaling
from gr00t_training.embodiment import VectorKey
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.io.text import printable

MAX_REMEMBERED_ORDERS = 32  # publishers keep one order of names; more means that the order is random
MAX_NAMES_SHOWN = 20  # of a message, in an error


class Channels(NamedTuple):
    """Values of some channels of a key; all of them unless the publisher sends parts."""

    indices: tuple[int, ...]  # places in the key's vector
    values: np.ndarray  # (len(indices),) float64, embodiment units
    order: tuple[int, ...] = ()  # places of the channels in the message, where it names them


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
        self._source = _resolve(subject, message_type, binding)
        # names are expected to be empty: with them an index would be a guess
        self._unused_names_field = vector_type(message_type).names_field if binding.by_index else ""
        self._everything = tuple(range(key.dim))
        self._places: dict[tuple[str, ...], tuple[tuple[int, ...], np.ndarray, tuple[int, ...]]] = {}
        self._layout: Layout | None = None
        try:
            scaling(key, binding)
            self.blend = Blend(key, binding, declared_turns(key))
            shape = self._known_shape(message_type)
            if shape is not None:
                self._plan(shape)
        except ValueError as error:
            raise ConfigError(f"{subject}: {self._what(message_type)} {error}") from error

    def matches(self, message: Any) -> bool:
        """Whether a message is about the key; a topic may carry transforms of other frames, with other clocks."""
        try:
            if not self.frames or transform_between(message, *self.frames) is not None:
                return True
        except ObservationError:
            return True  # `decode` raises what is wrong with it
        self._note(tuple(frames_in(message).split(", ")))
        return False

    def decode(self, message: Any) -> Channels | None:
        """Return the key's channels in `message`, None if it carries none of them.

        Raises:
            NotFiniteError: a value is not finite.
            ObservationError: field missing or of another kind, too few values, no rotation.
        """
        try:
            return self._decoded(message)
        except ObservationError:
            raise
        except Exception as error:
            if self._source.values is not None:  # any error of a registered codec concerns this message only
                raise ObservationError(f"registered codec: {printable(repr(error))}; correct it") from error
            if not isinstance(error, (TypeError, AttributeError, ValueError, OverflowError)):
                raise
            # a field that holds something else
            raise ObservationError(f"{self._what('message')}: {printable(str(error))}; check 'field'") from error

    def _decoded(self, message: Any) -> Channels | None:
        if self._source.names is not None:
            return self._decode_named(message, self._source.names)
        if self._unused_names_field and len(field_value(message, self._unused_names_field)):
            raise ObservationError(f"message carries names in '{self._unused_names_field}'; leave out 'by_index'")
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

    def _decode_named(self, message: Any, names_of: Callable[[Any], Sequence[str]]) -> Channels | None:
        path = self._source.paths[0] or "message"
        values = self._values(message)
        names = tuple(names_of(message))
        if not names and values.size:
            raise ObservationError(
                f"{path} has {values.size} values and '{self._source.names_field}' no names; have its publisher send "
                "them, or set 'by_index: true' (and 'start') where their order is known"
            )
        indices, places, order = self._places_of(names)
        if not indices:
            return None
        if values.size != len(names):
            raise ObservationError(f"{path} has {values.size} values for {len(names)} names")
        if len(indices) < self._key.dim and self.blend.turns:
            raise ObservationError(f"{path} has {len(indices)} of {self._key.dim} channels; a rotation comes whole")
        assert self._layout is not None
        try:
            checked = self._checked(indices, self._layout.finished(values[places], indices))
        except ValueError as error:
            raise ObservationError(f"{path}: {error}") from error
        return checked._replace(order=order)

    def _checked(self, indices: tuple[int, ...], values: np.ndarray) -> Channels:
        if not np.isfinite(values).all():
            bad = indices[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise NotFiniteError(f"{self._what('message')} of '{self.names[bad]}' is not finite", indices)
        return Channels(indices, values)

    def _values(self, message: Any) -> np.ndarray:
        """Return the values (N,) where they are one field, or what a registered codec reads."""
        if self._source.values is None:
            return np.atleast_1d(np.asarray(field_value(message, self._source.paths[0]), dtype=np.float64))
        return np.asarray(self._source.values(message), dtype=np.float64).reshape(-1)

    def _parts(self, message: Any) -> list[Part] | None:
        if self.frames:
            return transform_between(message, *self.frames)
        if self._source.values is not None:
            return [Part(self._values(message), is_rotation=False)]
        return joined_parts(message, self._source.paths)

    def _known_shape(self, message_type: str) -> tuple[int | None, ...] | None:
        """Return the shape of what will come, None if only the messages show it."""
        if self._source.names is not None:
            return (self._key.dim,)
        if self.frames:
            return (3, ROTATION)
        return geometry_shape(message_type) if self._source.paths == ("",) else None

    def _plan(self, shape: tuple[int | None, ...]) -> None:
        binding = dataclasses.replace(self._binding, start=0) if self._source.names is not None else self._binding
        self._layout = Layout(shape, self._key, binding)
        self.blend = Blend(self._key, binding, self._layout.turns, self._layout.wrapped)

    def _what(self, whole: str) -> str:
        """Name what is read of a message; `whole` where it is the message itself."""
        if self.frames:
            return f"{self.frames[0]} -> {self.frames[1]}"
        return ", ".join(self._source.paths) or whole

    def _note(self, names: tuple[str, ...]) -> None:
        self.carried = printable(", ".join(names[:MAX_NAMES_SHOWN]))
        if not set(names) <= set(self.names_seen):
            self.names_seen = tuple(dict.fromkeys([*self.names_seen, *names]))[:100]

    def _places_of(self, names: tuple[str, ...]) -> tuple[tuple[int, ...], np.ndarray, tuple[int, ...]]:
        """Return (channel indices, their places in a message with these names, the same places)."""
        known = self._places.get(names)
        if known is not None:
            if not known[0]:
                self._note(names)
            return known
        self._note(names)
        repeated = [name for name in self.names if names.count(name) > 1]
        if repeated:
            raise ObservationError(f"duplicate name '{repeated[0]}' in {self._source.names_field}")
        present = [(i, names.index(name)) for i, name in enumerate(self.names) if name in names]
        order = tuple(place for _, place in present)
        result = tuple(i for i, _ in present), np.array(order, dtype=np.intp), order
        if len(self._places) >= MAX_REMEMBERED_ORDERS:
            self._places.clear()
        self._places[names] = result
        return result


class _Source(NamedTuple):
    """Where the values and names of a message are."""

    paths: tuple[str, ...]  # ("",): the message itself
    names_field: str = ""  # empty: no names
    names: Callable[[Any], Sequence[str]] | None = None
    values: Callable[[Any], Any] | None = None  # of a registered codec, instead of the paths


def _resolve(subject: str, message_type: str, binding: VectorBinding) -> _Source:
    """Return where the values are; ConfigError when that cannot be known."""
    known = vector_type(message_type)
    if binding.frames:
        if message_type not in TRANSFORM_TYPES:
            raise ConfigError(f"{subject}: 'frames' is for {' and '.join(TRANSFORM_TYPES)}, not for {message_type}")
        return _Source(("",))
    if message_type in ("tf2_msgs/msg/TFMessage", "std_msgs/msg/String"):
        raise ConfigError(f"{subject}: {message_type}: {known.remedy}")
    if binding.fields:
        return _Source(binding.fields)
    field = binding.field or known.field
    values = None if field else known.values
    if not field and values is None and geometry_shape(message_type) is None:
        raise ConfigError(f"{subject}: no default field for {message_type}; {known.remedy}")
    if binding.by_index:
        return _Source((field,), values=values)
    names_field = binding.names_field or known.names_field
    names = partial(field_value, path=names_field) if names_field else known.names if values else None
    if binding.select and names is None:
        raise ConfigError(f"{subject}: 'select' needs names, {message_type} has none; use 'start' or 'names_field'")
    return _Source((field,), names_field or ("names" if names else ""), names, values)
