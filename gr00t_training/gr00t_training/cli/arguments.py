# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have: the same name, meaning and first sentence of help in each.

The thing that a command works on is its positional argument: the dataset of `gr00t dataset`, the checkpoint of
`gr00t serve`, a bag. Everything else is an option. Options that were called otherwise keep their old spellings, hidden.
A test compares the options of all commands.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.episode_ranges import EPISODES_HELP

OLD_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def positive_int(text: str) -> int:
    """Read a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is less than 1")
    return number


def dtype_name(text: str) -> str:
    """Read the name of a floating-point type; old short names count."""
    return OLD_DTYPES.get(text, text)


@dataclass(frozen=True)
class Shared:
    """An option of several commands."""

    help: str  # first sentence; a command may add more
    settings: dict[str, Any]  # for argparse
    short: str = ""


_FOLDER = {"type": Path, "metavar": "FOLDER"}
_FILE = {"type": Path, "metavar": "FILE"}
_COUNT = {"type": positive_int, "metavar": "N"}
_SWITCH = {"action": "store_true"}
SHARED = {
    "--allow-partial": Shared("Use what can be read of a damaged bag.", _SWITCH),
    "--checkpoint": Shared("Checkpoint: folder or hub id.", {"metavar": "CHECKPOINT"}),
    "--data-config": Shared("NVIDIA's data config, which selects keys and scaling (N1, N1.5).", {"metavar": "NAME"}),
    "--dataset": Shared("Folder of the dataset.", _FOLDER),
    "--dataset-version": Shared("Version of the LeRobot format.", {}),
    "--denoising-steps": Shared("Steps of the sampler (default: those of the release).", _COUNT),
    "--device": Shared("Where the model runs: auto, cpu or cuda.", {"default": "auto", "metavar": "DEVICE"}),
    "--dry-run": Shared("Check and report, but write nothing.", _SWITCH),
    "--dtype": Shared("Number type of the weights.", {"type": dtype_name, "choices": ("bfloat16", "float32")}),
    "--embodiment": Shared("Embodiment: name or YAML file.", {"metavar": "EMBODIMENT"}),
    "--episodes": Shared(EPISODES_HELP, {"nargs": "+", "metavar": "LIST"}),
    "--fail-on": Shared(
        "Exit code 1 if the verdict on a policy is this one or worse; never: 0 for every verdict.",
        {"choices": ("look", "no-go", "never"), "default": "no-go"},  # of types.Verdict, whose module imports numpy
    ),
    "--fps": Shared("Tick rate of the training data [Hz], where the checkpoint does not contain it.", _COUNT),
    "--instruction": Shared("Task text for the policy.", {"metavar": "TEXT"}),
    "--jobs": Shared("Parallel processes.", {"type": int, "metavar": "N"}),
    "--json": Shared("Print JSON.", _SWITCH),
    "--output": Shared("Folder to write.", _FOLDER, short="-o"),
    "--quick": Shared("Skip the slow checks.", _SWITCH),
    "--ray-address": Shared(
        "Ray cluster, such as auto or HOST:6379; local: one on this machine, for this run.",
        {"default": "local", "metavar": "ADDRESS"},
    ),
    "--robot": Shared("Shipped robot, or a folder with the files of another one.", {"metavar": "NAME|FOLDER"}),
    "--round-s": Shared("Time limit of a task [s].", {"type": float, "metavar": "X"}),
    "--rounds": Shared("Number of tasks.", {"type": int, "default": 3, "metavar": "N"}),
    "--seed": Shared("Seed of the random numbers.", {"type": int, "metavar": "N"}),
    "--tokenizer": Shared("tokenizer.json, for a checkpoint without one.", _FILE),
    "--topics": Shared("Topic map (YAML).", _FILE),
}


def add(
    parser: CommandParser,
    name: str,
    detail: str = "",
    *,
    old: Sequence[str] = (),
    group: argparse._ActionsContainer | None = None,
    **settings: Any,
) -> None:
    """Add an option of `SHARED`.

    Args:
        parser: of the command.
        name: of the option.
        detail: sentences after the shared help.
        old: earlier names of the option in this command, which keep working.
        group: of the parser, which shows the option.
        settings: for argparse, in addition to the shared ones or instead of them.
    """
    shared = SHARED[name]
    names = (shared.short, name) if shared.short else (name,)
    text = f"{shared.help} {detail}".strip()
    (group or parser).add_argument(*names, help=text, **{**shared.settings, **settings})
    for each in old:
        parser.add_old_spelling(each, name)


def add_upload_options(parser: CommandParser) -> None:
    """Add where to upload to, on the Hugging Face Hub."""
    parser.add_argument("repository", metavar="REPOSITORY", help="name or organization/name.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--branch", metavar="NAME", help="Branch to upload to (default: the main one).")
    add(parser, "--dry-run", "Write only the card.")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
