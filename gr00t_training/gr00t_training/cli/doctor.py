# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_doctor`: find out what is wrong with a machine, and say what to do.

Looks at Python, ROS, middleware, GPU, torch, video encoders, disk, clocks, USB and permissions. Changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.doctor.examining import examine
from gr00t_training.doctor.findings import Level
from gr00t_training.doctor.machine import PYTHON_S, Machine, this_machine
from gr00t_training.doctor.use import ASSUMED_CAMERAS, Camera, Use
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import one_line, printable

NAME = "gr00t_doctor"
EXIT_FAULTS = 1
CAMERAS = "gr00t_bringup.cameras"
MAX_LINE = 1000  # characters of a finding
WIDTH = 17  # of the names
EPILOG = """
exit codes: 0 no fault, 1 a fault, 2 wrong options.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; return 0, 1 after a fault, 2 for wrong options."""
    return run_command(NAME, lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(NAME, description=__doc__, epilog=EPILOG)
    add(parser, "--robot", "Its cameras count, instead of three of 640x480 at 30 Hz.", default="")
    add(parser, "--dataset", "Its disk is measured (default: the current folder).", default=Path("."))
    text = "Other machines of the robot, whose clocks are compared through ssh."
    parser.add_argument("--hosts", nargs="+", default=[], metavar="HOST", help=text)
    add(parser, "--quick", "They are: speed of the disk, stamps of a running robot.")
    add(parser, "--json")
    return parser


def _run(options: argparse.Namespace) -> int:
    machine = this_machine()
    cameras = (_cameras(machine, options.robot) if options.robot else None) or ASSUMED_CAMERAS
    use = Use(cameras, options.robot, options.dataset, tuple(options.hosts), options.quick)
    found = []
    for name, finding in examine(machine, use):
        found.append((name, finding))
        if not options.json:
            print(f"{finding.level.value:12}{name:{WIDTH}}{printable(one_line(finding.text), MAX_LINE)}", flush=True)
            if finding.remedy:
                print(f"{'':{12 + WIDTH}}-> {finding.remedy}", flush=True)
    counts = Counter(finding.level for _, finding in found)
    if options.json:
        print(json.dumps([{"check": name, **asdict(finding)} for name, finding in found], indent=1))
    else:
        print(_total(counts))
    return EXIT_FAULTS if counts[Level.FAULT] else 0


def _total(counts: Counter[Level]) -> str:
    """Return the last line."""
    faults, warnings = counts[Level.FAULT], counts[Level.WARNING]
    parts = [f"{faults} fault{'' if faults == 1 else 's'}", f"{warnings} warning{'' if warnings == 1 else 's'}"]
    return ", ".join([*parts, f"{counts[Level.UNKNOWN]} not checked", f"{counts[Level.OK]} ok"])


def _cameras(machine: Machine, robot: str) -> list[Camera]:
    """Return the cameras of a robot, which another package reads: in a process of its own, as everything foreign.

    Raises:
        ConfigError: no such robot, a wrong file, or the package is not installed.
    """
    answer = machine.run([machine.python.executable, "-m", CAMERAS, robot], PYTHON_S)
    if answer.code or answer.failure:
        lines = answer.error.strip().splitlines() or [answer.failure]
        if "No module named" in lines[-1]:
            raise ConfigError(f"--robot needs gr00t_bringup ({lines[-1]}); pip install ./gr00t_bringup")
        raise ConfigError(lines[-1].removeprefix("gr00t_doctor: error: "))
    return [Camera(**each) for each in json.loads(answer.output.strip().splitlines()[-1])]


if __name__ == "__main__":
    sys.exit(main())
