# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Subcommand `gr00t_dataset validate`: check a LeRobot dataset (v2.0, v2.1, v3.0), every row and every frame."""

from __future__ import annotations

import argparse
from collections import Counter

from gr00t_training.cli.arguments import add, num_cores
from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.tools.validate.findings import MAX_SHOWN
from gr00t_training.io.object_storage import remote_url
from gr00t_training.io.text import printable

SAME_WARNINGS = 3  # shown of one text; a warning about every file would hide the others


def add_validate_options(parser: CommandParser) -> None:
    """Add the options that `validate` reads."""
    add(parser, "--quick", "Frames of videos are counted, not decoded.")
    add(parser, "--jobs", default=num_cores())


def validate(options: argparse.Namespace) -> int:
    """Print one line per finding and a summary; return 1 if there is a fault, otherwise 0."""
    num_faults, warnings = 0, Counter[str]()
    for finding in validate_dataset(options.path, quick=options.quick, jobs=options.jobs):
        if finding.is_fault:
            num_faults += 1
        else:
            warnings[finding.text] += 1
        if finding.is_fault or warnings[finding.text] <= SAME_WARNINGS:
            print(finding, flush=True)
    for text, count in warnings.items():
        if count > SAME_WARNINGS:
            print(printable(f"warning: {text}: {count - SAME_WARNINGS} more like this", MAX_SHOWN))
    print(f"{remote_url(options.path) or options.path}: {num_faults} faults, {warnings.total()} warnings")
    return 1 if num_faults else 0
