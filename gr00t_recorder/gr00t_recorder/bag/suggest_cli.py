# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_suggest`: write a first topic map, embodiment and limits file for the robot of a bag."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gr00t_recorder.bag.suggest import suggest_files
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser

NAME = "gr00t_suggest"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; return 0, or as `run_command` after an error."""
    return run_command(NAME, lambda: _suggest(arguments))


def _suggest(arguments: Sequence[str] | None) -> None:
    parser = CommandParser(NAME, description=__doc__)
    parser.add_argument("bag", type=Path, metavar="BAG", help="Bag folder or storage file.")
    add(parser, "--output", required=True)
    options = parser.parse_args(arguments)
    for path in suggest_files(options.bag, options.output):
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
