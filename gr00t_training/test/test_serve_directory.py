# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What replicas are to serve, how many there are, and where their messages end; without Ray."""

import argparse
import types

import numpy as np
import pytest

pytest.importorskip("msgpack")

from gr00t_training.cli.serve_replicas import replica_count
from gr00t_training.serve import replicas, zmtp
from gr00t_training.serve.replicas import LOAD, Directory, Progress, Report, wanted_replicas


def report(directory, name, checkpoint):
    return directory.report(name, Report(("127.0.0.1", 1 + ord(name)), checkpoint, 0.0))


def test_update_goes_through_the_replicas_one_by_one():
    directory = Directory("old")
    assert [report(directory, name, "old") for name in "ab"] == [None, None]
    assert directory.update("new") == ""
    assert report(directory, "b", "old") == "new"
    assert report(directory, "a", "old") is None  # it is the turn of the other
    assert directory.checkpoint() == "old"  # nobody has loaded the new one yet
    assert directory.update("newer") == "an update to new is running"
    assert report(directory, "b", "new") is None
    assert directory.checkpoint() == "new"
    assert directory.progress() == Progress("new", 1, 2, "")
    assert report(directory, "a", "old") == "new"
    assert report(directory, "a", "new") is None
    assert directory.progress() == Progress("new", 2, 2, "")
    assert directory.update("old") == ""


def test_update_that_cannot_be_loaded_changes_nothing():
    directory = Directory("old")
    report(directory, "a", "old")
    directory.update("bad")
    assert report(directory, "a", "old") == "bad"
    assert directory.refuse("a", "bad", "no such folder")
    assert directory.progress() == Progress("old", 1, 1, "no such folder")
    assert report(directory, "a", "old") is None
    assert directory.checkpoint() == "old"
    directory.update("new")
    assert directory.progress().refusal == ""


def test_replica_that_cannot_load_what_others_serve_must_be_replaced():
    directory = Directory("old")
    for name in "ab":
        report(directory, name, "old")
    directory.update("new")
    report(directory, "a", "old")
    report(directory, "a", "new")
    assert report(directory, "b", "old") == "new"
    assert not directory.refuse("b", "new", "out of memory")
    assert directory.checkpoint() == "new"


def test_turn_of_a_replica_that_ends_goes_to_the_next(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(replicas.time, "monotonic", lambda: now_s[0])
    directory = Directory("old")
    for name in "ab":
        report(directory, name, "old")
    directory.update("new")
    assert report(directory, "a", "old") == "new"
    now_s[0] += replicas.STALE_S + 1
    assert report(directory, "b", "old") == "new"
    assert directory.addresses() == [("127.0.0.1", 1 + ord("b"))]
    directory.remove("b")
    assert directory.addresses() == []


@pytest.mark.parametrize(("loads", "expected"), [([], 1), ([8.0], 1), ([16.1], 2), ([30, 30, 30], 4), ([0.0, 0.0], 1)])
def test_replicas_by_load(loads, expected):
    context = types.SimpleNamespace(
        aggregated_metrics={LOAD: dict(enumerate(loads))},
        config=types.SimpleNamespace(target_ongoing_requests=16),
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )
    assert wanted_replicas(context) == (expected, {})


def test_number_of_replicas():
    assert (replica_count("2").least, replica_count("2").most) == (2, 2)
    assert (replica_count("1..4").least, replica_count("1..4").most) == (1, 4)
    assert [str(replica_count(text)) for text in ("3", "1..4")] == ["3", "1..4"]
    for text in ("0", "4..1", "1..", "..4", "x", "1..2..3", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number, or two such as"):
            replica_count(text)


def test_messages_are_counted_however_their_bytes_arrive():
    """Between messages only where one has ended and none has begun."""
    messages = [[b"", b"x" * 300], [b"route", b"", b"y"], [b""], [b"", b"z" * 255]]
    parts = [zmtp.GREETING, zmtp.ready("REQ")]
    whole = [b"".join(zmtp.frames(message)) for message in messages]
    parts += [whole[0], zmtp.ping(), whole[1], whole[2], zmtp.ping(), whole[3]]
    stream = b"".join(parts)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    counter = zmtp.MessageCounter()
    for place, byte in enumerate(stream, start=1):
        counter.feed(bytes([byte]))
        assert counter.is_between == (place in ends)
    assert counter.count == len(messages)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other, cuts = zmtp.MessageCounter(), np.sort(rng.integers(0, len(stream), 5)).tolist()
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            other.feed(stream[begin:end])
        assert (other.count, other.is_between) == (len(messages), True)
