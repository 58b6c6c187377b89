# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The list of all robots: names, order, lost ones and links; without ROS."""

from __future__ import annotations

import pytest

from gr00t_console.fleet import FORGET_AFTER_S, LOST_AFTER_S, Fleet, PolicyNumbers, RecorderNumbers, robot_name
from gr00t_console.robot import PolicyView

RUNNING = PolicyNumbers(PolicyView("running", "policy"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/arm1/policy", "arm1"),
        ("/arm1/recorder", "arm1"),
        ("/cell/arm1/policy", "cell/arm1"),
        ("/left_policy", "left_policy"),
        ("/arm1/left", "arm1/left"),
        ("/policy", "robot"),
    ],
)
def test_robots_are_told_apart_by_namespace_or_node(path: str, name: str) -> None:
    assert robot_name(path) == name


def test_a_silent_robot_is_lost_and_later_forgotten() -> None:
    now_s = [100.0]
    fleet = Fleet(lambda: now_s[0])
    fleet.note_policy("arm1", RUNNING)
    now_s[0] += LOST_AFTER_S
    fleet.note_recorder("arm2", RecorderNumbers("idle", episodes=3))
    assert [(row["name"], row["is_lost"]) for row in fleet.rows()] == [("arm1", False), ("arm2", False)]
    now_s[0] += 1.5
    assert [(row["name"], row["is_lost"], row["silent_s"]) for row in fleet.rows()] == [
        ("arm1", True, 5),
        ("arm2", False, 0),
    ]
    now_s[0] = 100.0 + FORGET_AFTER_S
    assert [row["name"] for row in fleet.rows()] == ["arm2"]


def test_robots_of_a_server_are_together() -> None:
    fleet = Fleet(lambda: 0.0)
    for name, server in (("a", "gpu2:5555"), ("b", ""), ("c", "gpu1:5555"), ("d", "gpu2:5555")):
        fleet.note_policy(name, RUNNING)
        fleet.note_facts(name, "", server)
    assert [row["name"] for row in fleet.rows()] == ["b", "c", "a", "d"]


def test_only_web_addresses_become_links() -> None:
    fleet = Fleet(lambda: 0.0)
    fleet.note_policy("arm1", RUNNING)
    fleet.note_page("arm1", "javascript:alert(1)")
    assert fleet.rows()[0]["page"] == ""
    fleet.note_page("arm1", "http://localhost:8601/")
    assert fleet.rows()[0]["page"] == "http://localhost:8601/"
