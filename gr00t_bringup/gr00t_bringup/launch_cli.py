# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t launch`: start what a launch file of the suite describes, where `ros2 launch` does not exist.

The words are those of `ros2 launch gr00t_bringup FILE.launch.py`. Ctrl-C ends every node, the newest first.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gr00t_bringup.launch_files import LAUNCH_FILES, LaunchFile
from gr00t_bringup.launch_settings import check_names
from gr00t_bringup.runner import Runner
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable

NAME = "gr00t_launch"
SUFFIX = ".launch.py"


def main(args: list[str] | None = None) -> int:
    """Start the nodes and wait for their end."""
    parser = CommandParser(NAME, description=(__doc__ or "").splitlines()[0].replace("`", "'"))
    names = ", ".join(LAUNCH_FILES)
    parser.add_argument("file", metavar="FILE", help=f"What to start: {names}.")
    parser.add_argument("arguments", nargs="*", default=[], metavar="NAME:=VALUE", help="Arguments of the launch file.")
    parser.add_argument("--show-args", action="store_true", help="Print the arguments and end.")
    return run_command(NAME, lambda: _launch(parser.parse_args(args)))


def _launch(options: argparse.Namespace) -> None:
    own = _file(options.file)
    if options.show_args:
        print(_described(own))
        return
    given = _given(options.arguments, own)
    namespace = "/" + "/".join(part for part in given.get("namespace", "").split("/") if part)
    nodes = own.nodes(given, namespace)
    with tempfile.TemporaryDirectory(prefix=f"{NAME}_") as folder, Runner(Path(folder), is_shown=True) as runner:
        for node in nodes:
            runner.start_node(node, namespace=namespace, log_level=given.get("log_level", ""))
        runner.follow([node.executable for node in nodes if node.ends_launch])


def _file(word: str) -> LaunchFile:
    name = word.removesuffix(SUFFIX)
    if name not in LAUNCH_FILES:
        raise ConfigError(f"FILE is '{printable(word)}', expected one of {', '.join(LAUNCH_FILES)}")
    return LAUNCH_FILES[name]


def _given(words: list[str], own: LaunchFile) -> dict[str, str]:
    for word in words:
        if ":=" not in word or word.startswith(":="):
            raise ConfigError(
                f"'{printable(word)}' is not NAME:=VALUE; 'gr00t launch FILE --show-args' lists the names"
            )
    check_names(words, list(own.arguments))
    return dict(word.split(":=", maxsplit=1) for word in words)


def _described(own: LaunchFile) -> str:
    lines = [own.purpose, ""]
    for name, argument in own.arguments.items():
        choices = f" One of {', '.join(argument.choices)}." if argument.choices else ""
        lines.append(f"{name}:=  {argument.description}{choices}")
    return "\n".join(lines)
