# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Joint limits out of a URDF.

A URDF knows positions and velocities, no accelerations: those come from `limits.yaml`. Effort is not looked at.
"""

from __future__ import annotations

import logging
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gr00t_policy_node.limits import JointLimit
from gr00t_recorder.topics.units import si_factor
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError

logger = logging.getLogger(__name__)

_MOVING = ("revolute", "prismatic", "continuous")


def limits_from_urdf(xml: str) -> Mapping[str, JointLimit]:
    """Return the limits of all revolute, prismatic and continuous joints by name [rad or m, per second].

    Soft limits of a safety controller count where they are narrower. A joint that others mimic is limited so that these
    stay within their limits too. Joints without a usable limit are left out with a warning, so that they are refused by
    name if they are to be commanded.

    Raises:
        ConfigError: the text is no URDF, or holds a value that is no number; names the joint.
    """
    joints = {}
    for element in _robot(xml).iterfind("joint"):
        joint = _joint(element)
        if joint is None:
            continue
        if joint.name in joints:
            raise ConfigError(f"URDF: joint '{joint.name}' stands twice; a joint has one entry")
        joints[joint.name] = joint
    limits = {name: joint.limit for name, joint in joints.items() if joint.limit is not None}
    for joint in joints.values():
        if joint.mimics is not None:
            _narrow(limits, joint, joints)
    return limits


def channel_limits(joints: Mapping[str, JointLimit], embodiment: Embodiment) -> dict[str, JointLimit]:
    """Return the limits of those joints that are action channels, in the channels' units."""
    units = {name: vector.unit for vector in embodiment.action.values() for name in vector.names}
    return {name: _scaled(joints[name], 1.0 / si_factor(unit)) for name, unit in units.items() if name in joints}


def _scaled(limit: JointLimit, factor: float) -> JointLimit:
    return replace(limit, min=limit.min * factor, max=limit.max * factor, max_velocity=limit.max_velocity * factor)


@dataclass(frozen=True)
class _Joint:
    name: str
    limit: JointLimit | None
    mimics: str | None = None  # its position is multiplier * position of that joint + offset
    multiplier: float = 1.0
    offset: float = 0.0


def _robot(xml: str) -> ET.Element:
    # entities are not needed in a URDF, and could be made to fill the memory
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ConfigError("URDF: has a document type or entities, expected plain XML; expand them first")
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise ConfigError(f"URDF: not valid XML ({error}); check the robot description") from error
    if root.tag != "robot":
        raise ConfigError(f"URDF: the outermost element is <{root.tag}>, expected <robot>; convert SDF or MJCF first")
    return root


def _joint(element: ET.Element) -> _Joint | None:
    name, kind = element.get("name", ""), element.get("type", "")
    if kind not in _MOVING:
        return None
    if not name:
        raise ConfigError(f"URDF: a {kind} joint has no name; every joint needs one")
    mimic = element.find("mimic")
    if mimic is None:
        return _Joint(name, _limit(element, name, kind))
    master = mimic.get("joint")
    if not master:
        raise ConfigError(f"URDF: joint '{name}': its mimic names no joint")
    multiplier, offset = _number(mimic, "multiplier", name, 1.0), _number(mimic, "offset", name, 0.0)
    return _Joint(name, _limit(element, name, kind), master, multiplier, offset)


def _limit(element: ET.Element, name: str, kind: str) -> JointLimit | None:
    limit = element.find("limit")
    velocity = 0.0 if limit is None else _number(limit, "velocity", name, 0.0)
    if limit is None or velocity <= 0.0:
        logger.warning("URDF: joint '%s' has no velocity limit; give it one in limits.yaml to command it", name)
        return None
    if kind == "continuous":
        return JointLimit(min=-math.inf, max=math.inf, max_velocity=velocity, endless=True)
    low, high = _number(limit, "lower", name, 0.0), _number(limit, "upper", name, 0.0)
    soft = element.find("safety_controller")
    # absent or both zero: not set
    if soft is not None and (soft_range := _soft_range(soft, name)) != (0.0, 0.0):
        low, high = max(low, soft_range[0]), min(high, soft_range[1])
    if not low < high:
        logger.warning("URDF: joint '%s' cannot move between %g and %g; it has no limits", name, low, high)
        return None
    return JointLimit(min=low, max=high, max_velocity=velocity)


def _soft_range(soft: ET.Element, name: str) -> tuple[float, float]:
    return _number(soft, "soft_lower_limit", name, 0.0), _number(soft, "soft_upper_limit", name, 0.0)


def _number(element: ET.Element, attribute: str, joint: str, absent: float) -> float:
    text = element.get(attribute)
    if text is None:
        return absent
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"URDF: joint '{joint}': {element.tag} {attribute} is '{text}', expected a number; run xacro first"
        )
    return value


def _narrow(limits: dict[str, JointLimit], joint: _Joint, joints: Mapping[str, _Joint]) -> None:
    """Limit the joint that `joint` mimics so that `joint` stays within its own limits."""
    assert joint.mimics is not None
    if joint.mimics not in joints:
        raise ConfigError(f"URDF: joint '{joint.name}' mimics '{joint.mimics}', which is no moving joint")
    own, master = limits.get(joint.name), limits.get(joint.mimics)
    if own is None or master is None or joint.multiplier == 0.0:
        return
    ends = sorted(((own.min - joint.offset) / joint.multiplier, (own.max - joint.offset) / joint.multiplier))
    speed = min(master.max_velocity, own.max_velocity / abs(joint.multiplier))
    if master.endless:
        limits[joint.mimics] = replace(master, max_velocity=speed)
        return
    low, high = max(master.min, ends[0]), min(master.max, ends[1])
    if not low < high:
        raise ConfigError(
            f"URDF: joint '{joint.mimics}' may be {master.min:g} to {master.max:g}, but '{joint.name}', which mimics "
            f"it, allows {ends[0]:g} to {ends[1]:g} only; correct the limits or the multiplier"
        )
    limits[joint.mimics] = replace(master, min=low, max=high, max_velocity=speed)
