# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Try a policy on the Meta-World robot by direct calls, without ROS: what topics, node and limits are compared with.

Scenes, instructions, noise, time limit, images and the rows of a chunk that are carried out are those of gr00t_rollout.
Runs in the environment of the simulator, with gr00t_training[model] in it. The table is that of gr00t_rollout too.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from metaworld_robot import MetaworldRobot
from metaworld_tasks import JOINTS, STEP_HZ, TASKS

from gr00t_bringup.trials.summary import write_summary
from gr00t_bringup.trials.table import Trial, TrialTable, plan
from gr00t_training import Observation, Policy
from gr00t_training.cli.command import run_command

LIMIT_S = 20.0
ROWS = 4  # of each chunk that are carried out: inference_period_s of policy.yaml
STEPS_PER_ROW = STEP_HZ // 5  # embodiment.yaml has 5 rows a second


def main() -> int:
    """Parse, carry out the trials that are missing, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="Folder of the policy.")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="Finished trials are not repeated."
    )
    parser.add_argument("--num-trials", type=int, default=10, metavar="N", help="Of each task.")
    parser.add_argument("--seed", type=int, default=1000, metavar="N", help="Of the first scene.")
    return run_command("direct.py", lambda: _try(parser.parse_args()))


def _try(given: argparse.Namespace) -> None:
    seeds = range(given.seed, given.seed + given.num_trials)
    pairs = [(task, task) for task in TASKS]
    common = {"clock": "direct", "judge": "sim", "time_limit_s": LIMIT_S}
    specs = plan([str(given.checkpoint.resolve())], pairs, seeds, **common)
    given.output.mkdir(parents=True, exist_ok=True)
    table = TrialTable(given.output / "trials.csv")
    policy, robot = Policy.from_checkpoint(given.checkpoint, device="cpu"), MetaworldRobot()
    for spec in table.missing(specs):
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        policy.reset(spec.seed)
        robot.reset(spec.seed, spec.task)
        steps, chunks = _attempt(policy, robot)
        is_done = robot.success()
        outcome = "done" if is_done else "time limit reached"
        table.add(Trial(spec, begun, is_done, steps / STEP_HZ, outcome, chunks=chunks))
        print(f"seed {spec.seed}: {spec.task}: {outcome} after {steps} steps", flush=True)
    robot.close()
    print(write_summary(table.of(specs), given.output / "trials.json"))


def _attempt(policy: Policy, robot: MetaworldRobot) -> tuple[int, int]:
    """Let the policy act until the task is done at an image, or time is up; return numbers of steps and chunks."""
    rows, chunks = np.empty((0, len(JOINTS))), 0
    for step in range(round(LIMIT_S * STEP_HZ)):
        if step % (ROWS * STEPS_PER_ROW) == 0:
            rows = _rows(policy, robot)
            chunks += 1
        at = step % (ROWS * STEPS_PER_ROW) / STEPS_PER_ROW
        target = np.array([np.interp(at, np.arange(len(rows)), column) for column in rows.T])
        target[3] = rows[int(at), 3]  # the gripper does not pass through what lies between
        robot.command(dict(zip(JOINTS, target.tolist(), strict=True)))
        robot.step()
        if (step + 1) % STEPS_PER_ROW == 0 and robot.success():
            return step + 1, chunks
    return round(LIMIT_S * STEP_HZ), chunks


def _rows(policy: Policy, robot: MetaworldRobot) -> np.ndarray:
    state = robot.joint_positions()
    observation = Observation(
        images={camera: image[None] for camera, image in robot.images().items()},
        state={"hand": state[None, :3], "gripper": state[None, 3:]},
        instruction=robot.task,
    )
    chunk = policy.infer(observation)
    return np.concatenate([chunk.actions["hand"], chunk.actions["gripper"]], axis=1)


if __name__ == "__main__":
    sys.exit(main())
