# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the tokenizer of a checkpoint is: in its folder, where the caller says, or on the hub."""

from __future__ import annotations

from pathlib import Path

from gr00t_training.checkpoint.files import TOKENIZER_FILE
from gr00t_training.checkpoint.hub import fetch_tokenizer
from gr00t_training.errors import CheckpointError
from gr00t_training.transforms.text import PromptFormat

_PLACES = (TOKENIZER_FILE, f"backbone/{TOKENIZER_FILE}")


def find_tokenizer(folder: Path | None, given: str | Path | None, prompt_format: PromptFormat) -> Path:
    """Return the `tokenizer.json` of a checkpoint.

    Args:
        folder: of the checkpoint; looked at first.
        given: file or folder, looked at next.
        prompt_format: of the model; its language model's repository comes last.

    Raises:
        CheckpointError: it is nowhere; says which file to put where.
    """
    places = _places(folder) if folder else []
    if given is not None:
        places += _places(Path(given)) if Path(given).is_dir() else [Path(given)]
    for place in places:
        if place.is_file():
            return place
    reasons = []
    for repository in prompt_format.base.split(" or "):
        try:
            return fetch_tokenizer(repository)
        except CheckpointError as error:
            reasons.append(str(error))
    looked = "".join(f"{place}, " for place in places)
    raise CheckpointError(
        f"{folder or 'model'}: no tokenizer (looked for {looked}then on the hub: {'; '.join(reasons)}); for "
        f"{prompt_format.model} put the {TOKENIZER_FILE} of {prompt_format.base} into the checkpoint's folder, or pass "
        "its path as tokenizer"
    )


def stored_tokenizer(folder: Path) -> Path | None:
    """Return the `tokenizer.json` that a folder has, if any."""
    return next((place for place in _places(folder) if place.is_file()), None)


def _places(folder: Path) -> list[Path]:
    return [folder / name for name in _PLACES]
