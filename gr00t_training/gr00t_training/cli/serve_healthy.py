# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Health check of a policy server: does it answer? For `healthcheck` of docker/compose.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.embodiment import load_embodiment
from gr00t_training.serve.access import find_token
from gr00t_training.serve.client import PolicyClient

NAME = "gr00t_serve_healthy"
ANY_EMBODIMENT = "so101"  # a ping does not compare it


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the server answers, 2 with a line if not."""
    return run_command(NAME, lambda: _ask(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(NAME, description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="Address of the server.")
    parser.add_argument("--port", type=int, default=5555, metavar="N", help="TCP port.")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="File with the token, where it needs one.")
    parser.add_argument("--within", type=float, default=10.0, metavar="X", help="Time limit [s].")
    return parser


def _ask(options: argparse.Namespace) -> None:
    token = find_token(file=options.token_file)
    with PolicyClient(
        load_embodiment(ANY_EMBODIMENT), options.host, options.port, token=token, timeout_s=options.within
    ) as client:
        client.ping()


if __name__ == "__main__":
    sys.exit(main())
