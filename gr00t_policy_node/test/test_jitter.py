# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from gr00t_policy_node.chunking.jitter import BOUNDARY_JUMP, VELOCITY_COSINE, JitterMonitor
from gr00t_policy_node.chunking.motion import KeyMotion
from gr00t_training.embodiment import Interpolation, Rotation, VectorKey
from gr00t_training.rotations import convert
from gr00t_training.types import ActionChunk

STEP_NS = 100_000_000
KEYS = {
    "arm": VectorKey(names=("a", "b")),
    "gripper": VectorKey(names=("g",), interpolation=Interpolation.STEP),
}


def make_monitor() -> JitterMonitor:
    return JitterMonitor({key: KeyMotion(vector) for key, vector in KEYS.items()})


def straight(start_ns: int, velocity: tuple[float, float], offset: float = 0.0) -> ActionChunk:
    """Return a chunk on the line through the origin at time 0, moved by `offset`."""
    times = start_ns / 1e9 + 0.1 * np.arange(10)
    rows = times[:, None] * np.array(velocity) + offset
    return ActionChunk({"arm": rows, "gripper": np.arange(10.0)[:, None] % 2}, start_ns, STEP_NS)


def test_motion_that_goes_on_as_it_was_has_ones() -> None:
    monitor = make_monitor()
    first, second = straight(0, (3.0, 4.0)), straight(2 * STEP_NS, (3.0, 4.0))
    monitor.add(None, first, 0)
    monitor.add(first, second, 350_000_000)
    found = monitor.quantiles()
    assert found[BOUNDARY_JUMP] == pytest.approx([1.0, 1.0, 1.0])
    assert found[VELOCITY_COSINE] == pytest.approx([1.0, 1.0, 1.0])
    assert found["acceleration arm"] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert "acceleration gripper" not in found


def test_jump_and_turn_at_the_boundary_are_told() -> None:
    monitor = make_monitor()
    first = straight(0, (1.0, 0.0))
    second = straight(2 * STEP_NS, (0.0, 1.0), offset=0.0)  # at 0.4 s: from (0.4, 0) to (0, 0.4), steps of 0.1
    monitor.add(first, second, 4 * STEP_NS)
    found = monitor.quantiles()
    assert found[BOUNDARY_JUMP][0] == pytest.approx(math.hypot(0.3, 0.4) / 0.1)
    assert found[VELOCITY_COSINE][0] == pytest.approx(0.0, abs=1e-12)


def test_acceleration_inside_a_chunk_is_that_of_its_rows() -> None:
    monitor = make_monitor()
    rows = 0.5 * 3.0 * (0.1 * np.arange(10)) ** 2
    chunk = ActionChunk({"arm": np.stack([rows, 0 * rows], 1), "gripper": np.zeros((10, 1))}, 0, STEP_NS)
    monitor.add(None, chunk, 0)
    assert monitor.quantiles()["acceleration arm"] == pytest.approx([3.0] * 3)


def test_rotation_counts_by_its_angle() -> None:
    key = VectorKey(names=tuple("abcdef"), rotation=Rotation.ROTATION_6D)
    monitor = JitterMonitor({"hand": KeyMotion(key)})
    angles = np.array([0.0, 0.1, 0.3, 0.6])  # second differences 0.1
    half = angles[:, None] / 2
    quaternions = np.concatenate([np.cos(half), np.sin(half), 0 * half, 0 * half], 1)
    rows = convert(quaternions, Rotation.QUATERNION, Rotation.ROTATION_6D)
    monitor.add(None, ActionChunk({"hand": rows}, 0, STEP_NS), 0)
    assert monitor.quantiles()["acceleration hand"] == pytest.approx([10.0] * 3)


@pytest.mark.parametrize(
    ("second", "switch_ns"),
    [(straight(10**9, (1.0, 1.0)), 10**9), (straight(10**8, (0.0, 0.0)), 2 * 10**8)],
    ids=["a gap between", "it does not move"],
)
def test_boundary_that_is_none_is_not_counted(second: ActionChunk, switch_ns: int) -> None:
    monitor = make_monitor()
    monitor.add(straight(0, (1.0, 1.0)), second, switch_ns)
    assert monitor.quantiles()[BOUNDARY_JUMP] == [0.0, 0.0, 0.0]
