# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A reason that flickers at the control rate floods neither log nor status, and what lasts is reported."""

from __future__ import annotations

from gr00t_policy_node.control.changes import REPEAT_S, STATUS_BURST, STATUS_GAP_S, ChangeFilter


def test_a_flickering_reason_is_logged_once_per_period_and_counted() -> None:
    teller = ChangeFilter()
    lines, statuses = [], 0
    for tick in range(500):  # 10 s at 50 Hz
        now_s = tick / 50
        text = ("holding: a", "running", "holding: b")[tick % 3]
        ending = teller.note(text, now_s)
        if ending is not None:
            lines.append((now_s, text + ending))
        statuses += teller.is_status_due(now_s)
    assert [now_s for now_s, _ in lines] == [0.0, 0.02, 0.04, 5.04, 5.06, 5.08]
    assert lines[3][1] == "holding: a (249 changes before were not logged)"
    assert statuses <= 10 / STATUS_GAP_S + STATUS_BURST


def test_what_lasts_is_told_at_once_or_when_its_time_has_come() -> None:
    teller = ChangeFilter()
    assert teller.note("idle", 0.0) == "" and teller.is_status_due(0.0)
    assert teller.note("stopped", 0.01) == ""
    assert teller.is_status_due(0.01) and not teller.is_status_due(1.0)
    assert teller.note("idle", 0.02) is None
    assert teller.note("idle", REPEAT_S - 0.1) is None
    assert teller.note("idle", REPEAT_S) == ""
    assert teller.note("idle", 100.0) is None


def test_the_newest_of_many_changes_has_its_status_soon() -> None:
    teller = ChangeFilter()
    for tick in range(10):
        teller.note(f"reason {tick % 2}", 1.0)
        assert teller.is_status_due(1.0) == (tick < STATUS_BURST)
    assert teller.is_status_due(1.0 + 1.01 * STATUS_GAP_S) and not teller.is_status_due(3.0)
