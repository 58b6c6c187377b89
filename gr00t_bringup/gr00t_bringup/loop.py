# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`make loop`: the whole workflow in small, on the CPU.

Record expert episodes live and as a bag at the same time, convert the bag, compare both datasets, fine-tune for a few
steps, and run the policy node on the result.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from gr00t_bringup.demo import check_rounds, run_demo
from gr00t_bringup.processes import LOCK_STEP, ROBOT, launched
from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.runner import Runner
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import load_embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.text import printable
from gr00t_training.types import VECTOR_KINDS, KeyRef

EPISODE_S = 180.0  # time limit of an expert's episode, with failed attempts, on a loaded machine
RESULTS = ("bag", "checkpoint", "converted", "demo", "evaluation", "live", "logs")


def record(runner: Runner, folder: Path, episodes: int) -> None:
    """Record expert episodes live into `<folder>/live` and as a bag into `<folder>/bag`."""
    topics = robot_file(ROBOT, "topics.yaml")
    runner.start_node(launched("sim"))
    runner.start("bag_recorder", ["gr00t_record_bag", folder / "bag", "--topics", topics])
    runner.start_node(launched("record", robot=ROBOT, dataset_path=folder / "live"))
    expert = ["expert_node", "--ros-args", "-p", f"episodes:={episodes}", "-p", "wait_for_recorder:=true"]
    runner.run("expert_node", expert, timeout_s=60.0 + episodes * EPISODE_S)
    runner.stop_all()


def compare(live: Path, converted: Path) -> str:
    """Compare two recordings of the same episodes; return the result as text.

    Raises:
        DatasetError: episodes, state or action differ.
    """
    embodiment = load_embodiment(ROBOT)
    first, second = EpisodeDataset(live), EpisodeDataset(converted)
    lengths = [[episode.length for episode in dataset.episodes] for dataset in (first, second)]
    if lengths[0] != lengths[1]:
        raise DatasetError(f"{live} has episodes of {lengths[0]} frames, {converted} of {lengths[1]}")
    largest = 0.0
    for kind in VECTOR_KINDS:
        for key in embodiment.vectors(kind):
            for episode in range(len(lengths[0])):
                ours, theirs = (dataset.vectors(KeyRef(kind, key), episode) for dataset in (first, second))
                largest = max(largest, float(np.abs(ours - theirs).max()))
    if largest > 0.0:
        raise DatasetError(f"{live} and {converted} differ by {largest:.6f} in state or action, expected equal values")
    return f"live recording and converted bag agree: {len(lengths[0])} episodes, {sum(lengths[0])} frames, equal values"


def main(args: list[str] | None = None) -> int:
    """Parse, run each step, print."""
    parser = CommandParser("gr00t_loop", description=__doc__)
    add(parser, "--output", "Results of an earlier run in it are deleted.", default=Path("out/loop"))
    parser.add_argument("--num-episodes", type=int, default=3, metavar="N", help="Demonstrations to record.")
    parser.add_old_spelling("--episodes", "--num-episodes")
    parser.add_argument("--max-steps", type=int, default=20, metavar="N", help="Optimizer steps of the whole run.")
    parser.add_old_spelling("--steps", "--max-steps")
    add(parser, "--round-s", default=10.0)
    return run_command("gr00t_loop", lambda: _loop(parser.parse_args(args)))


def _loop(given: argparse.Namespace) -> None:
    check_rounds(1, given.round_s)
    if given.num_episodes < 1 or given.max_steps < 1:
        found = f"--num-episodes is {given.num_episodes} and --max-steps {given.max_steps}"
        raise ConfigError(f"{found}, expected 1 or more of each")
    folder = given.output.resolve()
    _empty(folder)
    with Runner(folder / "logs") as runner:
        _run_steps(runner, folder, given.num_episodes, given.max_steps, given.round_s)
    print(f"results in {given.output}: bag, live, converted, checkpoint, evaluation, demo")


def _empty(folder: Path) -> None:
    """Remove the results of an earlier run, and nothing else."""
    unknown = sorted(path.name for path in folder.iterdir() if path.name not in RESULTS) if folder.is_dir() else []
    if unknown:
        raise ConfigError(
            f"{folder}: has {printable(unknown[0])}, which is not a result of gr00t_loop; use another folder"
        )
    if folder.exists():
        shutil.rmtree(folder)


def _run_steps(runner: Runner, folder: Path, episodes: int, steps: int, round_s: float) -> None:
    topics = robot_file(ROBOT, "topics.yaml")
    print(f"== 1/5 recording {episodes} expert episodes from topics, and a bag of them", flush=True)
    record(runner, folder, episodes)
    print("== 2/5 converting the bag", flush=True)
    convert = ["gr00t_convert_bag", folder / "bag", "--topics", topics, "--output", folder / "converted"]
    runner.run("convert_bag", convert, timeout_s=300.0)
    print(compare(folder / "live", folder / "converted"), flush=True)
    print(f"== 3/5 fine-tuning the compact policy for {steps} steps", flush=True)
    finetune = ["gr00t_finetune", "--dataset", folder / "live", "--output", folder / "checkpoint"]
    finetune += ["--base-model", compact_checkpoint(), "--max-steps", str(steps), "--save-steps", str(steps)]
    runner.run("finetune", [*finetune, "--batch-size", "4", "--device", "cpu"], timeout_s=900.0)
    checkpoint = folder / "checkpoint" / f"checkpoint-{steps}"
    print("== 4/5 open-loop evaluation", flush=True)
    evaluate = ["gr00t_evaluate", "--checkpoint", checkpoint, "--dataset", folder / "live", "--fail-on", "never"]
    runner.run("evaluate", [*evaluate, "--output", folder / "evaluation"], timeout_s=600.0)
    print(f"== 5/5 driving the simulated robot with the result for up to {round_s:g} s", flush=True)
    (folder / "demo").mkdir()
    # in lock-step: what the policy does must not depend on how busy the machine is
    run_demo(runner, checkpoint, folder / "demo", rounds=1, round_s=round_s, clock=LOCK_STEP)
    print((folder / "logs" / "demo_driver.log").read_text(encoding="utf-8"))
