# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the tokenizer of a checkpoint: in its folder, at the path of the caller, or on the hub.

A `tokenizer.json` is taken as it is. Where a place has only the other files that tokenizers are published in, they are
converted (`gr00t_training.checkpoint.tokenizer_layouts`).
"""

from __future__ import annotations

from pathlib import Path

from gr00t_training.checkpoint.files import TOKENIZER_FILE, place
from gr00t_training.checkpoint.hub import fetch_tokenizer
from gr00t_training.checkpoint.tokenizer_layouts import LAYOUTS, Layout, convert, find_layout
from gr00t_training.errors import CheckpointError, Gr00tError
from gr00t_training.transforms.text import PromptFormat

_FOLDERS = ("", "backbone")  # of a checkpoint's tokenizer files


def find_tokenizer(folder: Path | None, given: str | Path | None, prompt_format: PromptFormat) -> Path:
    """Return the `tokenizer.json` of a checkpoint.

    Args:
        folder: of the checkpoint; searched first.
        given: file or folder, searched next.
        prompt_format: of the model; its language model's repository comes last.

    Raises:
        CheckpointError: not found; says which file to put where.
    """
    searched: list[Path] = []
    reasons: list[str] = []
    for origin in (folder, given):
        if origin is None:
            continue
        searched += _places(Path(origin)) if Path(origin).is_dir() else [Path(origin)]
        try:
            found = _tokenizer_at(Path(origin))
        except Gr00tError as error:  # its files cannot be converted here; another place may have a tokenizer.json
            reasons.append(str(error))
            continue
        if found is not None:
            return found
    for repository in prompt_format.base.split(" or "):
        try:
            return fetch_tokenizer(repository)
        except CheckpointError as error:
            reasons.append(str(error))
    looked = "".join(f"{file}, " for file in searched)
    raise CheckpointError(
        f"{folder or 'model'}: no tokenizer (searched {looked}then the hub: {'; '.join(reasons)}); for "
        f"{prompt_format.model} put the {TOKENIZER_FILE} of {prompt_format.base} into the checkpoint's folder, or pass "
        "its path as tokenizer"
    )


def stored_tokenizer(folder: Path) -> Path | None:
    """Return the `tokenizer.json` that a folder has, or the conversion of its other tokenizer files; None: it has none.

    Raises:
        ConfigError: a library that converts is missing.
        CheckpointError: the files cannot be converted.
    """
    found = next((file for file in _places(folder) if file.exists()), None)
    if found is not None:
        return found
    other = _other_layout(folder)
    return None if other is None else convert(*other)


def tokenizer_file(folder: Path) -> Path | None:
    """Return the file of a folder that its tokenizer is read from; None if it has none. Converts nothing."""
    found = next((file for file in _places(folder) if file.exists()), None)
    if found is not None:
        return found
    other = _other_layout(folder)
    return None if other is None else other[0] / other[1].files[0]


def _tokenizer_at(origin: Path) -> Path | None:
    if origin.is_dir():
        return stored_tokenizer(origin)
    if any(origin.name in layout.files for layout in LAYOUTS):
        layout = find_layout(origin.parent)
        return None if layout is None else convert(origin.parent, layout)
    return origin if origin.exists() else None


def _other_layout(folder: Path) -> tuple[Path, Layout] | None:
    for name in _FOLDERS:
        inner = place(folder, name) if name else folder
        layout = find_layout(inner)
        if layout:
            return inner, layout
    return None


def _places(folder: Path) -> list[Path]:
    return [place(folder, str(Path(each, TOKENIZER_FILE))) for each in _FOLDERS]
