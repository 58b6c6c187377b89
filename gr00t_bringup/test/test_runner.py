# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from gr00t_bringup.runner import ProcessError, Runner, executable, ros_environment
from gr00t_test_support.waiting import DEADLINE_S, eventually


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make executables that a workspace would have built."""
    folder = tmp_path / "lib" / "package"
    folder.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))

    def write(name: str, body: str) -> str:
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return name

    return write


def test_failure_is_told_with_the_last_line_and_the_log(script, tmp_path: Path) -> None:
    name = script("failing", "import sys; print('first'); sys.exit('what went wrong')")
    with (
        Runner(tmp_path / "logs") as runner,
        pytest.raises(ProcessError, match=r"failing failed with exit code 1: what went wrong \(log: .*failing\.log\)"),
    ):
        runner.run("failing", [name], timeout_s=DEADLINE_S)


def test_death_of_a_background_process_ends_the_run(script, tmp_path: Path) -> None:
    dying, waiting = script("dying", "import sys; sys.exit(3)"), script("waiting", "import time; time.sleep(600)")
    with Runner(tmp_path / "logs") as runner:
        runner.start("dying", [dying])
        with pytest.raises(ProcessError, match="dying failed with exit code 3: no output"):
            runner.run("waiting", [waiting], timeout_s=DEADLINE_S)


def test_no_process_is_left_behind(script, tmp_path: Path) -> None:
    name = script(
        "waiting", f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    with Runner(tmp_path / "logs") as runner:
        runner.start("waiting", [name])
        eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the process")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


RUNNER = """
import sys
from pathlib import Path
from gr00t_bringup.runner import Runner
from gr00t_training.cli.command import run_command
def run():
    with Runner(Path(sys.argv[1])) as runner:
        runner.start("slow", ["slow"])
        runner.run("waiting", ["waiting"], timeout_s=600)
sys.exit(run_command("runner", run))
"""
COMMAND = """
import os, sys, time
from gr00t_training.cli.command import run_command
def wait():
    open({pid!r}, "w").write(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        time.sleep({tidying_s})
        open({pid!r} + ".tidy", "w").write("tidied up")
sys.exit(run_command("waiting", wait))
"""


@pytest.mark.parametrize(
    "numbers", [[signal.SIGKILL], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM], [signal.SIGHUP]]
)
def test_processes_tidy_up_however_the_run_ends(script, tmp_path: Path, numbers: list[int]) -> None:
    notes = {name: tmp_path / name for name in ("slow", "waiting")}
    for name, note in notes.items():
        script(name, COMMAND.format(pid=str(note), tidying_s=1.0 if name == "slow" else 0.0))
    with subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path / "logs")]) as run:
        eventually(lambda: all(note.exists() and note.read_text() for note in notes.values()), "both processes")
        for number in numbers:
            run.send_signal(number)
            time.sleep(0.2)
    for note in notes.values():
        eventually(lambda note=note: note.with_suffix(".tidy").exists(), f"end of {note.name}")


def test_missing_executable_is_named() -> None:
    with pytest.raises(ProcessError, match="executable 'no_such_node' not found"):
        executable("no_such_node")


def test_nodes_of_a_run_talk_on_this_host_with_room_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    environment = ros_environment("5")
    assert environment["ROS_DOMAIN_ID"] == "5"
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert Path(environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert ros_environment("5")["ROS_LOCALHOST_ONLY"] == "1"
