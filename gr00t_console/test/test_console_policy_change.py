# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The console changes the policy of a node: which transitions, in which order, and what if one is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gr00t_console.board import Board
from gr00t_console.policy_change import PolicyChange
from gr00t_console.robot import Answer


class Node:
    """A policy node that remembers its requests; it refuses to configure with some checkpoints."""

    def __init__(self, lifecycle: str) -> None:
        self.policy_lifecycle = lifecycle
        self.policy_values: dict[str, Any] = {"checkpoint_path": "old", "server": "", "dry_run": True}
        self.asked: list[Any] = []
        self.refuses = ""

    async def ask(self, name: str, **members: Any) -> Answer:
        self.asked.append(members.get("transition") or dict(members["values"]))
        if name == "set_policy":
            self.policy_values |= members["values"]
            return Answer(True, "set")
        is_refused = members["transition"] == "configure" and self.policy_values["checkpoint_path"] == self.refuses
        return Answer(not is_refused, f"{members['transition']} was refused" if is_refused else "done")


def change(node: Node, checkpoint: str = "new", *, is_confirmed: bool = True) -> tuple[Answer, dict[str, Any]]:
    """Ask for a change and wait for its end; return the answer and what the page shows."""
    board = Board()

    async def scenario() -> Answer:
        begun = PolicyChange(node, board)  # type: ignore[arg-type]
        members = {"checkpoint": checkpoint, "dry_run": False, "is_confirmed": is_confirmed}
        answer = await begun.begin(members)
        if begun._task is not None:
            again = await begun.begin(members)
            assert again.text == "the policy is being changed already"
            await begun._task
        return answer

    answer = asyncio.run(scenario())
    return answer, json.loads(board.reader().take().get("policy_change", "{}"))


def test_an_active_node_comes_to_rest_first_and_only_when_that_is_confirmed() -> None:
    node = Node("active")
    answer, _ = change(node, is_confirmed=False)
    assert (answer.is_done, node.asked) == (False, [])
    assert answer.text == "the policy node is active: confirm that the robot is stopped first"
    answer, shown = change(node)
    assert answer.is_done
    values = {"dry_run": False, "checkpoint_path": "new", "server": ""}
    assert node.asked == ["deactivate", "cleanup", values, "configure", "activate"]
    assert shown == {"text": "changed; active", "is_running": False, "is_fault": False}


@pytest.mark.parametrize(("lifecycle", "steps"), [("inactive", ["cleanup"]), ("unconfigured", [])])
def test_a_node_that_was_not_active_is_not_activated(lifecycle: str, steps: list[str]) -> None:
    node = Node(lifecycle)
    _, shown = change(node, "", is_confirmed=False)
    assert node.asked == [*steps, {"dry_run": False}, "configure"]  # the checkpoint stays
    assert shown["text"] == "changed; activate the node"


def test_a_policy_that_is_refused_gives_way_to_the_one_before_which_is_not_activated() -> None:
    node = Node("active")
    node.refuses = "new"
    _, shown = change(node)
    old = {"dry_run": True, "checkpoint_path": "old", "server": ""}
    assert node.asked[3:] == ["configure", old, "configure"]
    assert shown["is_fault"]
    assert shown["text"].endswith("the one before is configured and not active")


def test_a_node_that_is_absent_is_named() -> None:
    answer, shown = change(Node("absent"))
    assert (answer.text, shown) == ("the policy node is absent; start it, or wait", {})
