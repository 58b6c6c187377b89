# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the shipped policy performs some tasks on the simulated robot."""

from __future__ import annotations

import argparse
from pathlib import Path

from gr00t_bringup.processes import (
    CLOCK_HELP,
    LOCK_STEP,
    REAL,
    ROBOT,
    launched,
    parameter_words,
    policy_of,
    policy_timing,
    stepped_clock,
    stepped_policy,
)
from gr00t_bringup.robots import compact_checkpoint, load_robot
from gr00t_bringup.runner import Runner
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError

DRIVER_START_S = 240.0
STEPPED_S = 120.0  # longest time on the clock of the wall that a simulated task of some seconds may take in lock-step


def run_demo(runner: Runner, checkpoint: Path, folder: Path, *, rounds: int, round_s: float, clock: str = REAL) -> None:
    """Start robot and policy, give the tasks, and write the results to `folder`.

    Raises:
        ProcessError: a process failed; names its log.
    """
    sim, policy = launched("sim"), policy_of(checkpoint)
    driver = ["demo_driver", "--output", folder, "--rounds", str(rounds), "--round-s", str(round_s)]
    limit_s = DRIVER_START_S + rounds * (round_s + 20.0)
    if clock == LOCK_STEP:
        sim = sim.with_parameters(**stepped_clock(policy_timing(load_robot(ROBOT), []), speed=1.0))
        policy = stepped_policy(policy)
        driver += ["--ros-args", *parameter_words(use_sim_time=True)]
        limit_s += rounds * STEPPED_S
    runner.start_node(sim)
    runner.start_node(policy)
    runner.run("demo_driver", driver, timeout_s=limit_s)
    runner.stop_all()


def main(args: list[str] | None = None) -> int:
    """Parse, run, print."""
    parser = CommandParser("gr00t_demo", description=__doc__)
    add(parser, "--output", default=Path("out/demo"))
    add(parser, "--checkpoint", "(default: the shipped compact policy)", old=["--checkpoint-path"], type=Path)
    add_rounds(parser)
    text = f"Time: {CLOCK_HELP} Choose lock-step on a machine that is slow or busy."
    parser.add_argument("--clock", choices=(LOCK_STEP, REAL), default=REAL, help=text)
    return run_command("gr00t_demo", lambda: _demo(parser.parse_args(args)))


def _demo(given: argparse.Namespace) -> None:
    check_rounds(given.rounds, given.round_s)
    folder = given.output.resolve()
    checkpoint = given.checkpoint or compact_checkpoint()
    print(
        f"== simulated robot and policy node, {given.rounds} tasks of up to {given.round_s:g} s; logs in {folder}/logs"
    )
    with Runner(folder / "logs") as runner:
        run_demo(runner, checkpoint.resolve(), folder, rounds=given.rounds, round_s=given.round_s, clock=given.clock)
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
