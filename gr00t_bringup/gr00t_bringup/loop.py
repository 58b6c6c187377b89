# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`make loop`: the whole circle in miniature on the CPU.

Record expert episodes from topics and at the same time a bag of them, convert the bag, hold both datasets against each
other, fine-tune for a few steps, and run the policy node on the result.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from gr00t_bringup.demo import ROBOT, run_demo, sim_command
from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.runner import Runner
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.embodiment import load_embodiment
from gr00t_training.errors import DatasetError, Gr00tError

EPISODE_S = 60.0  # longest time an expert may take, failures included


def record(runner: Runner, folder: Path, episodes: int) -> None:
    """Record expert episodes live into `<folder>/live` and as a bag into `<folder>/bag`."""
    topics = robot_file(ROBOT, "topics.yaml")
    runner.start("sim_node", sim_command())
    runner.start("bag_recorder", ["gr00t_record_bag", folder / "bag", "--topics", topics])
    recorder = ["recorder_node", "--ros-args", "--params-file", robot_file(ROBOT, "recorder.yaml")]
    recorder += ["-p", "autostart:=true", "-p", f"topics_file:={topics}", "-p", f"dataset_path:={folder / 'live'}"]
    runner.start("recorder_node", recorder)
    expert = ["expert_node", "--ros-args", "-p", f"episodes:={episodes}", "-p", "wait_for_recorder:=true"]
    runner.run("expert_node", expert, timeout_s=60.0 + episodes * EPISODE_S)
    runner.stop_all()


def compare(live: Path, converted: Path) -> str:
    """Return how two recordings of the same episodes differ.

    Raises:
        DatasetError: they have not the same episodes, or their vectors differ.
    """
    embodiment = load_embodiment(ROBOT)
    first, second = LeRobotDataset(live), LeRobotDataset(converted)
    lengths = [[episode.length for episode in dataset.episodes] for dataset in (first, second)]
    if lengths[0] != lengths[1]:
        raise DatasetError(f"{live} has episodes of {lengths[0]} frames, {converted} of {lengths[1]}")
    largest = 0.0
    for kind in ("state", "action"):
        for key in getattr(embodiment, kind):
            for episode in range(len(lengths[0])):
                ours, theirs = (getattr(dataset, kind)(episode, key) for dataset in (first, second))
                largest = max(largest, float(np.abs(ours - theirs).max()))
    if largest > 0.0:
        raise DatasetError(f"{live} and {converted} differ by {largest:.6f} in state or action, expected equal values")
    return f"live recording and converted bag agree: {len(lengths[0])} episodes, {sum(lengths[0])} frames, equal values"


def main(args: list[str] | None = None) -> int:
    """Parse, run each station, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/loop"), help="folder of the results; is emptied")
    parser.add_argument("--episodes", type=int, default=3, help="demonstrations to record (default: 3)")
    parser.add_argument("--steps", type=int, default=20, help="fine-tuning steps (default: 20)")
    parser.add_argument("--round-s", type=float, default=10.0, help="time the result is driven [s] (default: 10)")
    given = parser.parse_args(args)
    folder = given.output.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Runner(folder / "logs") as runner:
            _circle(runner, folder, given.episodes, given.steps, given.round_s)
    except (Gr00tError, KeyboardInterrupt) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 1
    print(f"results in {given.output}: bag, live, converted, checkpoint, evaluation, demo")
    return 0


def _circle(runner: Runner, folder: Path, episodes: int, steps: int, round_s: float) -> None:
    topics = robot_file(ROBOT, "topics.yaml")
    print(f"== 1/5 recording {episodes} expert episodes from topics, and a bag of them", flush=True)
    record(runner, folder, episodes)
    print("== 2/5 converting the bag", flush=True)
    convert = ["gr00t_convert_bag", folder / "bag", "--topics", topics, "--output", folder / "converted"]
    runner.run("convert_bag", convert, timeout_s=300.0)
    print(compare(folder / "live", folder / "converted"), flush=True)
    print(f"== 3/5 fine-tuning the compact policy for {steps} steps", flush=True)
    finetune = ["gr00t_finetune", "--dataset-path", folder / "live", "--output-dir", folder / "checkpoint"]
    finetune += ["--base-model-path", compact_checkpoint(), "--max-steps", str(steps), "--save-steps", str(steps)]
    runner.run("finetune", [*finetune, "--batch-size", "4", "--device", "cpu"], timeout_s=900.0)
    checkpoint = folder / "checkpoint" / f"checkpoint-{steps}"
    print("== 4/5 open-loop evaluation", flush=True)
    evaluate = ["gr00t_evaluate", "--checkpoint-path", checkpoint, "--dataset-path", folder / "live"]
    runner.run("evaluate", [*evaluate, "--output-dir", folder / "evaluation"], timeout_s=600.0)
    print(f"== 5/5 driving the simulated robot with the result for {round_s:.0f} s", flush=True)
    (folder / "demo").mkdir()
    run_demo(runner, checkpoint, folder / "demo", rounds=1, round_s=round_s)
    print((folder / "logs" / "demo_driver.log").read_text(encoding="utf-8"))
