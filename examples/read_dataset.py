# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read a LeRobot dataset (v2.0, v2.1 or v3.0): length, task, ranges and image sizes of each episode."""

import argparse
import tempfile
from pathlib import Path

from write_dataset import write_dataset

from gr00t_training import EpisodeDataset


def show(folder: Path) -> None:
    """Print every episode; only the requested rows and images are read."""
    dataset = EpisodeDataset(folder)
    print(f"{len(dataset)} episodes at {dataset.fps:g} Hz")
    for episode in dataset:
        print(f"episode {episode.index}: {len(episode)} rows, task '{episode.task()}'")
        for key in dataset.modality.action:
            rows = episode.action(key)  # (N, D) float64, units of the dataset
            print(f"  action.{key}: {rows.shape[1]} channels from {rows.min():.2f} to {rows.max():.2f}")
        for key in dataset.modality.video:
            height, width = episode.images(key, rows=[0]).shape[1:3]  # (T, H, W, 3) uint8 RGB
            print(f"  video.{key}: {width}x{height} px")


def main() -> None:
    """Parse, and read the given dataset or a tiny one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="folder of a dataset (default: a tiny one is written)")
    given = parser.parse_args().dataset
    with tempfile.TemporaryDirectory() as scratch:
        if given is None:
            write_dataset(Path(scratch))
        show(given or Path(scratch))


if __name__ == "__main__":
    main()
