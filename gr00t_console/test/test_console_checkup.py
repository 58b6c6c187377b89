# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t doctor` next to the page: what is shown of it, and that it ends with the page."""

import json
import subprocess
from pathlib import Path

import pytest

from gr00t_console.board import Board
from gr00t_console.checkup import DOCTOR, SECTION, examining, summary
from gr00t_test_support.waiting import eventually

FOUND = [
    {"check": "python", "level": "ok", "text": "3.12", "remedy": ""},
    {"check": "disk", "level": "warning", "text": "small", "remedy": "free some"},
    {"check": "gpu", "level": "fault", "text": "no driver", "remedy": "install it"},
    {"check": "usb", "level": "not checked", "text": "none", "remedy": ""},
]


def test_faults_come_before_warnings() -> None:
    shown = summary(json.dumps(FOUND), "")
    assert shown["rows"] == [("fault", "gpu", "no driver", "install it"), ("warning", "disk", "small", "free some")]
    assert (shown["error"], shown["num_checks"]) == ("", 4)


@pytest.mark.parametrize("output", ["", "[1]", "{}x", '{"check": 1}'])
def test_result_that_cannot_be_read_is_said(output: str) -> None:
    assert summary(output, "gr00t_doctor: error: no such robot\n")["error"] == "gr00t_doctor: error: no such robot"


def test_findings_are_posted_for_the_robot_of_the_topic_map(tmp_path: Path) -> None:
    board, heard = Board(), tmp_path / "words"
    found = tmp_path / "found.json"
    found.write_text(json.dumps(FOUND))
    code = f'echo "$@" > {heard}; cat {found}'
    with examining(board, tmp_path / "topics.yaml", ["sh", "-c", code, "sh"]):
        content = eventually(lambda: board.reader().take().get(SECTION), "the findings")
    assert json.loads(content)["rows"][0][1] == "gpu"
    assert heard.read_text().strip() == f"--robot {tmp_path}"


def test_doctor_ends_with_the_page(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    with examining(Board(), None, ["sh", "-c", f"echo $$ > {number}.part; mv {number}.part {number}; exec sleep 600"]):
        eventually(number.exists, "the start")
    eventually(lambda: not Path(f"/proc/{number.read_text().strip()}").exists(), "the end")


def test_page_runs_a_command_that_exists() -> None:
    done = subprocess.run([*DOCTOR, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: gr00t_doctor")
