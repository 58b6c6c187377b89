# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t doctor`: a healthy machine has no fault, and nothing that is broken ends the command."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from planted_machine import Planted, absent, left_segments

from gr00t_test_support.waiting import eventually
from gr00t_training.doctor.children import host_clock, writing
from gr00t_training.doctor.examining import CHECKS, examine
from gr00t_training.doctor.findings import Finding, Level
from gr00t_training.doctor.machine import Answer, Machine, run_program, this_machine
from gr00t_training.doctor.use import Camera, Use


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def test_healthy_machine_has_no_fault(planted: Planted) -> None:
    found = planted.examine()
    assert [name for name, _ in found if name != "clock"] == [name for name in CHECKS if name != "clock"]
    assert [(name, finding) for name, finding in found if finding.level is not Level.OK] == []


def test_training_machine_without_ros_has_no_fault(planted: Planted) -> None:
    planted.environment = {}
    planted.imports |= {"rclpy": absent("rclpy"), "sensor_msgs.msg": absent("sensor_msgs")}
    planted.use = Use()
    del planted.files["opt/ros/jazzy/setup.bash"]
    found = planted.examine()
    assert {finding.level for _, finding in found} == {Level.OK, Level.UNKNOWN}
    skipped = [name for name, finding in found if finding.level is Level.UNKNOWN]
    assert skipped == ["middleware", "profile", "interfaces", "stamps"]


def test_user_of_the_group_logs_in_again(planted: Planted) -> None:
    planted.refused.add("video0")
    planted.files["etc/group"] = "video:x:44:lab,other\ndialout:x:20:"
    gid = planted.root.stat().st_gid
    machine = planted.machine()
    (finding,) = CHECKS["permissions"](machine, planted.use)
    assert "log out and in" in finding.remedy
    if gid == 0:  # the file belongs to no group of a device
        assert "session began before" in finding.remedy


def test_segment_of_a_running_process_is_not_left_behind(planted: Planted) -> None:
    left_segments(planted)
    machine = planted.machine()
    with (planted.root / "dev/shm/fastrtps_0000000000000000_el").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (finding,) = CHECKS["shared_memory"](machine, planted.use)
        assert finding.level is Level.OK
        assert "; 1 segments" in finding.text


def test_unexpected_answers_are_not_checked_and_keep_the_others(planted: Planted) -> None:
    planted.asked["torch_build"] = Answer(-11, "")
    planted.asked["writing"] = {"strange": 1}
    planted.programs["chronyc"] = Answer(0, "x,y")
    found = dict(planted.examine())
    assert found["torch"] == Finding(Level.UNKNOWN, "torch_build: ended by signal 11")
    assert found["disk"].level is Level.UNKNOWN
    assert "KeyError" in found["disk"].text
    assert found["usb"].level is Level.OK


def test_check_that_hangs_is_named(planted: Planted) -> None:
    release = threading.Event()

    def hang(machine: Machine, use: Use) -> list[Finding]:
        release.wait()
        return []

    found = dict(examine(planted.machine(), planted.use, {"stuck": hang, "usb": CHECKS["usb"]}, limit_s=0.3))
    release.set()
    assert found["stuck"] == Finding(Level.UNKNOWN, "it took longer than 0.3 s")
    assert found["usb"].level is Level.OK


def test_program_at_its_limit_is_killed_with_its_children(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    answer = run_program(["sh", "-c", f"sleep 600 & echo $! > {number}; wait"], 1.0)
    assert answer.failure == "took longer than 1 s"

    def has_ended() -> bool:
        stat = Path(f"/proc/{number.read_text().strip()}/stat")
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    eventually(has_ended, "the child's end")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os; os.abort()", "importing: ended by signal 6"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["crash", "exit", "exception"],
)
def test_broken_module_does_not_end_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, text: str
) -> None:
    (tmp_path / "broken_for_doctor.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    imported = this_machine().import_module("broken_for_doctor")
    assert imported.is_installed
    assert text in imported.error
    assert not this_machine().import_module("absent_for_doctor.part").is_installed


def test_clock_of_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = subprocess.run(["which", "date"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "date").write_text(f'#!/bin/sh\nexec {real} -d "now + 30 seconds" "$@"\n')
    (tmp_path / "date").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert host_clock.main("sh", "-c") == 0
    found = json.loads(capsys.readouterr().out)
    assert abs(found["offset_s"] - 30) <= found["uncertainty_s"]
    assert host_clock.main("false") == 1


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writing.main(str(tmp_path / "new" / "cubes"), False)
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(tmp_path)
    assert found["rate"] > 0
    assert list(tmp_path.iterdir()) == []
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True).stdout
    assert found["type"][:3] in kind or "ext" in kind or "overlay" in kind


@pytest.mark.slow
def test_this_machine_is_examined_without_a_traceback() -> None:
    words = [sys.executable, "-m", "gr00t_training.cli.doctor", "--json", "--quick"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert {each["check"] for each in found} == set(CHECKS)
    assert done.returncode == any(each["level"] == "fault" for each in found)
    texts = {each["check"]: each for each in found}
    assert texts["video"]["level"] == "ok"  # the tests of this suite need it, too


@pytest.mark.parametrize("words", [["--robot", "no_such_robot"], ["--hots", "a"]], ids=["robot", "option"])
def test_wrong_options_are_one_line(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "gr00t_training.cli.doctor", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_doctor_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """A module hangs in its import; a signal ends the doctor and that import."""
    (tmp_path / "numpy.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(tmp_path)!r}, f'pid-{{os.getpid()}}').touch(); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", "gr00t_training.cli.doctor", "--quick"]
    process = subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what is in its background with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    eventually(lambda: list(tmp_path.glob("pid-*")), "the import")
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == 128 + number
    assert error.splitlines() == ["gr00t_doctor: interrupted"]
    for path in tmp_path.glob("pid-*"):
        eventually(lambda path=path: not Path(f"/proc/{path.name[4:]}").exists(), "the end of the import")


def test_cameras_are_counted_by_their_messages() -> None:
    raw, jpeg = Camera("a", 480, 640, 30.0), Camera("b", 720, 1280, 30.0, is_compressed=True)
    use = Use((raw, jpeg))
    assert use.raw_bytes == 640 * 480 * 3
    assert use.topic_rate == pytest.approx(27.648e6 + 8.2944e6)
    assert dataclasses.replace(use, cameras=(jpeg,)).raw_bytes == 0
