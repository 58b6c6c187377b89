# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gr00t_policy_node.chunking import ChunkError, ChunkPlayer, interpolate, slerp
from gr00t_training.embodiment import Interpolation, VectorKey
from gr00t_training.types import ActionChunk

KEYS = {
    "arm": VectorKey(names=("a", "b")),
    "gripper": VectorKey(names=("g",), interpolation=Interpolation.STEP),
}
STEP_NS = 50_000_000


def make_chunk(start_ns: int, *, base: float = 0.0, horizon: int = 4) -> ActionChunk:
    ramp = base + np.arange(horizon, dtype=np.float64)
    return ActionChunk({"arm": np.stack([ramp, -ramp], axis=1), "gripper": ramp[:, None] % 2}, start_ns, STEP_NS)


def test_row_due_follows_the_clock_so_latency_is_compensated() -> None:
    player = ChunkPlayer(KEYS)
    player.accept(make_chunk(1_000_000_000))
    # 110 ms after the observation: row 2 plus a fifth of a step
    due = player.sample(1_110_000_000)
    assert due is not None
    np.testing.assert_allclose(due["arm"], [2.2, -2.2])


def test_gripper_never_takes_a_value_between_two_rows() -> None:
    player = ChunkPlayer(KEYS)
    player.accept(make_chunk(0))
    values = {float(player.sample(t)["gripper"][0]) for t in range(0, 150_000_000, 7_000_000)}  # type: ignore[index]
    assert values == {0.0, 1.0}


@pytest.mark.parametrize("now_ns", [-1, 3 * STEP_NS + 1])
def test_nothing_is_due_outside_the_chunk(now_ns: int) -> None:
    player = ChunkPlayer(KEYS)
    player.accept(make_chunk(0))
    assert player.sample(now_ns) is None
    assert player.sample(3 * STEP_NS) is not None


def test_chunk_of_an_older_observation_is_not_taken() -> None:
    player = ChunkPlayer(KEYS)
    assert player.accept(make_chunk(STEP_NS, base=10.0))
    assert not player.accept(make_chunk(0))
    assert player.sample(STEP_NS)["arm"][0] == 10.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda actions: actions["arm"].__setitem__((2, 1), np.nan), "'arm' holds NaN or infinity in row 2"),
        (
            lambda actions: actions.__setitem__("arm", actions["arm"][:, :1]),
            r"'arm' has shape \(4, 1\), expected \(4, 2\)",
        ),
        (lambda actions: actions.__setitem__("gripper", actions["gripper"][:3]), r"'gripper' has shape \(3, 1\)"),
        (lambda actions: actions.pop("gripper"), r"keys \[arm\], expected \[arm, gripper\]"),
    ],
)
def test_bad_chunk_is_refused_whole(spoil, message: str) -> None:
    player = ChunkPlayer(KEYS)
    player.accept(make_chunk(0))
    bad = make_chunk(STEP_NS)
    spoil(bad.actions)
    with pytest.raises(ChunkError, match=message):
        player.accept(bad)
    assert player.chunk is not None
    assert player.chunk.start_ns == 0


def test_slerp_goes_the_short_way_at_constant_speed() -> None:
    def about_z(angle: float) -> np.ndarray:
        return np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])

    np.testing.assert_allclose(slerp(about_z(0.0), about_z(1.0), 0.25), about_z(0.25), atol=1e-12)
    np.testing.assert_allclose(slerp(about_z(0.0), -about_z(1.0), 0.25), about_z(0.25), atol=1e-12)
    np.testing.assert_allclose(slerp(about_z(0.0), about_z(1e-4), 0.5), about_z(5e-5), atol=1e-9)


def test_last_row_has_no_next() -> None:
    rows = np.array([[0.0], [1.0]])
    assert interpolate(rows, 1, 0.5, Interpolation.LINEAR) == 1.0
