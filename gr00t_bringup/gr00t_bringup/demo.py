# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the simulated robot driven by the shipped policy for about a minute."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.runner import Runner
from gr00t_training.errors import Gr00tError

ROBOT = "sim_arm"
DRIVER_START_S = 240.0


def policy_command(checkpoint: Path) -> list[str | Path]:
    """Return the command of the policy node on the simulated robot, as policy.launch.py would start it."""
    return [
        *("policy_node", "--ros-args", "--params-file", robot_file(ROBOT, "policy.yaml")),
        *("-p", f"checkpoint_path:={checkpoint}", "-p", "autostart:=true"),
        *("-p", f"topics_file:={robot_file(ROBOT, 'topics.yaml')}"),
        *("-p", f"limits_file:={robot_file(ROBOT, 'limits.yaml')}"),
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder of the results")
    parser.add_argument("--checkpoint-path", type=Path, default=None, help="default: the shipped compact policy")
    parser.add_argument("--rounds", type=int, default=3, help="tasks to give (default: 3)")
    parser.add_argument("--round-s", type=float, default=18.0, help="time limit of each task [s] (default: 18)")
    given = parser.parse_args(args)
    folder = given.output.resolve()
    checkpoint = given.checkpoint_path or compact_checkpoint()
    print(f"== simulated robot and policy node, {given.rounds} tasks of {given.round_s:.0f} s; logs in {folder}/logs")
    try:
        with Runner(folder / "logs") as runner:
            run_demo(runner, checkpoint.resolve(), folder, rounds=given.rounds, round_s=given.round_s)
    except (Gr00tError, KeyboardInterrupt) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 1
    print((folder / "logs" / "demo_driver.log").read_text(encoding="utf-8"))
    for name, what in (("demo.mp4", "video"), ("joints.png", "joints and predicted chunks"), ("latency.txt", "table")):
        print(f"{what + ':':<30}{given.output / name}")
    return 0
