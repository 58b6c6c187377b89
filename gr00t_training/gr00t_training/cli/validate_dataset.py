# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_validate_dataset`: check a LeRobot dataset (v2.0, v2.1, v3.0), every row and every frame."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.dataset.validate import validate_dataset

SAME_WARNINGS = 3  # of one text; what all files have in common would bury the rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per finding and a summary; return 1 when there is a fault, else 0."""
    parser = argparse.ArgumentParser(prog="gr00t_validate_dataset", description=__doc__)
    parser.add_argument("dataset_path", type=Path, help="Folder of the dataset.")
    add_options(parser)
    return run(parser.parse_args(arguments))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    parser.add_argument("--quick", action="store_true", help="Count the videos' frames without decoding them.")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="Processes that check files (default: %(default)s).")


def run(options: argparse.Namespace) -> int:
    """Print the findings on `options.dataset_path`; return 1 when there is a fault, else 0."""
    num_faults, warnings = 0, Counter[str]()
    for finding in validate_dataset(options.dataset_path, quick=options.quick, jobs=options.jobs):
        if finding.is_fault:
            num_faults += 1
        else:
            warnings[finding.text] += 1
        if finding.is_fault or warnings[finding.text] <= SAME_WARNINGS:
            print(finding, flush=True)
    for text, count in warnings.items():
        if count > SAME_WARNINGS:
            print(f"warning: {text}: {count - SAME_WARNINGS} more like this")
    print(f"{options.dataset_path}: {num_faults} faults, {warnings.total()} warnings")
    return 1 if num_faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
