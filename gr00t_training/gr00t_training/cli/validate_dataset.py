# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_validate_dataset`: check a LeRobot v2.x dataset, every row and every frame."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.dataset.validate import validate_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per finding and a summary; return 1 when there is a fault, else 0."""
    parser = argparse.ArgumentParser(prog="gr00t_validate_dataset", description=__doc__)
    parser.add_argument("dataset_path", type=Path, help="Folder of the dataset.")
    options = parser.parse_args(arguments)
    counts = {True: 0, False: 0}
    for finding in validate_dataset(options.dataset_path):
        counts[finding.is_fault] += 1
        print(finding, flush=True)
    print(f"{options.dataset_path}: {counts[True]} faults, {counts[False]} warnings")
    return 1 if counts[True] else 0


if __name__ == "__main__":
    raise SystemExit(main())
