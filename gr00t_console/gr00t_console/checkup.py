# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run `gr00t doctor` next to the page, at low priority, and show what it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gr00t_console.board import Board
from gr00t_training.cli.parent import parent_environment
from gr00t_training.io.text import one_line, printable

SECTION = "machine"
# without what would load the disk and the network of a robot that moves
DOCTOR = ("nice", "-n", "10", sys.executable, "-m", "gr00t_training.cli.doctor", "--json", "--quick")
SHOWN = ("fault", "warning")  # levels, in the order of the page
PATIENCE_S = 5.0


@contextmanager
def examining(board: Board, topics: Path | None = None, command: Sequence[str] = DOCTOR) -> Iterator[None]:
    """Post the findings when they are there; the command ends with the page.

    Args:
        board: of the page.
        topics: topic map, whose cameras count where it is a robot's `topics.yaml`.
        command: prints findings as JSON.
    """
    robot = ["--robot", str(topics.parent)] if topics and topics.name == "topics.yaml" else []
    process = subprocess.Popen(
        [*command, *robot],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **parent_environment()},
        start_new_session=True,  # Ctrl-C is for the page
    )
    thread = threading.Thread(target=_report, args=(process, board), name="doctor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        process.terminate()
        thread.join(PATIENCE_S)
        process.kill()


def _report(process: subprocess.Popen[str], board: Board) -> None:
    output, error = process.communicate()
    if process.returncode < 0:  # the page has ended
        return
    board.post(SECTION, summary(output, error))


def summary(output: str, error: str) -> dict[str, Any]:
    """Return what the page shows of the findings: faults first, then warnings."""
    try:
        found = json.loads(output)
        rows = [(each["level"], each["check"], each["text"], each["remedy"]) for each in found]
    except (ValueError, TypeError, KeyError):
        return {"rows": [], "error": printable(one_line(error)) or "gr00t doctor printed no result", "num_checks": 0}
    shown = sorted((row for row in rows if row[0] in SHOWN), key=lambda row: SHOWN.index(row[0]))
    return {"rows": shown, "error": "", "num_checks": len({check for _, check, _, _ in rows})}
