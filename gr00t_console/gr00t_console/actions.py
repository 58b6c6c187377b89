# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests that need more than one call of the robot: trials, edits of datasets, another policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from gr00t_console.board import Board
from gr00t_console.datasets import Shelf
from gr00t_console.operator import Operator
from gr00t_console.policy_change import PolicyChange
from gr00t_console.requests import Kind
from gr00t_console.robot import Answer, Robot
from gr00t_console.trial_desk import TrialDesk
from gr00t_training.errors import Gr00tError

TRIAL_FIELDS = {"instruction": str, "time_limit_s": float}
CHANGE_FIELDS = {"checkpoint": str, "dry_run": bool, "is_confirmed": bool}
EDIT_FIELDS = {"kind": str, "dataset": str, "episodes": list, "text": str, "output": str}


def add_actions(
    operator: Operator,
    robot: Robot,
    board: Board,
    shelf: Shelf,
    desk: TrialDesk,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Let an operator run trials, edit datasets and change the policy; `clock` is steady [s]."""

    def show() -> None:
        board.post("trials", desk.section())

    async def begin(members: dict[str, Any]) -> Answer:
        view = robot.policy
        if view is None or desk.is_running:
            return Answer(False, "a trial is running; judge it first" if view else "no policy node; start it")
        answer = await robot.ask("run", **members)
        if answer.is_done:
            desk.begin(members["instruction"], robot.checkpoint, members["time_limit_s"], view, clock())
            show()
        return answer

    async def end(members: dict[str, Any]) -> Answer:
        view = robot.policy
        if view is None:
            return Answer(False, "no policy node; its counts belong to the trial")
        ended_s = clock()
        await robot.ask("end_task")
        try:
            trial = await asyncio.to_thread(desk.end, members["success"], members["note"], view, ended_s)
        except Gr00tError as error:
            return Answer(False, str(error))
        show()
        return Answer(
            True, f"trial {trial.spec.seed}: {'success' if trial.success else 'failure'}, {trial.time_s:.1f} s"
        )

    async def cancel(members: dict[str, Any]) -> Answer:
        await robot.ask("end_task")
        desk.cancel()
        show()
        return Answer(True, "this trial does not count")

    async def edit(members: dict[str, Any]) -> Answer:
        try:
            text = await asyncio.to_thread(shelf.edit, **members)
        except (Gr00tError, OSError) as error:
            return Answer(False, str(error))
        board.post("datasets_changed", {"at_s": clock()})
        return Answer(True, text)

    operator.add("trial_begin", Kind(TRIAL_FIELDS), begin)
    operator.add("trial_end", Kind({"success": bool, "note": str}), end)
    operator.add("trial_cancel", Kind(), cancel)
    operator.add("edit", Kind(EDIT_FIELDS), edit)
    operator.add("change_policy", Kind(CHANGE_FIELDS), PolicyChange(robot, board).begin)
    show()
