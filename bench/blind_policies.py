#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Policies that are really trained without an input, and whether the judge names each of them.

    python3 -m bench.blind_policies --output out/blind

The scripted expert of the simulated arm gives demonstrations, which are written into a dataset for each mistake:
instructions, images, or both have nothing to do with the episode, the wrist camera stands still, two joints of the
action are exchanged. `gr00t finetune` trains the action head of the shipped policy on each of them, with the same seed
and number of steps, and `gr00t evaluate` judges them, and the shipped policy, on correct episodes that none was trained
on. `--honest-seeds` adds policies that the same recipe trains without a mistake. An interrupted run continues.

Inputs are replaced and not removed: training on black images alone need not change what a policy does with others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_bringup.robots import compact_checkpoint
from gr00t_bringup.sim.expert import plan_demonstration
from gr00t_bringup.sim.kinematics import JOINTS
from gr00t_bringup.sim.robot import SimRobot
from gr00t_bringup.sim.scene import CUBES
from gr00t_bringup.sim.task import asked_colour, task_text
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import load_embodiment
from gr00t_training.types import Frame

ROBOT = "sim_arm"
COMMAND_S = 0.01
SETTLE_S = 0.4  # until a dropped cube is at rest
FIRST_TRAINED, FIRST_JUDGED = 300_000, 400_000  # seeds of scenes
FOREIGN = 2  # earlier episodes whose images are taken
EXCHANGED = [4, 1, 2, 3, 0]  # shoulder_pan and wrist_roll

Frames = Sequence[Frame]
Change = Callable[[Frames, Frames, np.random.Generator], Frames]  # of an episode, with frames of others


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a dataset, and the test that must say so."""

    change: Change
    verdict: str
    group: str
    test: str
    names: str  # beginning of what the report must say


def _any_task(frames: Frames, others: Frames, rng: np.random.Generator) -> Frames:
    task = task_text(str(rng.choice(list(CUBES))))
    return [dataclasses.replace(frame, task=task) for frame in frames]


def _any_images(frames: Frames, others: Frames, rng: np.random.Generator) -> Frames:
    return [dataclasses.replace(frame, images=others[int(rng.integers(len(others)))].images) for frame in frames]


def _state_only(frames: Frames, others: Frames, rng: np.random.Generator) -> Frames:
    return _any_task(_any_images(frames, others, rng), others, rng)


def _frozen_wrist(frames: Frames, others: Frames, rng: np.random.Generator) -> Frames:
    still = others[int(rng.integers(len(others)))].images["wrist"]
    return [dataclasses.replace(frame, images={**frame.images, "wrist": still}) for frame in frames]


def _exchanged(frames: Frames, others: Frames, rng: np.random.Generator) -> Frames:
    return [
        dataclasses.replace(frame, action={**frame.action, "single_arm": frame.action["single_arm"][EXCHANGED]})
        for frame in frames
    ]


HONEST = "honest"  # the shipped policy
CORRECT = "correct"  # the dataset without a mistake
MISTAKES: Mapping[str, Mistake] = {
    "language-blind": Mistake(
        _any_task, "no-go", "language", "instruction of another task", "the policy does the same for every instruction"
    ),
    "vision-blind": Mistake(
        _any_images, "no-go", "vision", "all images of another episode", "the policy does not look at its cameras"
    ),
    "state-only": Mistake(
        _state_only, "no-go", "vision", "all images of another episode", "the policy does not look at its cameras"
    ),
    "wrist-frozen": Mistake(_frozen_wrist, "look", "vision", "wrist of another episode", "camera 'wrist' is not used"),
    "joint-swapped": Mistake(
        _exchanged,
        "no-go",
        "joints",
        "exchanged, sign, unit",
        "single_arm/shoulder_pan and single_arm/wrist_roll are exchanged",
    ),
}

POLICIES = (HONEST, *MISTAKES)


def dataset_of(name: str) -> str:
    """Return the dataset that a policy is trained on; that of `honest-3` has no mistake."""
    return name if name in MISTAKES else CORRECT


def demonstrate(robot: SimRobot, seed: int, fps: float) -> list[Frame]:
    """Perform the task of a seed with the expert; return its rows, none if it failed."""
    robot.reset(seed)
    cube = robot.cube_poses()[asked_colour(robot.task)]
    place = (float(cube.position_m[0]), float(cube.position_m[1]))
    plan = plan_demonstration(robot.joint_positions(), place, cube.yaw_rad, seed)
    frames = []
    for row in range(round(plan.duration_s * fps)):
        command, positions = plan.sample(row / fps), robot.joint_positions()
        frames.append(
            Frame(
                round(row * 1e9 / fps),
                {"single_arm": positions[:5], "gripper": positions[5:]},
                {"single_arm": command[:5], "gripper": command[5:]},
                robot.images(),
                robot.task,
            )
        )
        for step in range(round(1 / fps / COMMAND_S)):
            target = plan.sample(row / fps + step * COMMAND_S)
            robot.command(dict(zip(JOINTS, target.tolist(), strict=True)))
            robot.step(COMMAND_S)
    robot.step(SETTLE_S)
    return frames if robot.success() else []


def record(folder: Path, names: Sequence[str], first_seed: int, num_episodes: int) -> None:
    """Record demonstrations once, into a dataset for each name; those that have episodes get the missing ones."""
    embodiment = load_embodiment(ROBOT)
    with ExitStack() as opened:
        robot = SimRobot()
        opened.callback(robot.close)
        writers = {name: opened.enter_context(DatasetWriter(folder / name, embodiment)) for name in names}
        if all(writer.num_episodes >= num_episodes for writer in writers.values()):
            return
        earlier: list[list[Frame]] = []
        seed, number = first_seed, -FOREIGN
        while number < num_episodes:
            frames = demonstrate(robot, seed, embodiment.fps)
            seed += 1
            if not frames:
                continue
            for name, writer in writers.items():
                if writer.num_episodes == number:
                    others = [frame for episode in earlier for frame in episode]
                    change = MISTAKES[name].change if name in MISTAKES else None
                    _write(writer, change(frames, others, np.random.default_rng(seed)) if change else frames)
            earlier = [*earlier, frames][-FOREIGN:]
            number += 1


def _write(writer: DatasetWriter, frames: Frames) -> None:
    episode = writer.start_episode(frames[0].task)
    for frame in frames:
        episode.add_frame(frame)
    episode.save()


def finetune(dataset: Path, output: Path, seed: int, given: argparse.Namespace) -> Path:
    """Train the action head by the suite's command; return the checkpoint."""
    checkpoint = output / f"checkpoint-{given.max_steps}"
    if checkpoint.is_dir():
        return checkpoint
    options = ["--dataset", dataset, "--base-model", given.checkpoint, "--statistics", "base", "--output", output]
    options += ["--max-steps", given.max_steps, "--save-steps", given.max_steps, "--batch-size", given.batch_size]
    options += ["--learning-rate", given.learning_rate, "--device", given.device, "--report-to", "none"]
    options += ["--no-tune-visual", "--no-augment-images", "--feature-cache", output.parent.parent / "features"]
    options += ["--no-preflight", "--num-workers", 1, "--seed", seed, "--resume"]  # nothing to resume is a new run
    _run("finetune", options)
    return checkpoint


def evaluate(checkpoint: Path, dataset: Path, output: Path, given: argparse.Namespace) -> Mapping[str, Any]:
    """Judge by the suite's command; return its report."""
    report = output / "evaluation.json"
    if not report.is_file():
        options = ["--checkpoint", checkpoint, "--dataset", dataset, "--output", output, "--device", given.device]
        _run("evaluate", [*options, "--fail-on", "never"])
    return json.loads(report.read_text())["judgements"][0]


def _run(command: str, options: Sequence[object]) -> None:
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", f"gr00t_training.cli.{command}", *map(str, options)]
    subprocess.run(words, check=True, env=variables, stdout=subprocess.DEVNULL)


def line(name: str, judgement: Mapping[str, Any]) -> str:
    """Return one row of the table: verdict, the numbers of the tests that matter, and whether the mistake is named."""
    findings = {(found["about"], found["test"]): found for found in judgement["findings"]}
    shown = [
        findings[mistake]["shown"].removeprefix("error ").partition(" (")[0]
        for mistake in dict.fromkeys((mistake.group, mistake.test) for mistake in MISTAKES.values())
    ]
    error = judgement["errors"][judgement["name"]]["relative"]
    return f"| {name} | {judgement['verdict']} | {error:.2f} | {' | '.join(shown)} | {outcome(name, judgement)} |"


def outcome(name: str, judgement: Mapping[str, Any]) -> str:
    """Return whether a policy's mistake, and none of the others, is named."""
    named = [
        other
        for other, mistake in MISTAKES.items()
        for found in judgement["findings"]
        if (found["about"], found["test"]) == (mistake.group, mistake.test)
        and found["verdict"] == mistake.verdict
        and found["meaning"].startswith(mistake.names)
    ]
    if name not in MISTAKES:
        return f"wrongly named {', '.join(named)}" if named else "nothing named"
    return "named" if name in named else "missed"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/blind"), help="Folder; an existing one goes on.")
    parser.add_argument("--checkpoint", type=Path, default=compact_checkpoint(), help="Policy that is trained on.")
    parser.add_argument("--only", nargs="+", choices=POLICIES, default=POLICIES, help="Policies.")
    parser.add_argument("--episodes", type=int, default=10, help="To train on.")
    parser.add_argument("--judged", type=int, default=5, help="Episodes to judge on.")
    parser.add_argument(
        "--honest-seeds", type=int, default=0, help="Policies to train with the same recipe on correct data."
    )
    parser.add_argument("--max-steps", type=int, default=300, help="Of each training.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="Policies at a time.")
    given = parser.parse_args()
    output = given.output.resolve()
    started_s = time.monotonic()

    def note(text: str) -> None:
        print(f"{time.monotonic() - started_s:7.0f} s  {text}", file=sys.stderr, flush=True)

    seeds = {f"{HONEST}-{seed}": seed for seed in range(given.honest_seeds)}
    names = [*given.only, *seeds]
    datasets = dict.fromkeys(dataset_of(name) for name in names if name != HONEST)
    record(output / "trained", list(datasets), FIRST_TRAINED, given.episodes)
    record(output / "judged", [HONEST], FIRST_JUDGED, given.judged)
    note(f"{given.episodes} episodes to train on, {given.judged} to judge on")

    def make(name: str) -> str:
        checkpoint = given.checkpoint
        if name != HONEST:
            dataset = output / "trained" / dataset_of(name)
            checkpoint = finetune(dataset, output / "runs" / name, seeds.get(name, 0), given)
            note(f"{name}: trained")
        judgement = evaluate(checkpoint, output / "judged" / HONEST, output / "reports" / name, given)
        note(f"{name}: {outcome(name, judgement)}")
        return line(name, judgement)

    with ThreadPoolExecutor(given.jobs) as pool:
        rows = list(pool.map(make, names))
    print("| policy | verdict | error | other instruction | other images | other wrist | joints | the report |")
    print("|---" * 8 + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
