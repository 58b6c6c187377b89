# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the shipped policy performs some tasks on the simulated robot."""

from __future__ import annotations

import argparse
from pathlib import Path

from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.runner import Runner
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError

ROBOT = "sim_arm"
DRIVER_START_S = 240.0


def policy_command(checkpoint: Path, robot: str = ROBOT) -> list[str | Path]:
    """Return the command of the policy node on a robot, as policy.launch.py would start it."""
    return [
        *("policy_node", "--ros-args", "--params-file", robot_file(robot, "policy.yaml")),
        *("-p", f"checkpoint_path:={checkpoint}", "-p", "autostart:=true"),
        *("-p", f"topics_file:={robot_file(robot, 'topics.yaml')}"),
        *("-p", f"limits_file:={robot_file(robot, 'limits.yaml')}"),
    ]


def sim_command() -> list[str | Path]:
    """Return the command of the simulated robot."""
    return ["sim_node", "--ros-args", "--params-file", robot_file(ROBOT, "sim.yaml")]


def run_demo(runner: Runner, checkpoint: Path, folder: Path, *, rounds: int, round_s: float) -> None:
    """Start robot and policy, give the tasks, and write the results to `folder`.

    Raises:
        ProcessError: a process failed; names its log.
    """
    runner.start("sim_node", sim_command())
    runner.start("policy_node", policy_command(checkpoint))
    driver = ["demo_driver", "--output", folder, "--rounds", str(rounds), "--round-s", str(round_s)]
    runner.run("demo_driver", driver, timeout_s=DRIVER_START_S + rounds * (round_s + 20.0))
    runner.stop_all()


def main(args: list[str] | None = None) -> int:
    """Parse, run, print."""
    parser = CommandParser("gr00t_demo", description=__doc__)
    add(parser, "--output", default=Path("out/demo"))
    add(parser, "--checkpoint", "(default: the shipped compact policy)", old=["--checkpoint-path"], type=Path)
    add_rounds(parser)
    return run_command("gr00t_demo", lambda: _demo(parser.parse_args(args)))


def _demo(given: argparse.Namespace) -> None:
    check_rounds(given.rounds, given.round_s)
    folder = given.output.resolve()
    checkpoint = given.checkpoint or compact_checkpoint()
    print(
        f"== simulated robot and policy node, {given.rounds} tasks of up to {given.round_s:g} s; logs in {folder}/logs"
    )
    with Runner(folder / "logs") as runner:
        run_demo(runner, checkpoint.resolve(), folder, rounds=given.rounds, round_s=given.round_s)
    print((folder / "logs" / "demo_driver.log").read_text(encoding="utf-8"))
    for name, what in (("demo.mp4", "video"), ("joints.png", "joints and predicted chunks"), ("latency.txt", "table")):
        print(f"{what + ':':<30}{given.output / name}")


def add_rounds(parser: CommandParser) -> None:
    """Add the options that `check_rounds` checks."""
    add(parser, "--rounds")
    add(parser, "--round-s", default=18.0)


def check_rounds(rounds: int, round_s: float) -> None:
    """Check number and time limit of tasks; ConfigError names the option."""
    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}, expected 1 or more")
    if not 1.0 <= round_s <= 3600.0:
        raise ConfigError(f"--round-s is {round_s:g}, expected 1 to 3600 s")
