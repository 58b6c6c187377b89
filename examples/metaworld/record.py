# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations of Meta-World's experts with the recorder node, in simulated time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gr00t_bringup.robots import load_robot
from gr00t_bringup.runner import Runner
from gr00t_training.cli.command import run_command
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import ConfigError

FOLDER = Path(__file__).resolve().parent
EPISODE_S = 120.0  # on a slow machine, with failed attempts


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="An existing one is continued, up to the number of episodes.")
    parser.add_argument("--num-episodes", type=int, default=200, metavar="N", help="Of all tasks together.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Of the first scene.")
    parser.add_argument(
        "--speed", type=float, default=4.0, help="Pace of the simulated clock, times real time, at most."
    )
    return run_command("record.py", lambda: _record(parser.parse_args()))


def _record(given: argparse.Namespace) -> None:
    dataset = given.dataset.resolve()
    done = len(EpisodeDataset(dataset).episodes) if dataset.exists() else 0
    if done >= given.num_episodes:
        raise ConfigError(f"{dataset}: has {done} episodes, as many as --num-episodes; record to another folder")
    seed = given.seed + done
    with Runner(dataset.with_name(f"{dataset.name}_logs")) as runner:
        python = load_robot(str(FOLDER)).simulator[0]
        simulated = ["-p", "clock:=sim", "-p", f"speed:={given.speed}", "-p", f"seed:={seed}"]
        simulated += ["-p", "lock_step:=true", "-p", "lock_step_node:=expert", "-p", "lock_step_control_s:=0.1"]
        runner.start("metaworld_node", [python, FOLDER / "metaworld_node.py", "--ros-args", *simulated])
        recorder = ["recorder_node", "--ros-args", "--params-file", FOLDER / "recorder.yaml"]
        recorder += ["-p", "autostart:=true", "-p", "use_sim_time:=true"]
        recorder += ["-p", f"topics_file:={FOLDER / 'topics.yaml'}", "-p", f"dataset_path:={dataset}"]
        runner.start("recorder_node", recorder)
        expert = [python, FOLDER / "metaworld_expert.py", "--ros-args", "-p", "use_sim_time:=true"]
        expert += [
            "-p",
            f"episodes:={given.num_episodes - done}",
            "-p",
            f"seed:={given.seed + done}",
            "-p",
            "max_failures:=1000",
        ]
        expert += ["-p", "wait_for_recorder:=true", "-p", "pause_s:=0.1"]
        runner.run("metaworld_expert", expert, timeout_s=60.0 + EPISODE_S * (given.num_episodes - done))
    print(f"{given.num_episodes} episodes in {given.dataset}")


if __name__ == "__main__":
    sys.exit(main())
