# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the first embodiment, topic map and limits file of a robot from what is known about it.

What was guessed is marked with CHECK in the files; what a person has answered is not. The files load as they are.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gr00t_recorder.bag.suggest_vectors import LEADER_WORDS, Part, is_commandable
from gr00t_recorder.topics.bindings import TopicMap, check_keys
from gr00t_recorder.topics.commands import COMMAND_TYPES
from gr00t_training.embodiment import Embodiment, Interpolation, Normalization, VectorKey, VideoKey
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable
from gr00t_training.settings import parse_settings

FILES = ("embodiment.yaml", "topics.yaml", "limits.yaml")
RANGE_MARGIN = 0.05  # of a channel's observed range, added on both sides
MIN_MARGIN = 0.02  # [unit of the channel]
SPEED_MARGIN = 1.2
MIN_SPEED = 0.1  # [unit of the channel / s]
ACCELERATION_PER_VELOCITY = 5.0  # [1/s]
SLIDING_RANGE = 0.12  # [m]; fingers that turn move by more [rad]
MAX_LISTED = 40  # topics in a comment
PLAIN = re.compile(r"[A-Za-z_/~][\w./~-]*")
RESERVED = ("on", "off", "yes", "no", "y", "n", "true", "false", "null", "none")

Range = tuple[float, float, float]  # least, greatest, fastest per second


@dataclass(frozen=True)
class Camera:
    """A color camera."""

    key: str
    topic: str
    type: str
    height: int
    width: int
    is_resized: bool = False  # the topic's images may have another size


@dataclass(frozen=True)
class Stream:
    """Entry under streams."""

    name: str
    topic: str
    type: str
    entries: str = ""  # that follow topic and type
    check: str = ""  # what a person must look at


@dataclass(frozen=True)
class CommandAnswer:
    """Where actions go, as a person says it."""

    keys: tuple[str, ...]
    topic: str
    type: str


@dataclass(frozen=True)
class Answers:
    """What messages and files cannot say about a robot; empty: not answered, so guessed and marked."""

    name: str = ""
    rate_hz: int = 0
    gripper_unit: str = ""
    commands: tuple[CommandAnswer, ...] = ()
    limits: Mapping[str, Range] = field(default_factory=dict)  # by channel, from the robot's description
    limits_source: str = ""


@dataclass(frozen=True)
class Suggestion:
    """What is known about a robot."""

    source: str  # where from, as headings name it
    name: str
    rate_hz: int
    state: tuple[Part, ...]
    action: tuple[Part, ...]
    cameras: tuple[Camera, ...]
    streams: tuple[Stream, ...]
    texts: Mapping[str, Stream] = field(default_factory=dict)  # "task", "events"
    ranges: Mapping[str, Range] = field(default_factory=dict)  # of the action, by channel
    unused: tuple[tuple[str, str], ...] = ()  # topics and types
    listening: tuple[tuple[str, str], ...] = ()  # topics and actions on which commands are taken, with types
    known: Embodiment | None = None  # where a dataset has it
    checks: Mapping[tuple[str, str], str] = field(default_factory=dict)  # of its keys: what a person must look at

    @property
    def gripper_unit(self) -> str:
        """Likely unit of the grippers: m where fingers slide, else rad."""
        spans = [high - low for name, (low, high, _) in self.ranges.items() if name in self.gripper_channels]
        return "m" if spans and 0 < max(spans) <= SLIDING_RANGE else "rad"

    @property
    def gripper_channels(self) -> set[str]:
        """Channels of keys that are called grippers."""
        parts = (*self.state, *self.action)
        return {part.channels[i] for part in parts for key, at in part.groups().items() if is_gripper(key) for i in at}

    def uncommanded(self) -> list[tuple[str, ...]]:
        """Return the action keys, topic by topic, for which no topic is known that a policy can send to."""
        return [
            tuple(key for part in parts for key in part.groups())
            for _, parts in _by_topic(self.action)
            if not self._is_sent(parts)
        ]

    def _is_sent(self, parts: Sequence[Part]) -> bool:
        """Whether a policy can publish what was recorded on the topic of these parts."""
        if not parts[0].source.topic:
            return False
        source = parts[0].source
        places = [part.places[i] for part in parts for at in part.groups().values() for i in at]
        is_whole = source.is_named or places == list(range(source.width))
        is_measured = source.topic in {part.source.topic for part in self.state}
        return is_commandable(parts[0]) and is_whole and not is_measured


def joined(commanded: Range, measured: Range) -> Range:
    """Return the range of both, as fast as it was commanded."""
    return min(commanded[0], measured[0]), max(commanded[1], measured[1]), commanded[2]


def write_files(suggestion: Suggestion, answers: Answers, folder: Path) -> list[Path]:
    """Write the three files into `folder`; return their paths.

    Raises:
        ConfigError: a file exists already, or an answer does not fit the robot.
    """
    files = [folder / name for name in FILES]
    for file in files:
        if file.exists() or file.is_symlink():
            raise ConfigError(f"{file}: exists already; choose another folder")
    texts = file_texts(suggestion, answers)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def file_texts(suggestion: Suggestion, answers: Answers) -> tuple[str, str, str]:
    """Return the texts of `FILES`.

    Raises:
        ConfigError: an answer does not fit the robot.
    """
    embodiment = _embodiment(suggestion, answers)
    _check_commands(answers.commands, embodiment)
    described = _embodiment_text(suggestion, answers, embodiment)
    topics = _topics_text(suggestion, answers, with_commands=True)
    try:
        _check(described, topics)
    except ConfigError:  # the recorded commands cannot be sent by a policy
        if answers.commands:
            raise
        topics = _topics_text(suggestion, answers, with_commands=False)
        _check(described, topics)
    return described, topics, _limits_text(suggestion, answers)


def is_gripper(key: str) -> bool:
    """Whether a key is a gripper by its name."""
    return key.endswith("gripper")


def _check(embodiment: str, topics: str) -> None:
    parsed = parse_settings(Embodiment, embodiment, FILES[0])
    check_keys(parse_settings(TopicMap, topics, FILES[1]), parsed, FILES[1])


def _check_commands(commands: Sequence[CommandAnswer], embodiment: Embodiment) -> None:
    for answer in commands:
        for key in answer.keys:
            if key not in embodiment.action:
                raise ConfigError(f"--command: '{key}' is not an action key ({', '.join(embodiment.action)})")
        if answer.type not in COMMAND_TYPES:
            raise ConfigError(
                f"--command: type '{answer.type}' cannot be commanded; expected one of {', '.join(COMMAND_TYPES)}"
            )


def _embodiment(suggestion: Suggestion, answers: Answers) -> Embodiment:
    if suggestion.known is not None:
        name = answers.name or suggestion.known.name
        return dataclasses.replace(suggestion.known, name=name, fps=answers.rate_hz or suggestion.known.fps)
    unit = answers.gripper_unit or suggestion.gripper_unit

    def vectors(parts: Sequence[Part], *, is_action: bool) -> dict[str, VectorKey]:
        return {
            key: VectorKey(
                names=tuple(part.channels[place] for place in places),
                unit=unit if is_gripper(key) else "rad",
                normalization=Normalization.MIN_MAX,
                interpolation=Interpolation.STEP if is_action and is_gripper(key) else Interpolation.LINEAR,
            )
            for part in parts
            for key, places in part.groups().items()
        }

    return Embodiment(
        name=answers.name or suggestion.name,
        tag="new_embodiment",
        fps=answers.rate_hz or suggestion.rate_hz,
        state=vectors(suggestion.state, is_action=False),
        action=vectors(suggestion.action, is_action=True),
        video={
            camera.key: VideoKey(height=camera.height - camera.height % 2, width=camera.width - camera.width % 2)
            for camera in suggestion.cameras
        },
    )


def _embodiment_text(suggestion: Suggestion, answers: Answers, embodiment: Embodiment) -> str:
    name_check = "" if answers.name or suggestion.known else "  # CHECK"
    rate_check = "  # CHECK: rate of the rows [Hz]; this is the slowest camera's"
    lines = [
        f"# First embodiment, from {suggestion.source}. CHECK every line marked so before you record with it.",
        f"name: {quoted(embodiment.name)}{name_check}",
        f"tag: {quoted(embodiment.tag)}",
        f"fps: {embodiment.fps}{'' if answers.rate_hz or suggestion.known else rate_check}",
    ]
    defaults = {each.name: each.default for each in dataclasses.fields(Embodiment)}
    for setting in ("language", "robot_type", "action_horizon", "video_history", "state_history"):
        value = getattr(embodiment, setting)
        if value != defaults[setting]:
            lines.append(f"{setting}: {json.dumps(value)}")
    for kind, keys in (("state", embodiment.state), ("action", embodiment.action)):
        lines.append(f"{kind}:")
        for key, vector in keys.items():
            is_guessed = suggestion.known is None and is_gripper(key) and not answers.gripper_unit
            check = "unit, m where fingers slide" if is_guessed else suggestion.checks.get((kind, key), "")
            lines.append(f"  {quoted(key)}: {{{_vector_entries(vector)}}}{f'  # CHECK: {check}' if check else ''}")
    lines.append("video:")
    lines += [
        f"  {quoted(key)}: {{height: {size.height}, width: {size.width}}}" for key, size in embodiment.video.items()
    ]
    if embodiment.depth:
        lines.append("depth:")
        for key, depth in embodiment.depth.items():
            size = f"height: {depth.height}, width: {depth.width}, unit_m: {depth.unit_m:g}"
            lines.append(f"  {quoted(key)}: {{{size}}}")
    used = {kind: getattr(embodiment.model, kind) for kind in ("state", "action", "video")}
    if any(used.values()):
        given = ", ".join(f"{kind}: [{', '.join(map(quoted, keys))}]" for kind, keys in used.items() if keys)
        lines.append(f"model: {{{given}}}")
    return "\n".join(lines) + "\n"


def _vector_entries(vector: VectorKey) -> str:
    entries = f"names: [{', '.join(map(quoted, vector.names))}]"
    for each in dataclasses.fields(VectorKey):
        value = getattr(vector, each.name)
        if each.name != "names" and value != each.default:
            plain = getattr(value, "value", value)
            entries += f", {each.name}: {quoted(plain) if isinstance(plain, str) else json.dumps(plain)}"
    return entries


def _topics_text(suggestion: Suggestion, answers: Answers, *, with_commands: bool) -> str:
    names = {stream.topic: stream.name for stream in suggestion.streams}
    lines = [
        f"# First topic map, from {suggestion.source}. CHECK every line marked so, then see what a policy would see:",
        "#   gr00t check FOLDER --bag BAG --picture sight.png",
        f"embodiment: {FILES[0]}",
        "streams:",
    ]
    for stream in (*suggestion.streams, *suggestion.texts.values()):
        check = f"  # CHECK: {stream.check}" if stream.check else ""
        topic = f"topic: {quoted(stream.topic)}, type: {quoted(stream.type)}"
        lines.append(f"  {stream.name}: {{{topic}{stream.entries}}}{check}")
    lines.append("state:")
    for part in suggestion.state:
        lines += _bindings(part, names[part.source.topic], "")
    recorded = [part for part in suggestion.action if part.source.topic]
    lines.append(
        "action:" if recorded else "# action: CHECK: to record, name the topics of the leader or of the commands"
    )
    for part in recorded:
        lines += [f"  # {part.remark}"] if part.remark else []
        lines += _bindings(part, names[part.source.topic], ", align: nearest")
    lines.append("video:")
    for camera in suggestion.cameras:
        resize = ", resize: true" if camera.is_resized or camera.height % 2 or camera.width % 2 else ""
        lines.append(f"  {quoted(camera.key)}: {{stream: {names[camera.topic]}{resize}}}")
    lines += [f"{use}: {{stream: {use}}}" for use in suggestion.texts]
    lines += _commands(suggestion, answers, with_commands)
    lines += _listed("Topics and actions on which commands are taken:", suggestion.listening)
    lines += _listed("Topics that are not used:", suggestion.unused)
    return "\n".join(lines) + "\n"


def _bindings(part: Part, stream: str, align: str) -> list[str]:
    lines = []
    for key, places in part.groups().items():
        at = [part.places[place] for place in places]
        entries, check = f"stream: {stream}{align}{part.source.entries}", ""
        if part.source.is_named:
            names = [part.source.names[place] for place in at]
            if names != [part.channels[place] for place in places]:
                entries += f", select: [{', '.join(map(quoted, names))}]"
        else:
            entries += f", start: {at[0]}" if at[0] else ""
            if at != list(range(at[0], at[0] + len(at))):
                check = "  # CHECK: these channels do not follow each other"
        lines.append(f"  {quoted(key)}: {{{entries}}}{check}")
    return lines


def _commands(suggestion: Suggestion, answers: Answers, is_wanted: bool) -> list[str]:
    """Return the topics for a policy's actions: the answered ones, and those of commands that can be sent."""
    answered = {key for answer in answers.commands for key in answer.keys}
    lines, remarks = [_answered_command(answer) for answer in answers.commands], []
    if answered or not answers.commands:
        for topic, parts in _by_topic(suggestion.action):
            if answered & {key for part in parts for key in part.groups()}:
                continue
            if is_wanted and suggestion._is_sent(parts):
                lines.append(_recorded_command(topic, parts))
                continue
            if not topic or topic in {part.source.topic for part in suggestion.state}:
                continue
            why = "a person moved it" if LEADER_WORDS.search(topic.lower()) else "it cannot be sent as recorded"
            remarks.append(f"#   not to {printable(topic)} ({printable(parts[0].source.type)}): {why}")
    if lines:
        guessed = len(lines) > len(answers.commands)
        return [f"commands:{'  # CHECK: a policy sends to these topics' if guessed else ''}", *lines, *remarks]
    return ["# commands: CHECK: name the topic that a policy sends to", *remarks]


def _answered_command(answer: CommandAnswer) -> str:
    keys = f", keys: [{', '.join(map(quoted, answer.keys))}]" if answer.keys else ""
    return f"  - {{topic: {quoted(answer.topic)}, type: {quoted(answer.type)}{keys}}}"


def _recorded_command(topic: str, parts: Sequence[Part]) -> str:
    source = parts[0].source
    sent = [(part, place) for part in parts for group in part.groups().values() for place in group]
    keys = [key for part in parts for key in part.groups()]
    names = [source.names[part.places[place]] for part, place in sent] if source.is_named else []
    is_renamed = names and names != [part.channels[place] for part, place in sent]
    renamed = f", names: [{', '.join(map(quoted, names))}]" if is_renamed else ""
    listed = ", ".join(map(quoted, keys))
    return f"  - {{topic: {quoted(topic)}, type: {quoted(source.type)}, keys: [{listed}]{renamed}}}"


def _by_topic(parts: Sequence[Part]) -> Iterator[tuple[str, list[Part]]]:
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(part.source.topic, []).append(part)
    return iter(found.items())


def _listed(heading: str, topics: Sequence[tuple[str, str]]) -> list[str]:
    if not topics:
        return []
    lines = [f"#   {printable(topic)} ({printable(kind)})" for topic, kind in sorted(topics)[:MAX_LISTED]]
    more = len(topics) - MAX_LISTED
    return [f"# {heading}", *lines, *([f"#   and {more} more"] if more > 0 else [])]


def _limits_text(suggestion: Suggestion, answers: Answers) -> str:
    channels = [name for part in suggestion.action for name in part.channels]
    described = [name for name in channels if name in answers.limits]
    if described:
        lines = [f"# First limits, of {len(described)} of {len(channels)} joints from {answers.limits_source}."]
    else:
        lines = [
            f"# First limits, from what was measured and commanded in {suggestion.source}.",
            "# These are NOT the robot's limits: a policy stays within what was seen. CHECK every line of them.",
        ]
    lines += [f"acceleration_per_velocity: {ACCELERATION_PER_VELOCITY:.1f}  # CHECK", "joints:"]
    for name in channels:
        if name in answers.limits:
            low, high, speed = (_number(value) for value in answers.limits[name])
            endless = ", endless: true" if low == "-.inf" else ""
            lines.append(f"  {quoted(name)}: {{min: {low}, max: {high}, max_velocity: {speed}{endless}}}")
        elif name in suggestion.ranges:
            low, high, speed = suggestion.ranges[name]
            margin = max(MIN_MARGIN, RANGE_MARGIN * (high - low))
            speed = max(MIN_SPEED, SPEED_MARGIN * speed)
            limits = f"min: {low - margin:.3f}, max: {high + margin:.3f}, max_velocity: {speed:.3f}"
            lines.append(f"  {quoted(name)}: {{{limits}}}  # CHECK: as far and as fast as it was seen")
        else:
            lines.append(f"  # {printable(name)}: no value was seen; CHECK")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "-.inf" if value == float("-inf") else ".inf" if value == float("inf") else f"{value:.6g}"


def quoted(name: str) -> str:
    """Return a text as it is written in YAML."""
    return name if PLAIN.fullmatch(name) and name.lower() not in RESERVED else json.dumps(name)
