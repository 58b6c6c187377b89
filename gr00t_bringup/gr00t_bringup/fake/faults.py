# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Wrong wiring, played on purpose: what the suite says about it can be seen without a robot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from gr00t_bringup.fake.plan import RobotPlan, VectorStream


class Fault(str, Enum):
    """What is wrong with the wiring."""

    NONE = "none"
    SWAPPED_TOPICS = "swapped_topics"  # topics of one type carry each other's messages
    MISSING_JOINT = "missing_joint"  # the last joint of each message is left out
    DEGREES = "degrees"  # angles are in degrees
    JOINT_ORDER = "joint_order"  # joints in reverse order, with their names: no fault, since joints go by name
    NO_NAMES = "no_names"  # joint states without names
    ENCODING = "encoding"  # images in an encoding that nobody reads
    STALE_CLOCK = "stale_clock"  # stamps are 10 s behind


def joint_values(stream: VectorStream, numbers: Sequence[float], fault: Fault) -> tuple[list[str], list[float]]:
    """Return names and values of a message with a fault; `numbers` are those without."""
    names, values = list(stream.names), list(numbers)
    if fault is Fault.DEGREES:
        values = [
            math.degrees(value) if entry.unit == "rad" else value
            for entry, value in zip(stream.entries, values, strict=True)
        ]
    if fault is Fault.JOINT_ORDER:
        names.reverse()
        values.reverse()
    if fault is Fault.MISSING_JOINT:
        last = max(i for i, entry in enumerate(stream.entries) if entry.channel)
        del values[last]
        del names[last : last + 1]
    return [] if fault is Fault.NO_NAMES else names, values


def swapped(plan: RobotPlan, name: str) -> str:
    """Return the robot's next stream of the same type, itself if there is none; leaders keep their place."""
    streams = {**{each: stream for each, stream in plan.vectors.items() if not stream.is_leader}, **plan.cameras}
    if name not in streams:
        return name
    alike = [other for other in streams if streams[other].config.type == streams[name].config.type]
    return alike[(alike.index(name) + 1) % len(alike)]


def can_swap(plan: RobotPlan) -> bool:
    """Whether any two topics of the robot have the same type."""
    return any(swapped(plan, name) != name for name in (*plan.vectors, *plan.cameras))
