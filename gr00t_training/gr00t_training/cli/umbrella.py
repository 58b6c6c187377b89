# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t`: entry point to the commands of all installed packages.

`gr00t X ...` is the executable `gr00t_X ...`, or `X_node ...`. Packages declare their commands as entry points, so this
module imports none of them.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points

from gr00t_training.cli.command import EXIT_ERROR, run_command
from gr00t_training.cli.commands import COMMANDS
from gr00t_training.cli.entry import GROUP, Command, Job
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import one_line, printable
from gr00t_training.io.version import suite_version

NAME = "gr00t"
TITLES = {
    Job.COLLECT: "collect data",
    Job.DATASET: "work on datasets",
    Job.TRAIN: "train and evaluate",
    Job.RUN: "run a policy",
}
# Commands of the other packages of the suite, to say how to install missing ones.
OTHER_PACKAGES = {
    "gr00t_recorder": ("convert", "play", "record", "record-bag", "recorder", "suggest"),
    "gr00t_policy_node": ("bench-policy", "check", "init", "policy", "replay", "teleop"),
    "gr00t_bringup": ("demo", "expert", "fake", "launch", "loop", "rollout", "sim", "view"),
    "gr00t_console": ("console",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return its exit code, or 2 without a known word."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    commands = discover()
    if not words or words[0] in ("-h", "--help"):
        return run_command(NAME, lambda: print(help_text(commands))) or (0 if words else EXIT_ERROR)
    if words[0] == "--version":
        return run_command(NAME, lambda: print(f"{NAME} {suite_version()}"))
    command = find(commands, words[0])
    if command is None:
        return run_command(NAME, lambda: refuse(words[0], commands))
    return command(words[1:], f"{NAME} {command.word}")


def discover() -> list[Command]:
    """Return the commands of the installed packages, sorted by word."""
    found = {command.name: command for command in COMMANDS}
    for point in entry_points(group=GROUP):
        try:
            found.update({command.name: command for command in point.load()})
        except (ImportError, AttributeError) as error:  # the commands of other packages still work
            print(f"{NAME}: warning: commands of {point.name} cannot be loaded: {one_line(error)}", file=sys.stderr)
    return sorted((command for command in found.values() if command.word), key=lambda command: command.word)


def find(commands: Iterable[Command], word: str) -> Command | None:
    """Return the command of a word; the name of its executable counts, too."""
    names = {word, word.replace("-", "_"), f"gr00t_{word.replace('-', '_')}"}
    return next((command for command in commands if {command.word, command.name} & names), None)


def help_text(commands: Sequence[Command]) -> str:
    """Return the text of `gr00t --help`."""
    lines = [
        f"usage: {NAME} [-h] [--version] COMMAND ...",
        "",
        "Commands of the GR00T suite for ROS 2. 'gr00t COMMAND --help' explains one.",
    ]
    width = max(len(word) for word in _all_words(commands)) + 2
    for job in Job:
        rows = [_row(command, width) for command in commands if command.job is job]
        lines += ["", f"{TITLES[job]}:", *rows] if rows else []
    absent = _absent(commands)
    if absent:
        lines += ["", "not installed:"]
        for package, words in absent.items():
            lines.append(f"  {', '.join(words)}: {_how_to_install(package)}")
    return "\n".join(lines)


def _row(command: Command, width: int) -> str:
    missing = command.missing()
    note = f" (needs {missing.module}: {missing.remedy})" if missing else ""
    return f"  {command.word:{width}}{command.summary}{note}"


def _absent(commands: Iterable[Command]) -> dict[str, list[str]]:
    """Return the packages of the suite with words that no installed package has."""
    known = {command.word for command in commands}
    absent = {package: [word for word in words if word not in known] for package, words in OTHER_PACKAGES.items()}
    return {package: words for package, words in absent.items() if words}


def _all_words(commands: Iterable[Command]) -> list[str]:
    return [*(command.word for command in commands), *(word for words in OTHER_PACKAGES.values() for word in words)]


def _how_to_install(package: str) -> str:
    return f"pip install ./{package}, or colcon build --packages-up-to {package}, in the folder of the suite"


def refuse(word: str, commands: Sequence[Command]) -> None:
    """Say why a word is no command.

    Raises:
        ConfigError: always; its package is not installed, or no such word is known.
    """
    for package, words in _absent(commands).items():
        if word in words:
            raise ConfigError(f"'{word}' is part of {package}, which is not installed; {_how_to_install(package)}")
    close = difflib.get_close_matches(word, _all_words(commands), n=1)
    remedy = f"did you mean '{close[0]}'?" if close else f"see {NAME} --help"
    raise ConfigError(f"unknown command '{printable(word)}'; {remedy}")
