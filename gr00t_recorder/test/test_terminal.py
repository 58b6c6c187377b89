# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import EpisodeMarks, RecorderStatus

from gr00t_recorder.ros.processes import DEADLINE_S, NodeProcess, next_domain
from gr00t_test_support.waiting import eventually

pytest_plugins = ("recorder_robot",)
MODULE = "gr00t_recorder.ros.terminal"


class Screen:
    """The program on a pseudo terminal."""

    def __init__(self, domain, *arguments):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        environment |= {"COLUMNS": "120", "LINES": "40"}
        command = [sys.executable, "-c", f"import sys; from {MODULE} import main; sys.exit(main())", *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdin=self.slave, stdout=self.slave, stderr=subprocess.STDOUT
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, keys):
        os.write(self.master, keys.encode())

    def wait_for(self, text):
        eventually(lambda: text in self.output, lambda: f"{text!r} on the screen; it showed {self.output[-3000:]}")

    def wait_until_restored(self):
        """Wait for the last output: the process has ended, but the thread that reads may not have seen all of it."""
        self.wait_for("\x1b[?1049l")
        assert termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        self._reader.join(DEADLINE_S)
        os.close(self.master)

    def _read(self):
        while True:
            try:
                read = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                return
            if not read:
                return
            self.output += read.decode(errors="replace")


@contextmanager
def screen(domain, *arguments):
    made = Screen(domain, *arguments)
    try:
        yield made
    finally:
        made.close()


def test_keys_operate_the_recorder_and_the_terminal_is_restored(launch):
    _, recorder, node = launch(autostart=True)
    recorder.wait_until_ready()
    domain = node.context.get_domain_id()
    with screen(domain) as shown:
        shown.wait_for("IDLE  next is episode 0")
        shown.wait_for("/joint_states")  # further down the same screen, which is read in pieces
        shown.type("t")
        shown.wait_for("task of the next episodes: _")
        shown.type("lift the cubx\x7fe\r")
        recorder.wait(lambda status: status.task == "lift the cube", "task")
        shown.type("s")
        recorder.wait(lambda status: status.state == RecorderStatus.RECORDING and status.frames >= 2, "recording")
        shown.wait_for("RECORDING  episode 0")
        shown.type("y")
        recorder.wait(lambda status: status.marks.success == EpisodeMarks.YES, "marked")
        shown.type("k")
        recorder.wait(lambda status: status.episodes == 1, "saved")
        shown.wait_for("saved episode 0")
        shown.type("r")
        recorder.wait(lambda status: status.episodes == 0 and status.frames >= 1, "recorded again")
        shown.type("d")
        recorder.wait(lambda status: status.state == RecorderStatus.IDLE, "discarded")
        shown.type("q")
        assert shown.process.wait(DEADLINE_S) == 0
        shown.wait_until_restored()
    with screen(domain) as shown:
        shown.wait_for("IDLE")
        recorder.record("first")
        shown.wait_for("1 episodes")
        shown.type("u")
        shown.wait_for("take episode 0 out of the dataset? [y] yes  [n] no")
        shown.type("s")  # another key does what it always does
        recorder.wait(lambda status: status.state == RecorderStatus.RECORDING and status.frames >= 1, "recording")
        shown.type("k")
        recorder.wait(lambda status: status.episodes == 2, "saved")
        shown.wait_for("2 episodes")
        shown.type("u")
        shown.wait_for("take episode 1 out of the dataset?")
        shown.type("y")
        recorder.wait(lambda status: status.episodes == 1, "taken back")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.process.wait(DEADLINE_S) == 0
        shown.wait_until_restored()

    with NodeProcess(MODULE, "--once", "--node", "recorder", "--timeout", str(DEADLINE_S), domain=domain) as once:
        assert once.wait() == 0, once.output
        lines = once.output.splitlines()
    assert lines[0].startswith("recorder /recorder  IDLE")
    assert [line.split()[0] for line in lines if line.endswith(("/joint_states", "/image"))] == ["joints", "camera"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--once", "--timeout", "0.5"], "gr00t_record: error: found no recorder within 0.5 s"),
        ([], "gr00t_record: error: not a terminal; use --once"),
    ],
)
def test_without_recorder_or_terminal_there_is_one_line(arguments, expected):
    with NodeProcess(MODULE, *arguments, domain=next_domain()) as process:
        assert process.wait() == 2
        assert process.output.startswith(expected)
        assert len(process.output.splitlines()) == 1
