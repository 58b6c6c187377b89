# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Who commanded each row: from messages to the columns `intervention` and `command_source`."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.episodes.run import EpisodeRun
from gr00t_recorder.episodes.ticks import END_OF_TIME_NS
from gr00t_recorder.topics.bindings import (
    Align,
    SourceBinding,
    Stamp,
    StreamConfig,
    TopicMap,
    VectorBinding,
    VideoBinding,
)
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_test_support.builders import make_embodiment
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ObservationError
from gr00t_training.types import Commander, KeyRef

MS = 1_000_000
EMBODIMENT = make_embodiment(fps=10, size=(64, 96))
NONE, POLICY, PERSON, HOLD = Commander.NONE, Commander.POLICY, Commander.PERSON, Commander.HOLD


def topic_map(**changes):
    """State from joints, action from commands, who commands from the policy node."""
    joints = {"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="joints")}
    commands = {key: VectorBinding(stream="commands", align=Align.HOLD) for key in joints}
    return TopicMap(
        embodiment="test_arm",
        streams={
            "joints": StreamConfig(topic="joint_states", type="sensor_msgs/msg/JointState"),
            "commands": StreamConfig(topic="policy/commands", type="sensor_msgs/msg/JointState"),
            "camera": StreamConfig(topic="image", type="sensor_msgs/msg/Image"),
            "source": StreamConfig(topic="policy/command_source", type="gr00t_msgs/msg/CommandSource"),
        },
        state=joints,
        action=commands,
        video={"front": VideoBinding(stream="camera")},
        command_source=SourceBinding(**{"stream": "source", **changes}),
    )


def header(stamp_ns):
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")


def source(stamp_ns, code):
    return SimpleNamespace(header=header(stamp_ns), source=code, device="")


def robot(end_ms, source_at):
    """Yield (time, stream, message) of a robot from 1000 ms on; `source_at`: ms -> who commands, None: silence."""
    names = [name for key in EMBODIMENT.state.values() for name in key.names]
    for ms in range(1000, end_ms + 1, 20):
        stamp = ms * MS
        for stream, value in (("joints", 0.0), ("commands", float(ms))):
            message = SimpleNamespace(header=header(stamp), name=names, position=[value] * len(names))
            yield stamp, stream, message
        code = source_at(ms)
        if code is not None:
            yield stamp, "source", source(stamp, code)
        if ms % 100 == 0:
            data = bytes(64 * 96 * 3)
            yield (
                stamp,
                "camera",
                SimpleNamespace(
                    header=header(stamp), height=64, width=96, encoding="rgb8", is_bigendian=0, step=96 * 3, data=data
                ),
            )


def recorded(tmp_path, source_at, end_ms=2000, **changes):
    """Record an episode of this robot; return the open dataset."""
    assembler = FrameAssembler(topic_map(**changes), EMBODIMENT)
    with DatasetWriter(tmp_path / "data", EMBODIMENT, has_source=True) as writer:
        run = EpisodeRun(assembler, writer, "lift", 1000 * MS)
        for stamp, stream, message in robot(end_ms, source_at):
            assembler.store.add(stream, message, stamp + 2 * MS)
            for picked in run.ticks.ready(stamp + 2 * MS):
                run.write(picked)
        run.ticks.stop(end_ms * MS)
        for picked in run.ticks.ready(END_OF_TIME_NS):
            run.write(picked)
        run.save("test")
    return EpisodeDataset(tmp_path / "data")


def test_each_row_says_who_commanded_at_its_time(tmp_path):
    """The policy until 1390 ms, a person from 1400 ms to 1690 ms, then a hold: by the newest message at or before."""
    dataset = recorded(tmp_path, lambda ms: POLICY if ms < 1400 else PERSON if ms < 1700 else HOLD)
    assert dataset.column(0, "command_source").tolist() == [POLICY] * 4 + [PERSON] * 3 + [HOLD] * 4
    assert dataset.column(0, "intervention").tolist() == [False] * 4 + [True] * 3 + [False] * 4
    assert dataset.action(0, "arm")[:, 0].tolist() == [float(ms) for ms in range(1000, 2001, 100)]
    ages = dataset.quality(0).ages_ns["command.source"]
    assert np.all(ages == 0)
    assert dataset.features["intervention"] == {"dtype": "bool", "shape": [1], "names": None}


def test_rows_without_a_known_commander_are_none_where_it_is_not_required(tmp_path):
    """Silent from 1400 ms on: known for max_age_s (0.5 s) after the last message of 1380 ms."""
    dataset = recorded(tmp_path, lambda ms: PERSON if ms < 1400 else None, end_ms=2400, required=False)
    assert dataset.column(0, "command_source").tolist() == [PERSON] * 9 + [NONE] * 6


def test_required_commander_that_is_silent_ends_the_episode(tmp_path):
    with pytest.raises(ObservationError, match=r"command\.source: no sample on policy/command_source for the tick"):
        recorded(tmp_path, lambda ms: PERSON if ms < 1400 else None, end_ms=3400)


@pytest.mark.parametrize("code", [-1, 256, 1.5, "policy", float("nan")])
def test_numbers_that_name_nobody_are_counted_as_unusable(code):
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assembler.store.add("source", source(1000 * MS, code), 1000 * MS)
    (report,) = (report for report in assembler.health.reports(1000 * MS) if report.name == "source")
    assert report.invalid == 1
    assert "expected a whole number from 0 to 255" in report.invalid_reason


def test_observation_does_without_who_commands():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    for stamp, stream, message in robot(1200, lambda ms: None):
        assembler.store.add(stream, message, stamp)
    assert assembler.picker.frame(1100 * MS, with_action=False).command_source is None
    assert assembler.health.fault(1200 * MS) == ""
    assert KeyRef.parse("command.source") in assembler.store.inputs


def test_streams_of_any_type_with_a_number_may_say_it():
    mode = StreamConfig(topic="mode", type="std_msgs/msg/UInt8", stamp=Stamp.RECEIVE)
    known = topic_map(field="data")
    assembler = FrameAssembler(dataclasses.replace(known, streams={**known.streams, "source": mode}), EMBODIMENT)
    for stamp, stream, message in robot(1200, lambda ms: None):
        assembler.store.add(stream, message, stamp)
        assembler.store.add("source", SimpleNamespace(data=np.uint8(2)), stamp)
    assert assembler.picker.frame(1100 * MS, with_action=True).command_source == PERSON
