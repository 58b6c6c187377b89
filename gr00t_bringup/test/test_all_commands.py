# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every command of the suite: names, help, version, Ctrl-C and closed pipes."""

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from test_packaging import declared

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from gr00t_training.cli.commands import umbrella
from gr00t_training.cli.entry import GROUP, Command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.cli.umbrella import OTHER_PACKAGES
from gr00t_training.io.version import suite_version

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "gr00t_training": "gr00t_training.cli.commands",
    "gr00t_recorder": "gr00t_recorder.commands",
    "gr00t_policy_node": "gr00t_policy_node.commands",
    "gr00t_bringup": "gr00t_bringup.commands",
    "gr00t_console": "gr00t_console.commands",
}
COMMANDS = {package: import_module(module).COMMANDS for package, module in MODULES.items()}
EVERY = [umbrella, *(command for commands in COMMANDS.values() for command in commands)]
pytestmark = pytest.mark.skipif(not (ROOT / "NOTICE").exists(), reason="this package is tested alone")
NOT_NODES = [command for command in EVERY[1:] if not command.name.endswith("_node")]
every_command = pytest.mark.parametrize("command", EVERY, ids=lambda command: command.name)


def script_of(command: Command) -> list[str]:
    """Return the command line of the console script of a command."""
    (found,) = [
        line.partition(" = ")[2]
        for package in MODULES
        for line in declared(package, "entry_points")["console_scripts"]
        if line.startswith(f"{command.name} = ")
    ]
    module, _, name = found.partition(":")
    return [sys.executable, "-c", f"import sys\nfrom {module} import {name}\nsys.exit({name}())"]


def run(command: Command, *words: str) -> int:
    """Run a command in this process; return its exit code."""
    try:
        return command(list(words), f"gr00t {command.word}" if command.word else "")
    except SystemExit as ended:
        return int(ended.code or 0)


ADDRESS = "s3://robots/fold"


@pytest.mark.parametrize(
    "line",
    [
        "finetune --dataset data --output {}",
        "finetune --dataset data --output out --base-model {}",
        "finetune --dataset data --output out --tokenizer {}",
        "finetune --dataset data --output out --frame-cache {}",
        "finetune --output out --data {}",
        "evaluate --dataset data --checkpoint {}",
        "evaluate --dataset data --checkpoint run --compare {}",
        "evaluate --dataset data --checkpoint run --output {}",
        "evaluate --bag {} --checkpoint run --topics t.yaml --limits l.yaml",
        "serve {}",
        "checkpoint inspect {}",
        "checkpoint convert run --output {}",
        "dataset repair {}",
        "dataset view {}",
        "dataset view data --html {}",
        "dataset push {} user/name",
        "dataset merge data data --output {}",
        "dataset merge {} data",
        "doctor --dataset {}",
        "convert bag --topics t.yaml --output {}",
        "convert bag --topics t.yaml --output out --progress {}",
        "convert bag --suggest {}",
        "suggest {} --output out",
        "play {}",
        "record-bag --output {}",
        "bench-policy bag --checkpoint {} --topics t.yaml --limits l.yaml",
        "check {}",
        "check robot --bag {}",
        "init {} --output out",
        "init bag --output {}",
        "replay {} 0",
        "demo --output {}",
        "loop --output {}",
        "rollout --checkpoint {}",
        "rollout --checkpoint run --output {}",
        "rollout --checkpoint run --record-to {}",
        "launch policy robot:=sim_arm checkpoint_path:={}",
        "launch record robot:=sim_arm dataset_path:={}",
        "launch replay robot:=sim_arm dataset_path:={} episode:=0",
        "launch rollout robot:=sim_arm dataset_path:={}",
        "launch rollout robot:=sim_arm output:={}",
        "view --robot sim_arm --save {}",
        "console --datasets {}",
        "console --runs {}",
        "console --trials {}",
    ],
)
def test_an_address_in_a_bucket_is_refused_in_one_line_where_a_local_path_is_needed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    word, *words = line.format(ADDRESS).split()
    (command,) = [command for command in EVERY if command.word == word]
    assert run(command, *words) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert f"{ADDRESS}: is in object storage, expected a local path; " in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", list(MODULES))
def test_setup_declares_every_command(package: str) -> None:
    entry_points = declared(package, "entry_points")
    assert entry_points[GROUP] == [f"{package} = {MODULES[package]}:COMMANDS"]
    scripts = dict(line.split(" = ") for line in entry_points["console_scripts"])
    found = {
        name: import_module(value.partition(":")[0]).__dict__[value.partition(":")[2]]
        for name, value in scripts.items()
    }
    assert {name: command.name for name, command in found.items()} == {name: name for name in scripts}
    own = [umbrella, *COMMANDS[package]] if package == "gr00t_training" else COMMANDS[package]
    assert sorted(scripts) == sorted(command.name for command in own)


def test_umbrella_knows_the_words_of_the_other_packages() -> None:
    words = {package: tuple(sorted(c.word for c in commands if c.word)) for package, commands in COMMANDS.items()}
    assert {package: words[package] for package in OTHER_PACKAGES} == OTHER_PACKAGES
    every = [word for each in words.values() for word in each]
    assert len(every) == len(set(every))


@every_command
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--ros-args", "--help"]], ids=" ".join)
def test_help(command: Command, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "--ros-args" and not any(need.module == "rclpy" for need in command.needs):
        pytest.skip("not a program of ROS")
    assert run(command, *words) == 0
    assert capsys.readouterr().out.startswith(f"usage: {f'gr00t {command.word}' if command.word else command.name} ")


@every_command
def test_version(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--version") == 0
    assert capsys.readouterr().out.split()[-1] == suite_version()


INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.slow
@every_command
def test_ctrl_c_during_the_import_is_one_line(command: Command) -> None:
    python, option, script = script_of(command)
    script = INTERRUPTED_IMPORT.format(module=command.target.partition(":")[0]) + script
    done = subprocess.run(
        [python, option, script],
        capture_output=True,
        text=True,
        # a shell starts what is in its background with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    code = 0 if command.is_node else 130
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{command.name}: interrupted\n")


@pytest.mark.parametrize(
    "command",
    [command for command in EVERY[1:] if not command.name.endswith("_node")],
    ids=lambda command: command.name,
)
def test_ctrl_c_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt  # not by a signal: rclpy of an earlier test keeps its own handler in this process

    monkeypatch.setattr(CommandParser, "parse_args", interrupt)
    assert run(command) == (0 if command.is_node else 130)
    printed = capsys.readouterr().err
    assert "interrupted" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", ["gr00t", "gr00t_dataset", "gr00t_convert_bag", "gr00t_play_bag", "recorder_node"])
def test_closed_pipe_ends_quietly(name: str) -> None:
    (command,) = [command for command in EVERY if command.name == name]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*script_of(command), "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # argparse of newer Pythons ignores it
