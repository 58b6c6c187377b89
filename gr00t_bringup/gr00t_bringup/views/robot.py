# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One robot as views show it: its topic map, its channels with limits, and how to read its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gr00t_bringup.controls import POSE_COMMAND, Control, control_of
from gr00t_bringup.views.joints import JointReader, JointRow
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_policy_node.urdf import channel_limits, read_urdf
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_training.embodiment import Embodiment
from gr00t_training.settings import load_settings
from gr00t_training.types import KeyKind


@dataclass(frozen=True)
class ViewedRobot:
    """What is read of a robot's files."""

    topic_map: TopicMap
    embodiment: Embodiment
    state: JointReader
    action: JointReader  # what the recorder takes as the action: a leader, or commands
    controls: tuple[Control, ...]  # commands that topics carry; goals of actions cannot be heard

    @property
    def rows(self) -> tuple[JointRow, ...]:
        """Channels of the state, then those that only the action has."""
        known = {row.name for row in self.state.rows}
        return (*self.state.rows, *(row for row in self.action.rows if row.name not in known))

    @property
    def units(self) -> Mapping[str, str]:
        """Units of the action's channels, by name."""
        return {name: key.unit for key in self.embodiment.action.values() for name in key.names}


def load_viewed_robot(topics: Path, limits: Path | None = None, urdf: str = "") -> ViewedRobot:
    """Read a robot's files.

    Args:
        topics: topic map.
        limits: limits; None: those of the URDF only.
        urdf: text of a URDF; empty: none.

    Raises:
        ConfigError: a file cannot be read; names it.
    """
    topic_map, embodiment = load_topic_map(topics)
    described = channel_limits(read_urdf(urdf).limits, embodiment) if urdf else {}
    file = load_settings(LimitsFile, limits) if limits else LimitsFile()
    by_channel = file.limits(described)
    heard = [each for each in topic_map.commands if "/action/" not in each.type and each.type != POSE_COMMAND]
    return ViewedRobot(
        topic_map,
        embodiment,
        JointReader(topic_map, embodiment, by_channel),
        JointReader(topic_map, embodiment, by_channel, KeyKind.ACTION),
        tuple(control_of(config, embodiment, {}) for config in heard),
    )
