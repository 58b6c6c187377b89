# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Joints as policy and recorder see them: channels with limits, read from messages as the recorder reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.vector_codec import VectorCodec
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.types import KeyKind, KeyRef


@dataclass(frozen=True)
class JointRow:
    """One channel of the state or the action."""

    key: str
    name: str
    unit: str
    is_commanded: bool  # an action channel has the same name
    low: float | None = None  # None: no limit
    high: float | None = None
    max_velocity: float | None = None


class JointReader:
    """Takes the state, or the recorded action, out of the messages of the streams that have it."""

    def __init__(
        self,
        topic_map: TopicMap,
        embodiment: Embodiment,
        limits: Mapping[str, JointLimit],
        kind: KeyKind = KeyKind.STATE,
    ) -> None:
        """Make a codec per key; ConfigError as for the recorder."""
        self._codecs: dict[str, list[tuple[str, tuple[str, ...], VectorCodec]]] = {}
        rows = []
        commanded = {name for key in embodiment.action_keys for name in embodiment.action[key].names}
        for key, binding in (topic_map.state if kind is KeyKind.STATE else topic_map.action).items():
            declared = embodiment.vectors(kind)[key]
            config = topic_map.streams[binding.stream]
            codec = VectorCodec(str(KeyRef(kind, key)), config.type, binding, declared)
            self._codecs.setdefault(binding.stream, []).append((key, declared.names, codec))
            rows += [_row(key, name, declared.unit, name in commanded, limits.get(name)) for name in declared.names]
        self.rows = tuple(rows)
        self.streams = tuple(self._codecs)

    def read(self, stream: str, message: Any) -> dict[str, float]:
        """Return the channels in a message by `key.name`; those that cannot be used are left out."""
        return {f"{key}.{name}": value for key, name, value in self._values(stream, message)}

    def read_names(self, stream: str, message: Any) -> dict[str, float]:
        """Return the channels in a message by name."""
        return {name: value for _, name, value in self._values(stream, message)}

    def _values(self, stream: str, message: Any) -> Iterator[tuple[str, str, float]]:
        for key, names, codec in self._codecs.get(stream, ()):
            try:
                channels = codec.decode(message) if codec.matches(message) else None
            except ObservationError:
                continue  # the status of the node says what is wrong with it
            if channels is not None:
                for index, value in zip(channels.indices, channels.values.tolist(), strict=True):
                    yield key, names[index], value


def _row(key: str, name: str, unit: str, is_commanded: bool, limit: JointLimit | None) -> JointRow:
    if limit is None:
        return JointRow(key, name, unit, is_commanded)
    return JointRow(key, name, unit, is_commanded, _finite(limit.min), _finite(limit.max), _finite(limit.max_velocity))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
