# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a robot's driver publishes and takes, derived from its topic map.

The topic map says which numbers of which message belong to which channel, so a fake driver needs no second list. Only
what a driver does beyond it is written down, in `driver.yaml`: rates, further joints of a message, the pose at the
start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gr00t_bringup.controls import ARRAY, POSE_COMMAND, Control, control_of
from gr00t_policy_node.safety.limits import JointLimit, LimitsFile
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap, VectorBinding, load_topic_map
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE
from gr00t_recorder.topics.units import is_rate, unit_factor
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.settings import load_settings, setting

JOINT_STATE = "sensor_msgs/msg/JointState"
STREAM_TYPES = (JOINT_STATE, ARRAY, IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)
DEFAULT_RATE_HZ = 50.0


@dataclass(frozen=True)
class DriverFile:
    """Content of `driver.yaml`."""

    rates_hz: Mapping[str, float] = setting(
        default_factory=dict,
        description="Messages per second by stream [Hz]; absent: 50, for cameras the rate of the embodiment.",
    )
    names: Mapping[str, tuple[str, ...]] = setting(
        default_factory=dict,
        description="Joints of a stream's messages in their order, by stream; absent: those that the topic map uses.",
    )
    start: Mapping[str, float] = setting(
        default_factory=dict,
        description="Values at the start by state channel [its unit]; absent: closest to zero within limits.",
    )
    lag_s: float = setting(0.1, "Time constant with which joints follow commands [s].", ge=0.001, le=10.0)
    timeout_s: float = setting(0.5, "Time without a command after which rates return to zero [s].", ge=0.01, le=10.0)


@dataclass(frozen=True)
class Entry:
    """One number of a message: the channel's value is the number times `scale` plus `offset`."""

    channel: str  # empty: bound to nothing
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""  # in the message


@dataclass(frozen=True)
class VectorStream:
    """A topic with joints, of the robot or of its leader."""

    config: StreamConfig
    rate_hz: float
    names: tuple[str, ...]  # empty: the message has none
    entries: tuple[Entry, ...]
    is_leader: bool

    def describe(self) -> str:
        """Return one line for the table."""
        who = "leader: " if self.is_leader else ""
        return f"publishes {_shown(self.config, self.rate_hz)}: {who}{', '.join(self.names) or len(self.entries)}"


@dataclass(frozen=True)
class CameraStream:
    """A topic with images."""

    config: StreamConfig
    rate_hz: float
    key: str
    height: int
    width: int

    def describe(self) -> str:
        """Return one line for the table."""
        return f"publishes {_shown(self.config, self.rate_hz)}: {self.width}x{self.height}"


@dataclass(frozen=True)
class RobotPlan:
    """Everything that a fake robot does."""

    embodiment: Embodiment
    vectors: Mapping[str, VectorStream]  # by stream
    cameras: Mapping[str, CameraStream]
    controls: tuple[Control, ...]
    start: Mapping[str, float]  # by channel, state and action
    rates: frozenset[str]  # channels that are commanded as rates
    driven: frozenset[str]  # those of them whose state is a position
    limits: Mapping[str, JointLimit]
    lag_s: float
    timeout_s: float

    def describe(self) -> list[str]:
        """Return the table of topics, types, rates, joints and control modes, one line each."""
        return [item.describe() for item in (*self.vectors.values(), *self.cameras.values(), *self.controls)]


def load_plan(topics_file: Path, limits_file: Path | None = None, driver_file: Path | None = None) -> RobotPlan:
    """Read a robot's files and derive what its driver does.

    Args:
        topics_file: topic map.
        limits_file: limits, which the driver enforces; None: any command is taken.
        driver_file: what it does beyond the topic map; None: nothing.

    Raises:
        ConfigError: a file cannot be read, or a topic cannot be played; names it.
    """
    topic_map, embodiment = load_topic_map(topics_file)
    limits = load_settings(LimitsFile, limits_file).joints if limits_file else {}
    driver = load_settings(DriverFile, driver_file) if driver_file else DriverFile()
    return make_plan(topic_map, embodiment, limits, driver)


def make_plan(
    topic_map: TopicMap, embodiment: Embodiment, limits: Mapping[str, JointLimit], driver: DriverFile
) -> RobotPlan:
    """Derive what a robot's driver does; ConfigError names a topic that cannot be played, or a wrong name."""
    controls = tuple(_controls(topic_map, embodiment, limits))
    vectors = _vector_streams(topic_map, embodiment, driver)
    cameras = {
        binding.stream: CameraStream(
            topic_map.streams[binding.stream],
            driver.rates_hz.get(binding.stream, float(embodiment.fps)),
            key,
            embodiment.video[key].height,
            embodiment.video[key].width,
        )
        for key, binding in topic_map.video.items()
    }
    for name in (*vectors, *cameras):
        if topic_map.streams[name].type not in STREAM_TYPES:
            raise ConfigError(
                f"stream '{name}': {topic_map.streams[name].type} cannot be played; expected one of "
                f"{', '.join(STREAM_TYPES)}"
            )
    if topic_map.depth:
        raise ConfigError(f"depth.{next(iter(topic_map.depth))}: depth cameras cannot be played; leave them out")
    channels = [name for kind in (embodiment.state, embodiment.action) for key in kind.values() for name in key.names]
    rates = _channels(embodiment.action.values(), are_rates=True)
    _refuse_unknown("rates_hz", driver.rates_hz, [*vectors, *cameras])
    _refuse_unknown("names", driver.names, list(vectors))
    _refuse_unknown("start", driver.start, channels)
    return RobotPlan(
        embodiment=embodiment,
        vectors=vectors,
        cameras=cameras,
        controls=controls,
        start={name: driver.start.get(name, _nearest_to_zero(limits.get(name))) for name in channels},
        rates=rates,
        driven=rates & _channels(embodiment.state.values(), are_rates=False),
        limits=limits,
        lag_s=driver.lag_s,
        timeout_s=driver.timeout_s,
    )


def _controls(topic_map: TopicMap, embodiment: Embodiment, limits: Mapping[str, JointLimit]) -> Iterator[Control]:
    recorded = {topic_map.streams[binding.stream].topic for binding in topic_map.action.values()}
    for config in topic_map.commands:
        if config.topic in recorded:
            continue  # for the recorder
        if config.type == POSE_COMMAND:
            raise ConfigError(f"command '{config.topic}': {POSE_COMMAND} cannot be played; it needs kinematics")
        yield control_of(config, embodiment, limits)


def _vector_streams(topic_map: TopicMap, embodiment: Embodiment, driver: DriverFile) -> dict[str, VectorStream]:
    """Return the streams of the state, and those of the action that no command goes to: a leader's."""
    commanded = {config.topic for config in topic_map.commands}
    found: dict[str, VectorStream] = {}
    for is_leader, bindings, keys in (
        (False, topic_map.state, embodiment.state),
        (True, topic_map.action, embodiment.action),
    ):
        for name in dict.fromkeys(binding.stream for binding in bindings.values()):
            config = topic_map.streams[name]
            if name in found or config.topic in commanded:
                continue
            bound = [(binding, keys[key]) for key, binding in bindings.items() if binding.stream == name]
            by_place: dict[int, Entry] = {}
            by_name: dict[str, Entry] = {}
            for binding, key in bound:
                if binding.fields or binding.field not in ("", "position", "data"):
                    raise ConfigError(f"stream '{name}': field '{binding.field or binding.fields[0]}' cannot be played")
                entries = [_entry(binding, channel, key.unit) for channel in key.names]
                by_place.update(enumerate(entries, binding.start))
                by_name.update(zip(binding.select or key.names, entries, strict=True))
            is_named = config.type == JOINT_STATE and not any(binding.by_index for binding, _ in bound)
            names = (driver.names.get(name) or tuple(by_name)) if is_named else ()
            missing = [each for each in by_name if each not in names] if is_named else []
            if missing:
                raise ConfigError(f"driver file: names.{name}: '{missing[0]}' of the topic map is not in it; add it")
            listed = [by_name.get(each, Entry("")) for each in names]
            numbered = [by_place.get(place, Entry("")) for place in range(max(by_place) + 1)]
            entries = listed if is_named else numbered
            rate_hz = driver.rates_hz.get(name, DEFAULT_RATE_HZ)
            found[name] = VectorStream(config, rate_hz, names, tuple(entries), is_leader)
    return found


def _channels(keys: Iterable[VectorKey], *, are_rates: bool) -> frozenset[str]:
    return frozenset(name for key in keys if is_rate(key.unit) is are_rates for name in key.names)


def _entry(binding: VectorBinding, channel: str, unit: str) -> Entry:
    factor = unit_factor(binding.unit, unit) if binding.unit else 1.0
    return Entry(channel, factor * binding.scale, binding.offset, binding.unit or unit)


def _nearest_to_zero(limit: JointLimit | None) -> float:
    return 0.0 if limit is None else min(max(0.0, limit.min), limit.max)


def _refuse_unknown(field: str, given: Mapping[str, object], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(f"driver file: {field}: '{unknown[0]}' is unknown, expected one of {', '.join(known)}")


def _shown(config: StreamConfig, rate_hz: float) -> str:
    return f"{config.topic} ({config.type}, {rate_hz:g} Hz)"
