# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from driving import PlayedPlan
from hypothesis import given
from hypothesis import strategies as st

from gr00t_policy_node.chunking.motion import Curve, KeyMotion, mean_quaternion
from gr00t_policy_node.chunking.player import ChunkError, Execution, ExecutionMode
from gr00t_training.embodiment import Interpolation, Pose, Rotation, VectorKey
from gr00t_training.rotations import convert
from gr00t_training.types import ActionChunk

KEYS = {
    "arm": VectorKey(names=("a", "b")),
    "gripper": VectorKey(names=("g",), interpolation=Interpolation.STEP),
}
STEP_NS = 50_000_000
TURN = {"wheel": VectorKey(names=("w",))}


def make_chunk(start_ns: int, *, base: float = 0.0, horizon: int = 4) -> ActionChunk:
    ramp = base + np.arange(horizon, dtype=np.float64)
    return ActionChunk({"arm": np.stack([ramp, -ramp], axis=1), "gripper": ramp[:, None] % 2}, start_ns, STEP_NS)


def one_key(values: Sequence[Sequence[float]] | np.ndarray, start_ns: int = 0, key: str = "wheel") -> ActionChunk:
    return ActionChunk({key: np.array(values, dtype=np.float64)}, start_ns, STEP_NS)


def value(player: PlayedPlan, now_ns: int, key: str = "wheel") -> np.ndarray:
    due = player.sample(now_ns)
    assert due is not None
    return due[key]


def about_z(angle: float, form: Rotation = Rotation.QUATERNION) -> np.ndarray:
    quaternion = np.array([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)])
    return convert(quaternion, Rotation.QUATERNION, form)


def test_row_due_follows_the_clock_so_latency_is_compensated() -> None:
    player = PlayedPlan(KEYS)
    player.accept(make_chunk(1_000_000_000))
    # 110 ms after the observation: row 2 plus a fifth of a step
    np.testing.assert_allclose(value(player, 1_110_000_000, "arm"), [2.2, -2.2])


def test_last_row_has_no_next() -> None:
    player = PlayedPlan(TURN)
    player.accept(one_key([[0.0], [1.0]]))
    assert value(player, STEP_NS) == 1.0


@pytest.mark.parametrize("mode", ExecutionMode)
@pytest.mark.parametrize("curve", Curve)
def test_gripper_never_takes_a_value_between_two_rows(mode: ExecutionMode, curve: Curve) -> None:
    player = PlayedPlan(KEYS, Execution(mode=mode, curve=curve))
    player.accept(make_chunk(0))
    player.accept(make_chunk(STEP_NS // 2, base=1.0))
    values = {float(value(player, t, "gripper")[0]) for t in range(0, 150_000_000, 7_000_000)}
    assert values == {0.0, 1.0}


@pytest.mark.parametrize("now_ns", [-1, 3 * STEP_NS + 1])
def test_nothing_is_due_outside_the_chunk(now_ns: int) -> None:
    player = PlayedPlan(KEYS)
    player.accept(make_chunk(0))
    assert player.sample(now_ns) is None
    assert player.sample(3 * STEP_NS) is not None


def test_chunk_of_an_older_or_the_same_observation_is_not_taken() -> None:
    player = PlayedPlan(KEYS)
    assert player.accept(make_chunk(STEP_NS, base=10.0))
    assert not player.accept(make_chunk(0))
    assert not player.accept(make_chunk(STEP_NS))
    assert value(player, STEP_NS, "arm")[0] == 10.0


def test_chunk_from_the_future_is_refused_and_one_slightly_ahead_waits_for_its_time() -> None:
    player = PlayedPlan(KEYS)
    player.accept(make_chunk(0), 0)
    with pytest.raises(ChunkError, match="150 ms in the future"):
        player.accept(make_chunk(3 * STEP_NS), 0)
    assert player.accept(make_chunk(STEP_NS, base=10.0), STEP_NS // 2)
    assert value(player, STEP_NS // 2, "arm")[0] == 0.5
    assert value(player, STEP_NS, "arm")[0] == 10.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda actions: actions["arm"].__setitem__((2, 1), np.nan), "'arm' holds NaN or infinity in row 2"),
        (lambda actions: actions["arm"].__setitem__((3, 0), np.inf), "'arm' holds NaN or infinity in row 3"),
        (lambda actions: actions["arm"].__setitem__((3, 0), -1e10), r"'arm' holds -1e\+10, which no joint can reach"),
        (
            lambda actions: actions.__setitem__("arm", actions["arm"][:, :1]),
            r"'arm' has shape \(4, 1\), expected \(4, 2\)",
        ),
        (lambda actions: actions.__setitem__("arm", actions["arm"][0]), r"'arm' has shape \(2,\), expected \(2, 2\)"),
        (lambda actions: actions.__setitem__("arm", actions["arm"][:0]), r"'arm' has shape \(0, 2\)"),
        (lambda actions: actions.__setitem__("gripper", actions["gripper"][:3]), r"'gripper' has shape \(3, 1\)"),
        (lambda actions: actions.pop("gripper"), r"keys \[arm\], expected \[arm, gripper\]"),
        (lambda actions: actions.__setitem__("arm", actions["arm"].astype(str)), "'arm' holds <U32, expected an array"),
        (lambda actions: actions.__setitem__("arm", actions["arm"].tolist()), "'arm' holds list, expected an array"),
    ],
)
def test_bad_chunk_is_refused_whole(spoil, message: str) -> None:
    player = PlayedPlan(KEYS)
    player.accept(make_chunk(0))
    bad = make_chunk(STEP_NS)
    spoil(bad.actions)
    with pytest.raises(ChunkError, match=message):
        player.accept(bad)
    assert player.chunk is not None
    assert player.chunk.start_ns == 0


def test_rotation_that_is_none_is_refused() -> None:
    key = VectorKey(names=("w", "x", "y", "z"), rotation=Rotation.QUATERNION)
    with pytest.raises(ChunkError, match="'hand': a quaternion has no length"):
        PlayedPlan({"hand": key}).accept(one_key([about_z(0.0), np.zeros(4)], key="hand"))


def test_cubic_curve_does_not_leave_two_equal_rows_and_has_a_continuous_velocity() -> None:
    rows = [[0.0], [1.0], [1.0], [1.5], [4.0], [3.0]]
    player = PlayedPlan(TURN, Execution(curve=Curve.CUBIC))
    player.accept(one_key(rows))
    times = np.arange(0, 5 * STEP_NS + 1, STEP_NS // 100)
    values = np.array([value(player, int(t))[0] for t in times])
    np.testing.assert_allclose(values[::100], np.ravel(rows), atol=1e-12)
    assert (values[100:201] == 1.0).all()  # between the equal rows
    velocity = np.diff(values) * 100  # per step
    assert np.abs(np.diff(velocity)).max() < 0.2  # a kink would be 1.5
    # harmonic mean of the slopes 0.5 and 2.5 at the fourth row
    assert velocity[299:301].mean() == pytest.approx(2 * 0.5 * 2.5 / 3.0, abs=0.05)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(0, 1))
def test_cubic_curve_stays_between_its_rows(rows: list[float], fraction: float) -> None:
    motion = KeyMotion(TURN["wheel"], Curve.CUBIC)
    track = motion.track(np.array(rows)[:, None])
    for row, (first, second) in enumerate(pairwise(rows)):
        found = motion.at(track, row, fraction)[0]
        assert min(first, second) <= found <= max(first, second)


def test_endless_joint_goes_the_short_way() -> None:
    player = PlayedPlan(TURN, endless=["w"])
    player.accept(one_key([[3.0], [-3.0], [-2.9]]))
    way = 2 * math.pi - 6.0
    np.testing.assert_allclose(value(player, STEP_NS // 2), 3.0 + way / 2)
    np.testing.assert_allclose(value(player, 2 * STEP_NS), 2 * math.pi - 2.9)
    with pytest.raises(ValueError, match="'wrap' is for angles, the key's unit is 'm'"):
        PlayedPlan({"wheel": VectorKey(names=("w",), unit="m")}, endless=["w"])


@pytest.mark.parametrize(
    "form", [Rotation.QUATERNION, Rotation.ROTATION_6D, Rotation.AXIS_ANGLE, Rotation.MATRIX, Rotation.EULER_RPY]
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rotation_goes_the_short_way_at_constant_speed(form: Rotation, sign: float) -> None:
    names = tuple(f"r{i}" for i in range(len(about_z(0.0, form))))
    player = PlayedPlan({"hand": VectorKey(names=names, rotation=form)})
    rows = np.stack([about_z(3.0, form), about_z(-3.0, form)])
    if form is Rotation.QUATERNION:
        rows[1] *= sign  # q and -q are one rotation
    player.accept(one_key(rows, key="hand"))
    found = convert(value(player, STEP_NS // 4, "hand"), form, Rotation.MATRIX)
    expected = about_z(3.0 + (2 * math.pi - 6.0) / 4, Rotation.MATRIX)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_pose_moves_straight_and_turns() -> None:
    key = VectorKey(names=tuple("xyzabcdef"), pose=Pose.XYZ_ROTATION_6D)
    player = PlayedPlan({"hand": key})
    first = np.concatenate([[0, 0, 0], about_z(0.0, Rotation.ROTATION_6D)])
    second = np.concatenate([[1, 2, 3], about_z(2.0, Rotation.ROTATION_6D)])
    player.accept(one_key([first, second], key="hand"))
    expected = np.concatenate([[0.25, 0.5, 0.75], about_z(0.5, Rotation.ROTATION_6D)])
    np.testing.assert_allclose(value(player, STEP_NS // 4, "hand"), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "sent", "near", "expected"),
    [
        (VectorKey(names=tuple("wxyz"), rotation=Rotation.QUATERNION), about_z(1.0), -about_z(1.1), -about_z(1.0)),
        (VectorKey(names=tuple("xyz"), rotation=Rotation.AXIS_ANGLE), [0, 0, -3.1], [0, 0, 3.1], [0, 0, 3.183185307]),
        (VectorKey(names=tuple("rpy"), rotation=Rotation.EULER_RPY), [0, 0, -3.1], [0, 0, 9.4], [0, 0, 9.466370614]),
        (VectorKey(names=("w",)), [-3.1], [15.7], [15.749555922]),
    ],
)
def test_equal_angles_and_rotations_near_the_last_command(key, sent, near, expected) -> None:
    motion = KeyMotion(key, endless=["w"])
    np.testing.assert_allclose(motion.nearest(np.array(sent), np.array(near)), expected, atol=1e-8)


def test_ensemble_is_the_weighted_mean_of_all_chunks_that_cover_the_time() -> None:
    decay = math.log(2.0)
    execution = Execution(mode=ExecutionMode.TEMPORAL_ENSEMBLE, ensemble_decay=decay)
    player = PlayedPlan(KEYS, execution)
    for i, base in enumerate((0.0, 30.0, 70.0)):
        player.accept(make_chunk(i * STEP_NS, base=base))
    # at 2.5 steps: rows 2.5, 1.5 and 0.5 with weights 1/7, 2/7 and 4/7
    expected = (2.5 + 2 * 31.5 + 4 * 70.5) / 7
    np.testing.assert_allclose(value(player, 5 * STEP_NS // 2, "arm"), [expected, -expected])
    assert value(player, 5 * STEP_NS // 2, "gripper") == 0.0  # the newest chunk's first row
    # the first chunk has ended at 3 steps
    np.testing.assert_allclose(value(player, 7 * STEP_NS // 2, "arm")[0], (32.5 + 2 * 71.5) / 3)


def test_ensemble_of_angles_and_rotations_has_no_long_way() -> None:
    execution = Execution(mode=ExecutionMode.TEMPORAL_ENSEMBLE, ensemble_decay=0.0)
    keys = {"wheel": TURN["wheel"], "hand": VectorKey(names=tuple("abcdef"), rotation=Rotation.ROTATION_6D)}
    player = PlayedPlan(keys, execution, ["w"])
    for i, angle in enumerate((3.0, -3.0)):
        hand = np.tile(about_z(angle, Rotation.ROTATION_6D), (4, 1))
        player.accept(ActionChunk({"wheel": np.full((4, 1), angle), "hand": hand}, i * STEP_NS, STEP_NS))
    due = player.sample(STEP_NS)
    assert due is not None
    np.testing.assert_allclose(np.cos(due["wheel"]), -1.0, atol=1e-12)
    np.testing.assert_allclose(due["hand"], about_z(math.pi, Rotation.ROTATION_6D), atol=1e-12)


def test_mean_quaternion_of_turns_about_one_axis_is_their_mean_turn() -> None:
    found = mean_quaternion(np.stack([about_z(0.2), -about_z(0.8)]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(np.abs(found), about_z(0.5), atol=1e-12)


def test_continuation_holds_what_will_be_over_when_the_answer_comes() -> None:
    player = PlayedPlan(KEYS, Execution(mode=ExecutionMode.REAL_TIME_CHUNKING, rtc_ramp_rate=3.0, rtc_guidance=5.0))
    assert player.continuation(0, 0) is None
    player.accept(make_chunk(0, horizon=8))
    for latency_ns, frozen_steps in ((0, 2), (1, 2), (STEP_NS, 3), (120_000_000, 4)):
        continuation = player.continuation(STEP_NS, latency_ns)
        assert continuation is not None
        assert continuation.chunk is player.chunk
        assert continuation.frozen_steps == frozen_steps
        assert (continuation.overlap_steps, continuation.ramp_rate, continuation.guidance) == (None, 3.0, 5.0)
    assert player.continuation(8 * STEP_NS, 0) is None  # nothing is left
    assert player.continuation(-1, 0) is None  # the clock was set back
    other = PlayedPlan(KEYS)
    other.accept(make_chunk(0))
    assert other.continuation(STEP_NS, 0) is None
