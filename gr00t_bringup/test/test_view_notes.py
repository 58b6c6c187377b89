# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which changes of a status become lines of a log; without ROS."""

from __future__ import annotations

from gr00t_bringup.views.notes import Level, Line, PolicyNote, RecorderNote, policy_lines, recorder_lines


def policy(state: str, reason: str = "", **counts: dict[str, int]) -> PolicyNote:
    return PolicyNote(stamp_ns=0, state=state, reason=reason, counts=counts)


def test_a_new_state_and_each_count_that_rose_is_a_line() -> None:
    running = policy("running", hold={"input": 2}, clamp={"velocity": 7, "position": 1}, stop={})
    holding = policy(
        "holding", "front: 0.52 s old", hold={"input": 3}, clamp={"velocity": 9, "position": 1}, stop={"request": 1}
    )
    assert list(policy_lines(running, holding)) == [
        Line(Level.WARN, "holding: front: 0.52 s old"),
        Line(Level.WARN, "hold: input"),
        Line(Level.WARN, "clamp: velocity 2 times"),
        Line(Level.ERROR, "stop: request"),
    ]


def test_an_age_that_grows_in_the_reason_is_no_line() -> None:
    assert not list(policy_lines(policy("holding", "front: 0.52 s old"), policy("holding", "front: 1.53 s old")))


def test_counts_from_before_the_view_are_no_lines_and_those_of_a_new_node_are() -> None:
    first = policy("stopped", hold={"input": 5})
    assert list(policy_lines(None, first)) == [Line(Level.ERROR, "stopped")]
    again = policy("stopped", hold={"input": 1})
    assert list(policy_lines(first, again)) == [Line(Level.WARN, "hold: input")]


def test_a_recorder_logs_states_tasks_and_warnings() -> None:
    idle = RecorderNote(stamp_ns=0, state="idle", task="lift")
    warned = RecorderNote(stamp_ns=0, state="recording", task="lift", warning="front is stale for 3 s")
    assert list(recorder_lines(None, idle)) == [Line(Level.INFO, "idle [lift]")]
    assert list(recorder_lines(idle, warned)) == [
        Line(Level.INFO, "recording [lift]"),
        Line(Level.WARN, "front is stale for 3 s"),
    ]
    later = RecorderNote(stamp_ns=0, state="recording", task="lift", warning="front is stale for 4 s")
    assert not list(recorder_lines(warned, later))
