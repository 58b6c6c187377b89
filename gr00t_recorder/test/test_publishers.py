# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Two publishers of the same channels are noticed; publishers of different channels, noise and jumps are not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.topics.bindings import StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey

MS = 1_000_000
START_NS = 1_700_000_000_000 * MS
NAMES = ("j0", "j1", "j2")
Event = tuple[int, tuple[str, ...], tuple[float, ...], int]  # arrival [ms], names, positions, number of the message


def robot(unit: str = "rad") -> FrameAssembler:
    embodiment = Embodiment(
        name="arm",
        tag="arm",
        fps=10,
        state={"arm": VectorKey(names=NAMES, unit=unit)},
        action={"arm": VectorKey(names=NAMES, unit=unit)},
        video={"front": VideoKey(height=4, width=4)},
    )
    streams = {
        "joints": StreamConfig(topic="joint_states", type="sensor_msgs/msg/JointState"),
        "front": StreamConfig(topic="image", type="sensor_msgs/msg/Image"),
    }
    topic_map = TopicMap(
        embodiment="arm.yaml",
        streams=streams,
        state={"arm": VectorBinding(stream="joints")},
        action={},
        video={"front": VideoBinding(stream="front")},
    )
    return FrameAssembler(topic_map, embodiment)


def joints(stamp_ns: int, names: tuple[str, ...], positions: tuple[float, ...]) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=list(names), position=list(positions))


def series(
    period_ms: int, *, value: float = 0.0, speed: float = 0.0, first: int = 1, names: tuple[str, ...] = NAMES,
    offset_ms: int = 0, duration_ms: int = 6000, noise: float = 0.0, seed: int = 0,
) -> list[Event]:  # fmt: skip
    rng = np.random.default_rng(seed)
    events = []
    for number, time_ms in enumerate(range(offset_ms, duration_ms, period_ms), first):
        positions = value + speed * time_ms / 1000 + noise * rng.standard_normal(len(names))
        events.append((time_ms, names, tuple(positions.tolist()), number))
    return events


def play(assembler: FrameAssembler, *sources: list[Event], has_numbers: bool) -> Iterator[tuple[int, str]]:
    """Give the messages of several publishers in the order of their arrival; yield time and conflict after each."""
    for time_ms, names, positions, number in sorted(itertools.chain(*sources), key=lambda event: event[0]):
        now_ns = START_NS + time_ms * MS
        assembler.store.add("joints", joints(now_ns, names, positions), now_ns, number if has_numbers else None)
        yield time_ms, assembler.health.reports(now_ns)[0].conflict


def first_conflict_ms(assembler: FrameAssembler, *sources: list[Event], has_numbers: bool) -> int | None:
    return next((time_ms for time_ms, conflict in play(assembler, *sources, has_numbers=has_numbers) if conflict), None)


@pytest.mark.parametrize(
    ("driver", "other", "limit_ms", "blind_limit_ms"),
    [
        (series(20, value=0.8), series(20, offset_ms=7), 100, 400),  # a joint_state_publisher that sends zeros
        (series(20, value=0.8), series(20, offset_ms=7, names=("j2", "j1", "j0")), 100, 200),  # in another order
        (series(2, value=0.8), series(100, offset_ms=51), 400, 1000),  # a slow one next to a fast driver
        (series(20, value=0.8), series(1000, offset_ms=500), 1600, None),  # one message per second
        (series(20, value=0.8, speed=1.0), series(20, offset_ms=1), 100, 400),  # while the robot moves
        (series(20, value=0.8), series(20, offset_ms=7, names=("j1",)), 100, 400),  # one of the joints only
        (series(20, value=0.8), series(20, value=0.8), 100, None),  # two drivers that agree, the same stamps
        (series(20, value=0.8, first=500), series(20, offset_ms=7, first=500), 100, 400),  # started together
        (series(10, value=3.0, speed=1.5), series(10, value=2.7, speed=1.5, offset_ms=3), 100, 400),  # a delayed loop
        (series(10, value=1.0, speed=4.0), series(100, offset_ms=5), 400, 2000),  # a fast motion next to a slow one
    ],
)
def test_two_publishers_of_the_same_channels_are_a_conflict(
    driver: list[Event], other: list[Event], limit_ms: int, blind_limit_ms: int | None
) -> None:
    found_ms = first_conflict_ms(robot(), driver, other, has_numbers=True)
    assert found_ms is not None and found_ms <= limit_ms
    if blind_limit_ms is not None:
        found_ms = first_conflict_ms(robot(), driver, other, has_numbers=False)
        assert found_ms is not None and found_ms <= blind_limit_ms


@pytest.mark.parametrize("has_numbers", [True, False])
@pytest.mark.parametrize("is_graph_known", [True, False])
@pytest.mark.parametrize(
    "sources",
    [
        [series(20, value=0.5, speed=1.0)],
        [series(2, speed=3.0, noise=0.003)],
        [series(20, noise=0.1)],  # noise far above that of any encoder
        [series(20, value=0.5, speed=1.0), []],  # next to a publisher that is silent
        # different joints on one topic, in step, with the order of arrival changing
        [series(20, value=1.0, names=("j0", "j1")), series(20, value=-1.0, names=("j2", "x"))],
        [series(10, value=1.0, names=("j0",)), series(11, value=-1.0, names=("j1", "j2"))],
        [series(20, value=1.0), series(20, value=-1.0, names=("x", "y"))],  # unused joints
        # started again after 2 s, with the robot elsewhere
        [series(20, value=1.0, duration_ms=2000), series(20, value=2.0, offset_ms=2500)],
        [series(20, value=1.0), series(7000, value=0.0, offset_ms=3001)],  # one latched message of another node
    ],
)
def test_what_is_no_conflict(sources: list[list[Event]], is_graph_known: bool, has_numbers: bool) -> None:
    assembler = robot()
    if is_graph_known:
        assembler.store.set_publishers("joints", [f"/node_{index}" for index in range(len(sources))])
    assert first_conflict_ms(assembler, *sources, has_numbers=has_numbers) is None


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("rad", [np.pi - 0.005, -np.pi + 0.005]),  # an endless joint at its full turn
        ("rad", [0.0, 0.015]),  # the last digit of a coarse encoder
        ("%", [0.0] * 25 + [100.0] * 25),  # a gripper that opens and closes
        ("rad/s", [0.0, 0.23]),  # a speed with coarse digits
        ("N", [0.0, 50.0]),
    ],
)
def test_a_single_publisher_may_change_between_two_values(unit: str, values: list[float]) -> None:
    events = [(20 * k, NAMES, (values[k % len(values)],) * 3, k + 1) for k in range(500)]
    assert first_conflict_ms(robot(unit), events, has_numbers=True) is None
    assert first_conflict_ms(robot(unit), events, has_numbers=False) is None


def test_the_conflict_names_publishers_and_fades_when_one_stops() -> None:
    assembler = robot()
    assembler.store.set_publishers("joints", ["/driver", "/gui\x1b[2J"])
    driver, other = series(20, value=0.8, duration_ms=9000), series(20, offset_ms=7, duration_ms=1000)
    history = dict(play(assembler, driver, other, has_numbers=True))
    assert history[980] == (
        "state.arm: 2 publishers send the same channels (j0, j1, j2) on joint_states: /driver, /gui\\x1b[2J; "
        "stop all publishers of these channels but one"
    )
    assert history[3900] and not history[4100]
    report = assembler.health.reports(START_NS + 9000 * MS)[0]
    assert not report.conflict and report.conflicts > 100 and "/driver" in report.conflict_reason


def test_one_node_that_sends_two_series_is_named() -> None:
    assembler = robot()
    assembler.store.set_publishers("joints", ["/pub"])
    numbered = [
        (20 * k, NAMES, ((0.8, 0.8, 0.8) if k % 2 else (0.0, 0.0, 0.0)), k + 1) for k in range(100)
    ]  # fmt: skip
    *_, (_, conflict) = play(assembler, numbered, has_numbers=True)
    assert conflict == (
        "state.arm: values (j0, j1, j2) on joint_states alternate between two series, such as 0 and 0.8; its only "
        "publisher /pub sends both, correct that node"
    )


def test_a_policy_is_not_asked_during_a_conflict() -> None:
    assembler = robot()
    pixels = SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)),
        height=4, width=4, encoding="rgb8", step=12, data=bytes(48), is_bigendian=0,
    )  # fmt: skip
    for _ in play(assembler, series(20, value=0.8), series(20, offset_ms=7), has_numbers=True):
        pass
    now_ns = START_NS + 6000 * MS
    assembler.store.add("front", pixels, now_ns)
    assert "2 publishers send the same channels (j0, j1, j2)" not in assembler.health.fault(now_ns + 4000 * MS)
    assert "stream 'joints' (joint_states) is invalid: state.arm: 2 publishers send" in assembler.health.fault(now_ns)


def test_two_cameras_on_one_topic_are_a_conflict() -> None:
    assembler = robot()
    pixels = bytes(48)
    for number, (first, second) in enumerate(itertools.product(range(10), (0, 400))):
        now_ns = START_NS + number * 20 * MS
        stamp = SimpleNamespace(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        image = SimpleNamespace(
            header=SimpleNamespace(stamp=stamp), height=4, width=4, encoding="rgb8", step=12, data=pixels,
            is_bigendian=0,
        )  # fmt: skip
        assembler.store.add("front", image, now_ns, first + second + 1)
    assert assembler.health.reports(START_NS + 400 * MS)[1].conflict == (
        "video.front: 2 publishers send the same channels on image; stop all publishers of these channels but one"
    )


@pytest.mark.slow
@pytest.mark.parametrize("publishers", [(), ("/driver", "/idle")])
@pytest.mark.parametrize("sigma", [0.003, 0.01, 0.03, 0.3])
@pytest.mark.parametrize("is_walk", [False, True])
def test_noise_of_any_size_is_no_second_series(sigma: float, is_walk: bool, publishers: tuple[str, ...]) -> None:
    for seed in range(3):
        steps = np.random.default_rng(seed).normal(0.0, sigma, (1500, len(NAMES)))
        positions = np.cumsum(steps, axis=0) if is_walk else steps
        events = [(20 * k, NAMES, tuple(each), k + 1) for k, each in enumerate(positions.tolist())]
        assembler = robot()
        assembler.store.set_publishers("joints", publishers)
        assert first_conflict_ms(assembler, events, has_numbers=False) is None
