# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Alignment against an oracle that sees all samples at once, and interpolation against the geometry behind it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gr00t_recorder.topics.bindings import Align, VectorBinding
from gr00t_recorder.topics.layout import Blend, declared_turns, followed, signed
from gr00t_recorder.topics.resample import Arrival, Sample, StreamBuffer
from gr00t_training.embodiment import Interpolation, Pose, Rotation, VectorKey
from gr00t_training.rotations import WIDTHS, convert, from_matrix, to_matrix

MAX_GAP_NS = 40
LONG_NS = 10**6
STAMPS = st.integers(0, 200)


@dataclasses.dataclass(frozen=True)
class Recording:
    samples: tuple[tuple[int, int], ...]  # stamp and receive time, in order of arrival; stamps differ
    holes: tuple[int, ...]  # stamps of unusable messages


@st.composite
def recordings(draw):
    stamps = draw(st.lists(STAMPS, min_size=1, max_size=25, unique=True))
    delays = draw(st.lists(st.integers(0, 30), min_size=len(stamps), max_size=len(stamps)))
    samples = sorted(((stamp, stamp + delay) for stamp, delay in zip(stamps, delays, strict=True)), key=lambda s: s[1])
    holes = draw(st.lists(STAMPS.filter(lambda stamp: stamp not in stamps), max_size=4))
    return Recording(tuple(samples), tuple(holes))


def value_at(stamp):
    return float(3 * stamp + 7)


def filled_buffer(recording, until_receive=LONG_NS):
    buffer = StreamBuffer(LONG_NS, max_gap_ns=MAX_GAP_NS)
    for stamp, receive in recording.samples:
        if receive <= until_receive:
            buffer.insert(Sample(Arrival(stamp, receive), np.array([value_at(stamp)])))
    for hole in recording.holes:
        buffer.mark_hole(hole)
    return buffer


def expected(recording, tick, align):
    """Return (value, age) by the definition of each way, over all samples."""
    samples = recording.samples
    if align is Align.CAUSAL:
        arrived = [stamp for stamp, receive in samples if receive <= tick]
        return (value_at(max(arrived)), tick - max(arrived)) if arrived else None
    before = max((stamp for stamp, _ in samples if stamp <= tick), default=None)
    after = min((stamp for stamp, _ in samples if stamp >= tick), default=None)
    if align is Align.HOLD:
        return None if before is None else (value_at(before), tick - before)
    if align is Align.NEAREST:
        closest = min((stamp for stamp, _ in samples), key=lambda stamp: (abs(tick - stamp), stamp))
        return value_at(closest), tick - closest
    if before is None:
        return None
    is_broken = after is None or after - before > MAX_GAP_NS or any(before < hole < after for hole in recording.holes)
    if before == after or is_broken:
        return value_at(before), tick - before
    closest = before if tick - before <= after - tick else after
    return value_at(tick), tick - closest  # the values are on a line


@settings(max_examples=150, deadline=None)
@given(recordings(), st.integers(-5, 210), st.sampled_from(list(Align)))
def test_choice_equals_the_definition(recording, tick, align):
    choice, wanted = filled_buffer(recording).sample(tick, align), expected(recording, tick, align)
    if wanted is None:
        assert choice is None
        return
    assert choice is not None
    assert choice.age_ns == wanted[1]
    np.testing.assert_allclose(choice.value, [wanted[0]])


@settings(max_examples=150, deadline=None)
@given(
    recordings(), st.integers(0, 200), st.sampled_from([Align.HOLD, Align.NEAREST, Align.LINEAR]), st.integers(0, 230)
)
def test_settled_choice_is_final_when_stamps_come_in_order(recording, tick, align, now):
    """What a live recorder chooses as soon as it may is what a bag gives in the end."""
    in_order = dataclasses.replace(
        recording, samples=tuple((stamp, stamp) for stamp in sorted(stamp for stamp, _ in recording.samples))
    )
    heard = dataclasses.replace(in_order, holes=tuple(hole for hole in recording.holes if hole <= now))
    early, late = filled_buffer(heard, until_receive=now), filled_buffer(in_order)
    assume(early.is_settled(tick, align, now))
    first, last = early.sample(tick, align), late.sample(tick, align)
    assert (first is None) == (last is None)
    if first is not None and last is not None:
        assert first.age_ns == last.age_ns
        np.testing.assert_array_equal(first.value, last.value)


def test_linear_is_not_drawn_across_a_hole_nor_a_gap():
    buffer = StreamBuffer(LONG_NS, max_gap_ns=150)
    for stamp in (0, 100, 200, 300, 500):
        buffer.insert(Sample(Arrival(stamp, stamp), np.array([float(stamp)])))
    buffer.mark_hole(150)
    found = {tick: buffer.sample(tick, Align.LINEAR) for tick in (50, 120, 180, 250, 490)}
    assert {tick: choice.value[0] for tick, choice in found.items() if choice} == {
        50: 50, 120: 100, 180: 100, 250: 250, 490: 300,
    }  # fmt: skip
    assert found[180] is not None
    assert found[180].age_ns == 80
    nearest = buffer.sample(180, Align.NEAREST)
    assert nearest is not None
    assert nearest.value[0] == 200


def test_old_holes_are_forgotten_with_their_samples():
    buffer = StreamBuffer(100)
    for stamp in range(0, 1000, 10):
        buffer.insert(Sample(Arrival(stamp, stamp), np.zeros(1)))
        buffer.mark_hole(stamp + 5)
    assert len(buffer._holes) <= 12
    buffer.clear()
    assert not buffer._holes


UNIT = st.floats(-1, 1, allow_nan=False)


@st.composite
def quaternions(draw):
    values = np.array([draw(UNIT) for _ in range(4)])
    assume(np.linalg.norm(values) > 0.1)
    return values / np.linalg.norm(values)


def vector_key(dim, **values):
    return VectorKey(names=tuple(f"c{i}" for i in range(dim)), **values)


def blend_of(key, **binding):
    return Blend(key, VectorBinding(stream="s", **binding), declared_turns(key)), tuple(range(key.dim))


def turned_part(first, second, weight):
    """Oracle: the turn from one to the other about its axis, by a share of its angle."""
    between = from_matrix(first.T @ second, Rotation.AXIS_ANGLE)
    return first @ to_matrix(weight * between, Rotation.AXIS_ANGLE)


@settings(max_examples=200, deadline=None)
@given(quaternions(), quaternions(), st.floats(0, 1), st.sampled_from(list(Rotation)))
def test_rotations_turn_along_the_shortest_way_in_every_form(a, b, weight, form):
    assume(abs(a @ b) > 0.01)  # half a turn has two shortest ways
    first, second = (to_matrix(q, Rotation.QUATERNION) for q in (a, b))
    if form.value.startswith("euler"):  # at a right angle of the middle axis the form says nothing
        middles = [from_matrix(m, form)[1] for m in (first, second, turned_part(first, second, weight))]
        assume(all(abs(middle) < 1.5 for middle in middles))
    blend, group = blend_of(vector_key(WIDTHS[form], rotation=form))
    found = blend(from_matrix(first, form), from_matrix(second, form), weight, group)
    np.testing.assert_allclose(to_matrix(found, form), turned_part(first, second, weight), atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(quaternions(), quaternions(), st.floats(0.01, 0.99), st.sampled_from(list(Pose)))
def test_poses_move_straight_and_turn(a, b, weight, form):
    assume(abs(a @ b) > 0.01)
    first, second = (to_matrix(q, Rotation.QUATERNION) for q in (a, b))

    def pose(rotation, position):
        if form is Pose.MATRIX:
            return np.vstack([np.column_stack([rotation, position]), [0, 0, 0, 1]]).reshape(16)
        kind = Rotation.ROTATION_6D if form is Pose.XYZ_ROTATION_6D else Rotation.AXIS_ANGLE
        return np.concatenate([position, from_matrix(rotation, kind)])

    blend, group = blend_of(vector_key(form.dim, pose=form))
    found = blend(pose(first, [0.0, 1.0, 2.0]), pose(second, [1.0, 1.0, 0.0]), weight, group)
    wanted = pose(turned_part(first, second, weight), [weight, 1.0, 2 - 2 * weight])
    if form is Pose.XYZ_AXIS_ANGLE:  # near half a turn the axis has either sign
        found, wanted = (to_matrix(x[3:], Rotation.AXIS_ANGLE) for x in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(quaternions())
def test_sign_of_a_quaternion_is_unique_and_survives_noise(q):
    np.testing.assert_array_equal(signed(q), signed(-q))
    first = np.flatnonzero(np.abs(q) > 0.25)[0]
    assert signed(q)[first] > 0
    np.testing.assert_allclose(
        convert(signed(q), Rotation.QUATERNION, Rotation.MATRIX), convert(q, Rotation.QUATERNION, Rotation.MATRIX)
    )


def test_followed_quaternion_never_jumps():
    key = vector_key(4, rotation=Rotation.QUATERNION)
    angles = np.linspace(0, 4 * np.pi, 200)  # two turns: the quaternion comes back to its start after them
    rows = [signed(np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])) for angle in angles]
    assert max(np.abs(np.diff(rows, axis=0)).max(axis=1)) > 0.3
    smooth = [rows[0]]
    for row in rows[1:]:
        smooth.append(followed(row, smooth[-1], declared_turns(key)))
    np.testing.assert_allclose(smooth, [[np.cos(a / 2), 0, 0, np.sin(a / 2)] for a in angles], atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.floats(-np.pi, np.pi), st.floats(-3.1, 3.1), st.floats(0, 1), st.booleans())
def test_wrapped_angles_go_the_short_way_and_stay_in_their_range(first, step, weight, from_zero):
    low = 0.0 if from_zero else -np.pi
    ends = [low + (angle - low) % (2 * np.pi) for angle in (first, first + step)]
    blend, group = blend_of(vector_key(1, unit="rad"), wrap=True)
    found = blend(np.array([ends[0]]), np.array([ends[1]]), weight, group)[0]
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * (first + weight * step)), atol=1e-6)
    assert low - 1e-9 <= found <= low + 2 * np.pi + 1e-9


@pytest.mark.parametrize(
    ("unit", "first", "second", "middle"),
    [("deg", 170.0, -170.0, -180.0), ("deg", 350.0, 20.0, 5.0), ("rad", 7.0, 8.0, 7.5), ("turn", 0.9, 0.2, 0.05)],
)
def test_wrap_by_hand(unit, first, second, middle):
    blend, group = blend_of(vector_key(1, unit=unit), wrap=True)
    np.testing.assert_allclose(blend(np.array([first]), np.array([second]), 0.5, group), [middle], atol=1e-12)
    straight, group = blend_of(vector_key(1, unit=unit))
    np.testing.assert_allclose(straight(np.array([first]), np.array([second]), 0.5, group), [(first + second) / 2])


def test_partial_channels_are_interpolated_alone():
    blend, _ = blend_of(vector_key(3, unit="rad"), wrap=True)
    found = blend(np.array([3.0, 0.0]), np.array([-3.0, 1.0]), 0.5, (2, 0))
    np.testing.assert_allclose(found, [-np.pi, 0.5])


def test_keys_of_steps_are_not_interpolated():
    assert blend_of(vector_key(1, interpolation=Interpolation.STEP))[0].is_step
    buffer = StreamBuffer(LONG_NS, blend=None)
    for stamp, value in ((0, 0.0), (100, 1.0)):
        buffer.insert(Sample(Arrival(stamp, stamp), np.array([value])))
    choice = buffer.sample(99, Align.LINEAR)
    assert choice is not None
    assert (choice.value[0], choice.age_ns) == (0.0, 99)
