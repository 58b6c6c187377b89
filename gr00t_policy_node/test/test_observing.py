# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Observations of a policy that looks back, and how much of that a new task leaves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gr00t_policy_node.observing import Observer, skew_warning
from gr00t_policy_node.timing import StageTimers
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.codecs import IMAGE_TYPE
from gr00t_recorder.topics.serialized_images import Header, RawImage, Stamp
from gr00t_test_support.builders import make_embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.policy.policy_like import PolicyLike

MS = 1_000_000
LOOKING_BACK = dataclasses.replace(make_embodiment(fps=10, size=(4, 6)), video_history=(-4, 0))  # 0.4 s
INPUTS = TopicMap(
    embodiment="test_arm",
    streams={
        "joints": StreamConfig(topic="joints", type="sensor_msgs/msg/JointState"),
        "camera": StreamConfig(topic="image", type=IMAGE_TYPE),
    },
    state={"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="joints")},
    video={"front": VideoBinding(stream="camera")},
)


@dataclasses.dataclass
class Joints:
    """Field names of sensor_msgs/msg/JointState."""

    header: Header
    position: list[float]
    name: tuple[str, ...] = ("j0", "j1", "j2", "grip")


class Silent(PolicyLike):
    """A policy without information about its training."""

    def infer_batch(self, observations, continuations=None):
        raise AssertionError("is not asked here")


class World:
    """Sends joints and images; the brightness is the time in tenths of a second."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.observer = Observer(
            INPUTS,
            LOOKING_BACK,
            Silent(),
            max_state_ranges=0.0,
            timers=StageTimers(INPUTS.streams),
            clock_ns=lambda: self.now_ms * MS,
        )

    def pass_until(self, end_ms: int) -> None:
        while self.now_ms < end_ms:
            self.now_ms += 100
            header = Header(Stamp(self.now_ms // 1000, self.now_ms % 1000 * MS), "")
            assembler, now_ns = self.observer.assembler, self.now_ms * MS
            assembler.store.add("joints", Joints(header, [0.0] * 4), now_ns)
            pixels = bytes([self.now_ms // 100]) * 72
            assembler.store.add("camera", RawImage(header, 4, 6, "rgb8", 0, 18, pixels), now_ns)

    def seen(self) -> list[int]:
        images = self.observer.observe("lift the cube").images["front"]
        return [int(image.flat[0]) for image in np.asarray(images).reshape(-1, 4, 6, 3)]


def test_history_begins_with_the_task_and_grows() -> None:
    world = World()
    world.pass_until(3000)
    world.observer.begin_task()
    assert world.seen() == [30, 30]
    world.pass_until(3200)
    assert world.seen() == [30, 32]
    world.pass_until(4000)
    assert world.seen() == [36, 40]
    world.observer.begin_task()
    assert world.seen() == [40, 40]


def test_history_begins_again_when_the_clock_is_set_back() -> None:
    world = World()
    world.pass_until(9000)
    world.observer.begin_task()
    assert world.seen() == [90, 90]
    world.now_ms = 2000
    world.pass_until(2300)
    assert world.seen() == [23, 23]


def test_nothing_is_observed_before_everything_has_come() -> None:
    world = World()
    with pytest.raises(ObservationError, match="nothing received on"):
        world.seen()


@pytest.mark.parametrize(
    ("max_age_s", "max_skew_s", "expected"),
    [
        (0.5, 0.5, ""),
        (2.0, 0.0, ""),
        (2.0, 0.5, "max_age_s above max_skew_s has no effect (camera 2 s; max_skew_s 0.5 s)"),
    ],
)
def test_a_max_age_that_the_skew_makes_void_is_told(max_age_s: float, max_skew_s: float, expected: str) -> None:
    camera = dataclasses.replace(INPUTS.streams["camera"], max_age_s=max_age_s)
    inputs = dataclasses.replace(INPUTS, streams={**INPUTS.streams, "camera": camera}, max_skew_s=max_skew_s)
    found = skew_warning(inputs)
    assert found.startswith(expected) and bool(found) == bool(expected)
    alone = dataclasses.replace(inputs, streams={"camera": camera}, state={})
    assert skew_warning(alone) == ""
