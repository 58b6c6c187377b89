# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Ask a policy what to do: one observation in, a chunk of actions out."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from finetune_policy import train
from write_dataset import write_dataset

from gr00t_training import Observation, Policy


def ask(checkpoint: Path, instruction: str) -> None:
    """Print the first and the last action for a robot at zero with black images."""
    policy = Policy.from_checkpoint(checkpoint, device="cpu", seed=0)
    robot = policy.embodiment
    cameras = {key: robot.video[key] for key in robot.video_keys}
    observation = Observation(
        images={key: np.zeros((1, size.height, size.width, 3), np.uint8) for key, size in cameras.items()},
        state={key: np.zeros((1, robot.state[key].dim)) for key in robot.state_keys},
        instruction=instruction,
    )
    chunk = policy.infer(observation)
    print(f"{robot.name}: {chunk.horizon} actions, one every {chunk.step_ns / 1e6:g} ms")
    for key, rows in chunk.actions.items():  # (H, D) float64, units of the robot
        names = ", ".join(robot.action[key].names)
        print(f"  {key} ({names}): first {rows[0].round(2).tolist()}, last {rows[-1].round(2).tolist()}")


def main() -> None:
    """Parse, and ask the given policy or one that is trained for a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="folder of a checkpoint (default: a tiny one is made)")
    parser.add_argument("--instruction", default="wave", help="what the robot is to do (default: wave)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint
        if checkpoint is None:
            write_dataset(Path(scratch, "dataset"))
            checkpoint = train(Path(scratch, "dataset"), Path(scratch, "run"), steps=1)
        ask(checkpoint, options.instruction)


if __name__ == "__main__":
    main()
