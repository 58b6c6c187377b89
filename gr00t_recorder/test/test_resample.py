# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import pytest

from gr00t_recorder.topics.bindings import Align
from gr00t_recorder.topics.resample import Arrival, Sample, StreamBuffer


def sample(stamp_ns, receive_ns=None, value=None):
    arrival = Arrival(stamp_ns, stamp_ns if receive_ns is None else receive_ns)
    return Sample(arrival, np.array([float(stamp_ns)]) if value is None else value)


def buffer_of(*stamps, horizon_ns=10**9):
    buffer = StreamBuffer(horizon_ns)
    for stamp in stamps:
        assert buffer.insert(sample(stamp))
    return buffer


@pytest.mark.parametrize(
    ("align", "tick", "value", "age"),
    [
        (Align.HOLD, 100, 100.0, 0),
        (Align.HOLD, 199, 100.0, 99),
        (Align.HOLD, 99, None, None),
        (Align.HOLD, 350, 300.0, 50),
        (Align.NEAREST, 149, 100.0, 49),
        (Align.NEAREST, 150, 100.0, 50),  # equally close: the earlier
        (Align.NEAREST, 151, 200.0, -49),
        (Align.NEAREST, 50, 100.0, -50),
        (Align.NEAREST, 350, 300.0, 50),
        (Align.LINEAR, 125, 125.0, 25),
        (Align.LINEAR, 175, 175.0, -25),
        (Align.LINEAR, 200, 200.0, 0),
        (Align.LINEAR, 350, 300.0, 50),
        (Align.LINEAR, 99, None, None),
    ],
)
def test_choice_follows_the_documented_rule(align, tick, value, age):
    choice = buffer_of(100, 200, 300).sample(tick, align)
    if value is None:
        assert choice is None
    else:
        assert choice is not None
        assert (choice.value[0], choice.age_ns) == (value, age)


def test_causal_takes_the_newest_that_had_arrived_whatever_its_stamp():
    buffer = StreamBuffer(10**9)
    for stamp, receive in ((100, 130), (200, 260), (300, 310), (400, 460)):
        buffer.insert(sample(stamp, receive))
    found = [buffer.sample(tick, Align.CAUSAL) for tick in (129, 130, 259, 260, 310, 459)]
    assert [None if choice is None else choice.samples[0].stamp_ns for choice in found] == [
        None, 100, 100, 200, 300, 300,
    ]  # fmt: skip


def test_arrival_order_does_not_change_a_settled_choice():
    stamps = list(range(0, 1000, 10))
    ordered, shuffled = buffer_of(*stamps), list(stamps)
    random.Random(3).shuffle(shuffled)
    other = buffer_of(*shuffled)
    for align in (Align.HOLD, Align.NEAREST, Align.LINEAR):
        for tick in range(5, 985, 7):
            a, b = ordered.sample(tick, align), other.sample(tick, align)
            assert a is not None
            assert b is not None
            assert (a.value[0], a.age_ns) == (b.value[0], b.age_ns)


def test_a_stamp_seen_before_is_refused_and_the_first_stays():
    buffer = buffer_of(100, 200)
    assert not buffer.insert(sample(100, value=np.array([-1.0])))
    assert len(buffer) == 2
    choice = buffer.sample(100, Align.HOLD)
    assert choice is not None
    assert choice.value[0] == 100.0


def test_settled_means_no_later_sample_can_change_the_choice():
    buffer = buffer_of(100, 200)
    for align in (Align.HOLD, Align.NEAREST, Align.LINEAR):
        assert buffer.is_settled(200, align, 0)
        assert not buffer.is_settled(201, align, 10**9)
    assert not buffer.is_settled(150, Align.CAUSAL, 150)
    assert buffer.is_settled(150, Align.CAUSAL, 151)


def test_old_samples_are_forgotten_but_one_before_the_horizon_stays():
    buffer = buffer_of(0, 100, 200, 300, 400, horizon_ns=150)
    assert len(buffer) == 3  # 200, 300, 400: at 400 - 150 = 250 still the sample of 200 holds
    choice = buffer.sample(250, Align.HOLD)
    assert choice is not None
    assert choice.samples[0].stamp_ns == 200


def test_removed_sample_is_replaced_by_its_neighbor():
    buffer = buffer_of(100, 200)
    choice = buffer.sample(190, Align.NEAREST)
    assert choice is not None
    buffer.remove(choice.samples[0])
    choice = buffer.sample(190, Align.NEAREST)
    assert choice is not None
    assert choice.samples[0].stamp_ns == 100
