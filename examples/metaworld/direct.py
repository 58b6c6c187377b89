# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Try a policy on the Meta-World robot by direct calls, without ROS: what topics, node and limits are compared with.

Runs in the environment of the simulator, with gr00t_training[model] in it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import metaworld_trials
import numpy as np

from gr00t_bringup.sim.simulation import Simulation
from gr00t_training import Observation, Policy
from gr00t_training.cli.command import run_command


class SuitePolicy:
    """A checkpoint of this suite."""

    def __init__(self, checkpoint: Path) -> None:
        """Load it."""
        self._policy = Policy.from_checkpoint(checkpoint, device="cpu")

    def reset(self, seed: int) -> None:
        """Start an episode with the noise of `seed`."""
        self._policy.reset(seed)

    def rows(self, robot: Simulation) -> np.ndarray:
        """Return a chunk, `(H, 4)`."""
        state = robot.joint_positions()
        observation = Observation(
            images={camera: image[None] for camera, image in robot.images().items()},
            state={"hand": state[None, :3], "gripper": state[None, 3:]},
            instruction=robot.task,
        )
        chunk = self._policy.infer(observation)
        return np.concatenate([chunk.actions["hand"], chunk.actions["gripper"]], axis=1)


def main() -> int:
    """Parse, carry out the trials that are missing, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    metaworld_trials.add_arguments(parser)
    return run_command("direct.py", lambda: _try(parser.parse_args()))


def _try(given: argparse.Namespace) -> None:
    metaworld_trials.carry_out(partial(SuitePolicy, given.checkpoint), given)


if __name__ == "__main__":
    sys.exit(main())
