# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check the files of a robot against each other: keys, message types, commands, limits, poses."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from gr00t_policy_node.control.setup import ControlSetup
from gr00t_policy_node.observing import input_map, skew_warning
from gr00t_policy_node.onboard.findings import Finding, Level
from gr00t_policy_node.onboard.robot_files import RobotFiles
from gr00t_policy_node.safety.limits import JointLimit, LimitsFile
from gr00t_policy_node.urdf import UrdfLimits, channel_limits
from gr00t_recorder.topics.bindings import TopicMap, key_problems
from gr00t_recorder.topics.inputs import type_problems
from gr00t_recorder.topics.units import is_rate
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError

PERIOD_S = 0.01  # of a control tick; whether limits fit does not depend on it
POSE = "pose"  # any name


def check_agreement(files: RobotFiles, urdf: UrdfLimits | None = None) -> list[Finding]:
    """Return what does not fit between topic map, embodiment, limits and the robot's description."""
    findings: list[Finding] = []
    if files.topic_map is not None and files.embodiment is not None:
        findings += _topics(files, files.topic_map, files.embodiment)
    if files.embodiment is not None:
        limits = files.limits or LimitsFile()
        findings += _limits(files, files.embodiment, limits, urdf or UrdfLimits())
    return findings


def all_limits(files: RobotFiles, urdf: UrdfLimits | None = None) -> dict[str, JointLimit]:
    """Return the limits by channel, of file and description together."""
    if files.embodiment is None:
        return {}
    described = channel_limits((urdf or UrdfLimits()).limits, files.embodiment)
    return (files.limits or LimitsFile()).limits(described)


def _topics(files: RobotFiles, topic_map: TopicMap, embodiment: Embodiment) -> Iterator[Finding]:
    problems = list(key_problems(topic_map, embodiment))
    for place, text in problems:
        yield files.topics.finding(Level.FAULT, text, *place)
    if not problems:
        for ref, text in type_problems(topic_map, embodiment):
            yield files.topics.finding(Level.FAULT, text, ref.kind.value, ref.key)
        warning = skew_warning(input_map(topic_map))
        if warning:
            yield files.topics.finding(Level.WARNING, warning, "max_skew_s")
    used = {binding.stream for binding in topic_map.bindings.values()}
    used |= {text.stream for text in (topic_map.task, topic_map.events) if text}
    for name in topic_map.streams:
        if name not in used:
            yield files.topics.finding(Level.WARNING, f"stream '{name}' is not used by any key", "streams", name)
    if not topic_map.commands:
        text = (
            "no 'commands': a policy can be tried with dry_run, but moves nothing; name the topics of the controllers"
        )
        yield files.topics.finding(Level.WARNING, text, "commands")
        return
    commanded = {key for command in topic_map.commands for key in command.keys or embodiment.action_keys}
    for key in embodiment.action_keys:
        if key not in commanded:
            text = f"action key '{key}' is in no command: a policy's values for it go nowhere"
            yield files.topics.finding(Level.WARNING, text, "commands")


def _limits(files: RobotFiles, embodiment: Embodiment, limits: LimitsFile, urdf: UrdfLimits) -> Iterator[Finding]:
    file = files.limits_file
    described = channel_limits(urdf.limits, embodiment)
    found = limits.limits(described)
    produced = [name for key in embodiment.action_keys for name in embodiment.action[key].names]
    declared = {name for vector in (*embodiment.action.values(), *embodiment.state.values()) for name in vector.names}
    if not file.text and not described:
        text = "no limits: a policy cannot command a robot without; write limits.yaml, or name a URDF (--urdf)"
        yield Finding(Level.FAULT, file.name, 0, text)
        return
    is_complete = True
    for name in produced:
        if name not in found:
            is_complete = False
            reason = f"; the URDF has none that can be used ({urdf.unusable[name]})" if name in urdf.unusable else ""
            text = f"joint '{name}' has no limits, expected min, max and max_velocity{reason}"
            yield file.finding(Level.FAULT, f"{text}{_similar(name, limits.joints)}", "joints")
    for name in limits.joints:
        if name not in declared:
            text = f"joint '{name}' is not a channel of embodiment '{embodiment.name}'{_similar(name, produced)}"
            yield file.finding(Level.WARNING, text, "joints", name)
    for name, text in limits.wider_than(described).items():
        yield file.finding(Level.WARNING, f"joint {text}: more than the URDF allows", "joints", name)
    yield from _channels(files, embodiment)
    if is_complete and all(_is_measured(embodiment, name) for name in produced):
        yield from _control(files, embodiment, limits, found)


def _control(
    files: RobotFiles, embodiment: Embodiment, limits: LimitsFile, found: Mapping[str, JointLimit]
) -> Iterator[Finding]:
    """Yield why the policy node would refuse complete limits, and each pose that it would."""
    poses = {("safe_pose",): limits.safe_pose, **{("poses", name): pose for name, pose in limits.poses.items()}}
    for place, pose in {("joints",): {}, **poses}.items():
        try:
            ControlSetup(embodiment, found, PERIOD_S, poses={POSE: pose} if pose else None)
        except ConfigError as error:
            text = str(error).removeprefix(f"poses: '{POSE}': ")
            channel = next((name for name in (pose or found) if f"'{name}'" in text), "")
            yield files.limits_file.finding(Level.FAULT, f"{'.'.join(place)}: {text}", *place, channel)
            if not pose:
                return  # the poses would be refused for the same reason


def _channels(files: RobotFiles, embodiment: Embodiment) -> Iterator[Finding]:
    measured = [name for vector in embodiment.state.values() for name in vector.names]
    for key in embodiment.action_keys:
        for name in embodiment.action[key].names:
            if not _is_measured(embodiment, name):
                text = (
                    f"action channel '{name}' has no state channel of that name, so its first command cannot start at "
                    f"the measured pose; use the same names for both{_similar(name, measured)}"
                )
                yield files.embodiment_file.finding(Level.FAULT, text, "action", key, "names")


def _is_measured(embodiment: Embodiment, name: str) -> bool:
    vector = next(vector for vector in embodiment.action.values() if name in vector.names)
    return is_rate(vector.unit) or any(name in state.names for state in embodiment.state.values())


def _similar(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close and close[0] != name else ""
