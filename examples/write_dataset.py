# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a LeRobot dataset: two episodes of a made-up arm that waves in front of a camera."""

import argparse
from pathlib import Path

import numpy as np

from gr00t_training import DatasetWriter, Embodiment, Frame
from gr00t_training.embodiment import Normalization, VectorKey, VideoKey

ARM = VectorKey(names=("shoulder", "elbow"), normalization=Normalization.MIN_MAX)  # radians
ROBOT = Embodiment(
    name="two_joint_arm",
    tag="new_embodiment",  # row of the model's tables for robots that it was not trained on
    fps=10,
    state={"arm": ARM},
    action={"arm": ARM},
    video={"front": VideoKey(height=48, width=64)},
)


def make_frame(row: int, amplitude_rad: float) -> Frame:
    """Return what a real robot would measure at one tick: joints, the commanded joints, and an image."""
    now, soon = (amplitude_rad * np.sin(0.3 * (row + ahead) + np.arange(2)) for ahead in (0, 1))
    image = np.full((48, 64, 3), 40, np.uint8)
    image[:, int(32 + 20 * now[0]) :] = (200, 80, 80)  # the arm covers a part of the picture
    return Frame(tick_ns=row * ROBOT.step_ns, state={"arm": now}, action={"arm": soon}, images={"front": image})


def write_dataset(folder: Path) -> None:
    """Write two episodes of 20 rows; a kill at any moment loses at most the episode that is open."""
    with DatasetWriter(folder, ROBOT) as dataset:
        for amplitude_rad in (0.5, 1.0):
            episode = dataset.start_episode("wave")
            for row in range(20):
                episode.add_frame(make_frame(row, amplitude_rad))
            episode.save()


def main() -> None:
    """Parse, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="new folder for the dataset")
    folder = parser.parse_args().output
    write_dataset(folder)
    print(f"wrote {folder}: 2 episodes of 20 rows at {ROBOT.fps} Hz")


if __name__ == "__main__":
    main()
