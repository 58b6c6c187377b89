# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t launch`: what it prints and refuses, and when it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from gr00t_bringup.launch_cli import main
from gr00t_bringup.launch_files import LAUNCH_FILES
from gr00t_bringup.runner import ProcessError, Runner
from gr00t_test_support.waiting import eventually


@pytest.mark.parametrize("file", list(LAUNCH_FILES))
def test_arguments_are_shown_with_their_choices(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{file}.launch.py", "--show-args"]) == 0
    printed = capsys.readouterr().out
    for name, argument in LAUNCH_FILES[file].arguments.items():
        assert f"\n{name}:=  {argument.description}" in printed
    assert "use_sim_time:=  Follow /clock; empty: as in params_file, else false. One of true, false, True" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collected"], "FILE is 'collected', expected one of policy, record, collect, replay, rollout, sim"),
        (["policy", "robot"], "'robot' is not NAME:=VALUE; 'gr00t launch FILE --show-args' lists the names"),
        (["policy", "dryrun:=true"], "unknown launch argument 'dryrun'; did you mean 'dry_run'?"),
        (["policy", "robot:=pr2"], "robot 'pr2': not shipped, expected one of aloha, "),
        (["record", "robot:=so101"], "missing: dataset_path; give each as an argument or in params_file"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_launch_goes_on_without_a_node_that_failed_until_its_leader_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.05)"
    with Runner(tmp_path / "logs", is_shown=True) as runner:
        runner.start("failing", [Path(sys.executable).name, "-c", "import sys; sys.exit(3)"])
        runner.start("staying", [Path(sys.executable).name, "-c", "import time; time.sleep(600)"])
        eventually(lambda: runner._processes["failing"].poll() is not None, "the failure")
        runner.start("leader", [Path(sys.executable).name, "-c", wait])
        (tmp_path / "go").touch()
        with pytest.raises(ProcessError, match="failing failed with exit code 3; its last lines are above"):
            runner.follow(["leader"])
        staying = runner._processes["staying"]
        assert staying.poll() is None
    assert staying.poll() is not None
    assert "failing has ended, exit code 3\n" in capsys.readouterr().out
