# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The hand-overs of `bench/handovers.py`, fewer; and that its checks find a controller that is wrong."""

from __future__ import annotations

import pytest

from gr00t_policy_node.control import step, takeover

handovers = pytest.importorskip("bench.handovers", reason="the benches are not part of an installed package")

pytestmark = pytest.mark.slow


def test_no_hand_over_jumps_and_every_dead_link_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert handovers.main(["--handovers", "200", "--seed", "7"]) == 0
    assert "commands outside limits, jumps, dead links not held, old observations: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda m: m.setattr(takeover, "link_fault", lambda *_: ""), "with a dead link"),
        (lambda m: m.setattr(step, "_brake", lambda setup, state, elapsed_s: (state, None)), "velocity"),
        (
            lambda m: m.setattr(takeover, "_released", lambda setup, state, now_ns: state.with_changes(person="")),
            "before the hand-over",
        ),
    ],
)
def test_a_controller_that_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoil, found: str
) -> None:
    spoil(monkeypatch)
    assert handovers.main(["--handovers", "200"]) == 1
    assert found in capsys.readouterr().out
