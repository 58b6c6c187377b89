# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Change checkpoint and dry run of a policy node that runs: out of its activation, set, and back.

Deactivation brings the robot to rest before anything else, so nothing moves meanwhile. Loading a model takes up to
minutes: the request is answered at once, and each step is shown. Where the new policy is refused, the old one is
configured again, but not activated: a person decides what the robot does next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from gr00t_console.board import Board
from gr00t_console.robot import Answer, Robot
from gr00t_training.io.text import printable

logger = logging.getLogger(__name__)
SECTION = "policy_change"
LEAVING = {"active": ("deactivate", "cleanup"), "inactive": ("cleanup",), "unconfigured": ()}
STEPS = {
    "deactivate": "bringing the robot to rest",
    "cleanup": "freeing the old policy",
    "configure": "loading the policy",
    "activate": "activating",
}
Values = Mapping[str, Any]


class PolicyChange:
    """Changes of one policy node, one at a time; for one event loop."""

    def __init__(self, robot: Robot, board: Board) -> None:
        """Begin without a change."""
        self._robot, self._board = robot, board
        self._task: asyncio.Task[None] | None = None

    async def begin(self, members: dict[str, Any]) -> Answer:
        """Begin to change the policy; an empty `checkpoint` keeps the one that there is."""
        if self._task is not None and not self._task.done():
            return Answer(False, "the policy is being changed already")
        lifecycle, before = self._robot.policy_lifecycle, self._robot.policy_values
        if lifecycle not in LEAVING:
            return Answer(False, f"the policy node is {lifecycle or 'absent'}; start it, or wait")
        if lifecycle == "active" and not members["is_confirmed"]:
            return Answer(False, "the policy node is active: confirm that the robot is stopped first")
        values: dict[str, Any] = {"dry_run": members["dry_run"]}
        if members["checkpoint"]:
            values |= {"checkpoint_path": members["checkpoint"], "server": ""}
        old = {name: before[name] for name in values if name in before}
        self._task = asyncio.create_task(self._change(lifecycle, values, old))
        return Answer(True, "changing the policy")

    async def _change(self, lifecycle: str, values: Values, old: Values) -> None:
        for step in LEAVING[lifecycle]:
            if not await self._step(step):
                return
        answer = await self._robot.ask("set_policy", values=values)
        if not answer.is_done or not await self._step("configure"):
            await self._go_back(old, answer)
        elif lifecycle != "active" or await self._step("activate"):
            self._show("changed; active" if lifecycle == "active" else "changed; activate the node")

    async def _go_back(self, old: Values, refused: Answer) -> None:
        why = "see the log of the node" if refused.is_done else printable(refused.text)
        await self._robot.ask("set_policy", values=old)
        is_back = await self._step("configure")
        found = "the one before is configured and not active" if is_back else "the one before is not configured either"
        self._show(f"the new policy was refused ({why}); {found}", is_fault=True)

    async def _step(self, name: str) -> bool:
        """Do a transition; show what is wrong with it."""
        self._show(f"{STEPS[name]}…", is_running=True)
        answer = await self._robot.ask("lifecycle", node="policy", transition=name)
        if not answer.is_done:
            self._show(answer.text, is_fault=True)
        return answer.is_done

    def _show(self, text: str, *, is_running: bool = False, is_fault: bool = False) -> None:
        (logger.warning if is_fault else logger.info)("change of the policy: %s", text)
        self._board.post(SECTION, {"text": text, "is_running": is_running, "is_fault": is_fault})
