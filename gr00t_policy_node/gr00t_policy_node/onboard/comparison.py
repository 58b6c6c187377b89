# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the files of a robot with what it says, and with the data that a checkpoint was trained on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gr00t_policy_node.observing import input_map
from gr00t_policy_node.onboard.evidence import Evidence
from gr00t_policy_node.onboard.findings import Finding, Level
from gr00t_policy_node.onboard.robot_files import RobotFiles
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.bag.boundaries import absolute_topic
from gr00t_recorder.topics.bindings import Reliability, TopicMap
from gr00t_recorder.topics.streams import StreamReport, StreamState
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, differences
from gr00t_training.errors import CheckpointError
from gr00t_training.policy.state_range import StateRange
from gr00t_training.types import KeyKind, KeyRef

SLOW = 0.9  # of the tick rate: a stream below it repeats samples
MOST_TURNS = 2  # of a joint that is not endless; more [rad] looks like degrees
MAX_LENGTH_M = 20.0  # of an arm or base axis; more [m] looks like millimeters
OUTSIDE = 0.01  # of a joint's range: noise of its encoder
MAX_STATE_RANGES = 3.0  # as the policy node's default
MAX_NAMED = 3  # topics in a remedy


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained on."""

    name: str  # as messages call the checkpoint
    embodiment: Embodiment
    state: Mapping[str, KeyStatistics]
    action: Mapping[str, KeyStatistics]


def check_evidence(files: RobotFiles, evidence: Evidence, limits: Mapping[str, JointLimit]) -> Iterator[Finding]:
    """Yield what does not fit between the files and what the robot says."""
    topic_map, embodiment = files.topic_map, files.embodiment
    assert topic_map is not None and embodiment is not None
    unheard = set()
    for name in topic_map.streams:
        found = list(_stream(files, topic_map, name, evidence))
        unheard |= {name} if found else set()
        yield from found
    inputs = input_map(topic_map).streams
    for name, report in evidence.reports.items():
        if name not in unheard:
            yield from _report(files, topic_map, embodiment, report, is_input=name in inputs)
    reasons = [report.reason for report in evidence.reports.values() if report.reason]
    if evidence.fault and not unheard and not any(reason in evidence.fault for reason in reasons):
        yield files.topics.finding(Level.FAULT, f"a policy would not be called: {evidence.fault}", "streams")
    yield from _commands(files, topic_map, evidence)
    for ref, (low, high) in evidence.ranges.items():
        if ref.kind in (KeyKind.STATE, KeyKind.ACTION):
            yield from _values(files, topic_map, embodiment, ref, low, high, limits)


def check_trained(
    files: RobotFiles, trained: Trained, evidence: Evidence | None, limits: Mapping[str, JointLimit]
) -> Iterator[Finding]:
    """Yield what does not fit between the files and the training data of a checkpoint."""
    embodiment = files.embodiment
    assert embodiment is not None
    items = differences(embodiment, trained.embodiment)
    for item in items:
        place = item.partition(":")[0].split(".")
        text = f"{item} (checkpoint {trained.name})"
        yield files.embodiment_file.finding(Level.FAULT, text, *place)
    if items:
        return
    if evidence is not None:
        yield from _training_range(files, embodiment, trained, evidence)
    for key in embodiment.action_keys:
        statistics, vector = trained.action.get(key), embodiment.action[key]
        if statistics is None or vector.relative_to is not None or statistics.min.shape != (vector.dim,):
            continue
        for name, low, high in zip(vector.names, statistics.min, statistics.max, strict=True):
            limit = limits.get(name)
            if limit is not None and _is_beyond(limit, float(low), float(high)):
                text = (
                    f"joint '{name}': training commanded {low:.4g} to {high:.4g}, limits are {limit.min:.4g} to "
                    f"{limit.max:.4g}; a policy is held at them"
                )
                yield files.limits_file.finding(Level.WARNING, text, "joints", name)


def _stream(files: RobotFiles, topic_map: TopicMap, name: str, evidence: Evidence) -> Iterator[Finding]:
    config = topic_map.streams[name]
    topic = absolute_topic(config.topic)
    found = evidence.types.get(topic)
    if found is None:
        text = f"{topic} is not among the topics of {evidence.source}{_remedy(topic, config.type, evidence)}"
        yield files.topics.finding(Level.FAULT, text, "streams", name, "topic")
    elif found != config.type:
        text = f"{topic} has the type {found}, the topic map says {config.type}"
        yield files.topics.finding(Level.FAULT, text, "streams", name, "type")
    elif evidence.heard is not None and config.type in evidence.heard.missing:
        yield files.topics.finding(Level.FAULT, evidence.heard.missing[config.type], "streams", name, "type")
    elif (
        evidence.heard is not None
        and topic in evidence.heard.best_effort
        and config.reliability is Reliability.RELIABLE
    ):
        text = f"{topic} is published as best effort and asked for as reliable: nothing comes; leave out 'reliability'"
        yield files.topics.finding(Level.FAULT, text, "streams", name, "reliability")


def _remedy(topic: str, kind: str, evidence: Evidence) -> str:
    same = [name for name, found in evidence.types.items() if found == kind]
    close = difflib.get_close_matches(topic, same, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    if same:
        more = f" and {len(same) - MAX_NAMED} more" if len(same) > MAX_NAMED else ""
        return f"; of that type there are {', '.join(sorted(same)[:MAX_NAMED])}{more}"
    return f"; none has the type {kind}"


def _report(
    files: RobotFiles, topic_map: TopicMap, embodiment: Embodiment, report: StreamReport, *, is_input: bool
) -> Iterator[Finding]:
    place = ("streams", report.name)
    if report.conflict:
        yield files.topics.finding(Level.FAULT, report.conflict, *place)
    elif report.state is not StreamState.OK:
        text = f"{report.topic} is {report.state.value}: {report.reason}"
        needed = is_input or report.state is StreamState.INVALID
        yield files.topics.finding(Level.FAULT if needed else Level.WARNING, text, *place)
    if report.zero_stamps:
        text = (
            f"{report.topic}: {report.zero_stamps} messages without a stamp, taken as they arrive; set 'stamp: receive'"
        )
        yield files.topics.finding(Level.WARNING, text, *place)
    bound = [ref for ref, binding in topic_map.bindings.items() if binding.stream == report.name]
    if bound and 0 < report.rate_hz < SLOW * embodiment.fps:
        text = (
            f"{report.topic} comes at {report.rate_hz:.1f} Hz, the embodiment has {embodiment.fps} ticks a second: "
            "samples are repeated; lower 'fps' or raise the rate"
        )
        yield files.topics.finding(Level.WARNING, text, *place)


def _commands(files: RobotFiles, topic_map: TopicMap, evidence: Evidence) -> Iterator[Finding]:
    if evidence.heard is None:
        return
    for i, command in enumerate(topic_map.commands):
        topic = absolute_topic(command.topic)
        is_action = "/action/" in command.type
        known = evidence.heard.actions if is_action else evidence.heard.subscribed
        if topic not in known:
            close = difflib.get_close_matches(topic, list(known), n=1)
            who = "no action server is" if is_action else "no node subscribes to"
            text = f"{who} {topic}; start its controller{f', or did you mean {close[0]}?' if close else ''}"
            yield files.topics.finding(Level.WARNING, text, "commands", str(i))


def _values(
    files: RobotFiles,
    topic_map: TopicMap,
    embodiment: Embodiment,
    ref: KeyRef,
    low: np.ndarray,
    high: np.ndarray,
    limits: Mapping[str, JointLimit],
) -> Iterator[Finding]:
    """Yield values in what looks like another unit, and those beyond the limits."""
    vector, binding = embodiment.vectors(ref.kind)[ref.key], topic_map.bindings[ref]
    largest = float(np.nanmax(np.abs([low, high]))) if np.isfinite(low).any() else 0.0
    mistaken = {"rad": (MOST_TURNS * 2 * math.pi, "degrees", "deg"), "m": (MAX_LENGTH_M, "millimeters", "mm")}
    if vector.unit in mistaken and vector.rotation is None and not getattr(binding, "wrap", False):
        most, words, unit = mistaken[vector.unit]
        if largest > most:
            text = f"{ref}: values up to {largest:.4g} {vector.unit}; are these {words}? then set 'unit: {unit}'"
            yield files.topics.finding(Level.WARNING, text, ref.kind.value, ref.key)
            return
    for name, least, greatest in zip(vector.names, low.tolist(), high.tolist(), strict=True):
        limit = limits.get(name)
        if limit is None or not _is_beyond(limit, least, greatest):
            continue
        who = "was measured at" if ref.kind is KeyKind.STATE else "was commanded"
        text = f"joint '{name}' {who} {least:.4g} to {greatest:.4g}, limits are {limit.min:.4g} to {limit.max:.4g}"
        yield files.limits_file.finding(Level.WARNING, text, "joints", name)


def _is_beyond(limit: JointLimit, low: float, high: float) -> bool:
    margin = OUTSIDE * (limit.max - limit.min) if math.isfinite(limit.max - limit.min) else 0.0
    return low < limit.min - margin or high > limit.max + margin  # false for NaN


def _training_range(
    files: RobotFiles, embodiment: Embodiment, trained: Trained, evidence: Evidence
) -> Iterator[Finding]:
    assert files.topic_map is not None
    endless = {key for key, binding in files.topic_map.state.items() if binding.wrap}
    try:
        found = StateRange(embodiment, trained.state, MAX_STATE_RANGES, endless=endless)
    except CheckpointError as error:
        yield files.embodiment_file.finding(Level.FAULT, str(error), "state")
        return
    for text in found.channels_out_of_range(evidence.state):
        key = text.removeprefix("state.").partition(":")[0]
        yield files.topics.finding(Level.FAULT, text, "state", key)
    for key, statistics in trained.state.items():
        values = evidence.state.get(key)
        if values is None or key not in embodiment.state_keys or statistics.min.shape != values.shape:
            continue
        reach = np.maximum(statistics.max - statistics.min, 1e-6)
        outside = (values < statistics.min - 0.1 * reach) | (values > statistics.max + 0.1 * reach)
        for place in np.flatnonzero(outside):
            name = embodiment.state[key].names[place]
            text = (
                f"state.{key}: '{name}' is {values[place]:.4g} now, outside the {statistics.min[place]:.4g} to "
                f"{statistics.max[place]:.4g} of training; begin where the demonstrations began"
            )
            yield files.topics.finding(Level.NOTE, text, "state", key)
