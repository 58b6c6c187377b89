# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Processes end with the one that started them, when that asked for it; with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gr00t_test_support.waiting import eventually
from gr00t_training.cli.parent import PARENT_VARIABLE, parent_environment

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the signal is one of Linux")

CHILD = """
import os, signal, sys, time
from gr00t_training.cli.parent import end_with_parent
def end(number, frame):
    open(sys.argv[1], "w").write(signal.Signals(number).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
{before}
end_with_parent()
print(os.getpid(), os.environ.get("GR00T_PARENT_PID", "none"), flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
from gr00t_training.cli.parent import parent_environment
command = [{prefix}sys.executable, "-c", sys.argv[2], sys.argv[1]]
subprocess.Popen(command, env={{**os.environ, **{asked}}})
time.sleep({lifetime})
"""


def start(
    note: Path, *, prefix: str = "", asked: str = "parent_environment()", before: str = "", lifetime: float = 600
):
    """Start a parent with a child; return the parent."""
    parent = PARENT.format(prefix=prefix, asked=asked, lifetime=lifetime)
    return subprocess.Popen(
        [sys.executable, "-c", parent, str(note), CHILD.format(before=before)], stdout=subprocess.PIPE, text=True
    )


def has_note(note: Path) -> bool:
    return note.exists() and note.read_text() == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("prefix", ["", '"/bin/sh", "-c", \'"$@"; true\', "sh", '])
def test_child_hears_of_the_end_of_its_parent(tmp_path: Path, number: int, prefix: str) -> None:
    with start(tmp_path / "note", prefix=prefix) as parent:
        pid, variable = parent.stdout.readline().split()
        assert variable == "none"  # not handed to the child's own children
        assert not (tmp_path / "note").exists()
        if prefix:  # a shell in between ends with its own parent only by what it was sent
            shell = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(shell, signal.SIGKILL)
        else:
            parent.send_signal(number)
        eventually(lambda: has_note(tmp_path / "note"), "note of the child")
        parent.kill()


def test_parent_that_ended_before_the_request_is_noticed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    before = "while str(os.getppid()) == os.environ['GR00T_PARENT_PID']: time.sleep(0.01)"
    with start(note, before=before, lifetime=0.0):
        eventually(lambda: has_note(note), "note of the child")


def test_nothing_happens_unasked(tmp_path: Path) -> None:
    with start(tmp_path / "note", asked="{}") as parent:
        pid = int(parent.stdout.readline().split()[0])
        parent.kill()
        parent.wait()
        time.sleep(0.5)
        assert not (tmp_path / "note").exists()
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: has_note(tmp_path / "note"), "note of the child")


def test_the_request_names_this_process() -> None:
    assert parent_environment() == {PARENT_VARIABLE: str(os.getpid())}
