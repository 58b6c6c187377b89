# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Joints of a URDF and their limits. Public files have errors: one wrong joint does not make the others unusable.

A URDF has positions and velocities, no accelerations: those come from `limits.yaml`. Effort is not read. The text is
read as a stream: entities are refused, and only joints are kept.
"""

from __future__ import annotations

import codecs
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.parsers import expat

from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.topics.units import si_factor
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import open_regular
from gr00t_training.io.text import printable

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 16 * 2**20  # of a URDF; the largest published ones have 1 MB
# Widest range and highest speed of a joint that are taken: more are in a wrong unit, or stand for "no limit".
MAX_SPAN = {"revolute": 8 * math.pi, "prismatic": 20.0, "continuous": 8 * math.pi}  # [rad, m]
MAX_SPEED = {"revolute": 100.0, "prismatic": 20.0, "continuous": 1000.0}  # [rad/s, m/s]
MAX_SHOWN = 20  # joints in one warning
_MOVING = ("revolute", "prismatic", "continuous")
_PARTS = ("limit", "mimic", "safety_controller", "origin", "parent", "child", "axis")


@dataclass(frozen=True)
class UrdfLimits:
    """What a URDF says about its moving joints."""

    limits: Mapping[str, JointLimit] = field(default_factory=dict)  # [rad or m, per second]
    unusable: Mapping[str, str] = field(default_factory=dict)  # joint -> why its limits cannot be used

    @property
    def warning(self) -> str:
        """One line about all joints with unusable limits; empty if there are none."""
        if not self.unusable:
            return ""
        shown = [f"'{name}' ({reason})" for name, reason in list(self.unusable.items())[:MAX_SHOWN]]
        more = len(self.unusable) - len(shown)
        return f"URDF: no usable limits for {', '.join(shown)}{f' and {more} more' if more else ''}"

    def refuse_unusable(self, names: Sequence[str], limits: Mapping[str, JointLimit]) -> None:
        """Refuse commanded joints that have only unusable limits.

        Args:
            names: commanded channels.
            limits: by channel, of all sources.

        Raises:
            ConfigError: names the joint and what is wrong with it in the URDF.
        """
        for name in names:
            if name not in limits and name in self.unusable:
                raise ConfigError(
                    f"limits: joint '{name}' has no usable limits in the URDF ({self.unusable[name]}); "
                    "give it min, max and max_velocity in limits_file"
                )


def limits_from_urdf(xml: str) -> Mapping[str, JointLimit]:
    """Return the limits of `read_urdf`, with one warning for all joints that have none."""
    found = read_urdf(xml)
    if found.warning:
        logger.warning(found.warning)
    return found.limits


def read_description(path: str | Path) -> str:
    """Return the text of a URDF file; ConfigError when it cannot be read.

    Bytes that are not UTF-8 are replaced: many files have them in comments, none in the names of joints.
    """
    with open_regular(Path(path).expanduser(), ConfigError, MAX_CHARACTERS) as file:
        content = file.read(MAX_CHARACTERS)
    is_utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return content.decode("utf-16" if is_utf16 else "utf-8", errors="replace")


def read_urdf(xml: str) -> UrdfLimits:
    """Return the limits of all revolute, prismatic and continuous joints by name [rad or m, per second].

    Soft limits of a safety controller count where they are narrower. A joint that others mimic is limited so that these
    stay within their limits too, unless that contradicts its own. Joints without a usable limit are returned with
    the reason, so that they are refused only if they are to be commanded.

    Raises:
        ConfigError: the text is not a URDF.
    """
    elements = joint_elements(xml)
    joints: dict[str, _Joint] = {}
    unusable: dict[str, str] = {}
    counts = Counter(element.name for element in elements)
    for element in elements:
        if element.kind not in _MOVING or not element.name:
            continue
        try:
            if counts[element.name] > 1:
                raise ValueError("it is defined more than once")
            joints[element.name] = _joint(element)
        except ValueError as error:
            unusable[element.name] = str(error)
    limits = {name: joint.limit for name, joint in joints.items()}
    for joint in joints.values():
        try:
            _follow(joint, joints, counts.keys(), limits)
        except ValueError as error:
            unusable[joint.name] = str(error)
            del limits[joint.name]
    return UrdfLimits(limits, {printable(name): printable(reason) for name, reason in unusable.items()})


def channel_limits(joints: Mapping[str, JointLimit], embodiment: Embodiment) -> dict[str, JointLimit]:
    """Return the limits of those joints that are action channels, in the channels' units."""
    units = {name: vector.unit for vector in embodiment.action.values() for name in vector.names}
    return {name: _scaled(joints[name], 1.0 / si_factor(unit)) for name, unit in units.items() if name in joints}


def _scaled(limit: JointLimit, factor: float) -> JointLimit:
    return replace(limit, min=limit.min * factor, max=limit.max * factor, max_velocity=limit.max_velocity * factor)


@dataclass
class JointElement:
    """A joint as the text has it."""

    name: str
    kind: str
    parts: dict[str, dict[str, str]] = field(default_factory=dict)  # tag -> attributes


@dataclass(frozen=True)
class _Joint:
    name: str
    limit: JointLimit
    leader: str | None = None  # its position is multiplier * position of that joint + offset
    multiplier: float = 1.0
    offset: float = 0.0


class _Reader:
    """Collects the joints that are children of the outermost element, and nothing else."""

    def __init__(self) -> None:
        self.joints: list[JointElement] = []
        self._path: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "robot":
            name = printable(tag)
            raise ConfigError(f"URDF: the outermost element is <{name}>, expected <robot>; convert SDF or MJCF first")
        if len(self._path) == 1 and tag == "joint":
            self.joints.append(JointElement(attributes.get("name", "").strip(), attributes.get("type", "").strip()))
        elif len(self._path) == 2 and self._path[1] == "joint" and tag in _PARTS:
            self.joints[-1].parts.setdefault(tag, attributes)
        self._path.append(tag)

    def end(self, tag: str) -> None:
        self._path.pop()

    def refuse_entity(self, *_: object) -> None:
        # not needed in a URDF, and could be made to fill the memory
        raise ConfigError("URDF: has entities, expected plain XML; expand them first")


def joint_elements(xml: str) -> list[JointElement]:
    """Return all joints as the text has them; ConfigError when it is not a URDF."""
    if len(xml) > MAX_CHARACTERS:
        raise ConfigError(f"URDF: has {len(xml)} characters (limit {MAX_CHARACTERS}); is it the right text?")
    reader, parser = _Reader(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.EntityDeclHandler = reader.refuse_entity
    try:
        parser.Parse(xml.lstrip("\ufeff \t\r\n"), True)
    except (expat.ExpatError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"URDF: not valid XML ({error}); check the robot description") from error
    return reader.joints


def _joint(element: JointElement) -> _Joint:
    """Return a moving joint; ValueError says why its limits cannot be used."""
    limit = _limit(element)
    mimic = element.parts.get("mimic")
    if mimic is None:
        return _Joint(element.name, limit)
    leader = mimic.get("joint", "").strip()
    if not leader:
        raise ValueError("its mimic names no joint")
    return _Joint(element.name, limit, leader, _number(mimic, "multiplier", 1.0), _number(mimic, "offset", 0.0))


def _limit(element: JointElement) -> JointLimit:
    limit = element.parts.get("limit")
    velocity = 0.0 if limit is None else _number(limit, "velocity", 0.0)
    if limit is None or velocity <= 0.0:
        raise ValueError("it has no velocity limit")
    if velocity > MAX_SPEED[element.kind]:
        raise ValueError(f"velocity {velocity:g} is too high for a limit; expected {_UNITS[element.kind]} per second")
    low, high = _number(limit, "lower", 0.0), _number(limit, "upper", 0.0)
    if element.kind == "continuous" and not low < high:
        return JointLimit(min=-math.inf, max=math.inf, max_velocity=velocity, endless=True)
    soft = element.parts.get("safety_controller")
    if soft is not None:
        soft_low, soft_high = _number(soft, "soft_lower_limit", 0.0), _number(soft, "soft_upper_limit", 0.0)
        if (soft_low, soft_high) != (0.0, 0.0):  # absent or both zero: not set
            low, high = max(low, soft_low), min(high, soft_high)
    if not low < high:
        raise ValueError(f"lower {low:g} is not below upper {high:g}")
    if high - low > MAX_SPAN[element.kind]:
        raise ValueError(f"{low:g} to {high:g} is too wide; expected {_UNITS[element.kind]}")
    return JointLimit(min=low, max=high, max_velocity=velocity)


_UNITS = {"revolute": "rad, not degrees", "continuous": "rad, not degrees", "prismatic": "m, not mm"}


def _number(attributes: Mapping[str, str], name: str, absent: float) -> float:
    text = attributes.get(name)
    if text is None:
        return absent
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is '{text}', expected a number; run xacro first")
    return value


def _follow(joint: _Joint, joints: Mapping[str, _Joint], names: Collection[str], limits: dict[str, JointLimit]) -> None:
    """Limit the joint that `joint` mimics, directly or through others, so that `joint` stays within its own limits.

    ValueError where it cannot, since leader and follower contradict each other.
    """
    multiplier, offset, current, seen = 1.0, 0.0, joint, {joint.name}
    while current.leader is not None:
        multiplier, offset = multiplier * current.multiplier, multiplier * current.offset + offset
        leader = joints.get(current.leader)
        if leader is None:
            what = "cannot be used or does not move" if current.leader in names else "is not in this URDF"
            raise ValueError(f"it mimics '{current.leader}', which {what}")
        if leader.name in seen:
            raise ValueError(f"it mimics '{current.leader}', which mimics it")
        seen.add(leader.name)
        current = leader
    own, first = limits[joint.name], limits.get(current.name)
    if current is joint or first is None or multiplier == 0.0:
        return
    speed = min(first.max_velocity, own.max_velocity / abs(multiplier))
    limits[current.name] = first = replace(first, max_velocity=speed)
    if first.endless or own.endless:
        return
    ends = sorted(((own.min - offset) / multiplier + 0.0, (own.max - offset) / multiplier + 0.0))
    low, high = max(first.min, ends[0]), min(first.max, ends[1])
    if not low < high:
        raise ValueError(
            f"it mimics '{current.name}', which may be {first.min:g} to {first.max:g}, but allows {ends[0]:g} to "
            f"{ends[1]:g} only"
        )
    limits[current.name] = replace(first, min=low, max=high)
