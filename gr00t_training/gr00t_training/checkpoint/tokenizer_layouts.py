# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers that are published in other files than `tokenizer.json`, converted to one with the library transformers.

Only a conversion needs transformers: its result is kept in the user's cache by the content of the files, and a
checkpoint that is saved gets it as its own `tokenizer.json`. The result passes the same checks as one that was
published. The library sees a copy of the tokenizer's own files without the keys that name other files or code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.files import place, read_json
from gr00t_training.errors import CheckpointError, ConfigError, Gr00tError
from gr00t_training.io.cache_folder import AUTO, cache_folder
from gr00t_training.io.files import copy_regular, replacing
from gr00t_training.io.text import one_line
from gr00t_training.transforms.tokenizer_file import SIZE_LIMIT, parse_tokenizer

CONFIG_FILE = "tokenizer_config.json"
EXTRA_FILES = ("added_tokens.json", "special_tokens_map.json")  # taken along where they exist
REMEDY = "pip install 'gr00t_training[transformers]'"
_FORM = "1"  # of what is in the cache
# Keys of tokenizer_config.json that shape a tokenizer; others name files or code.
_KEYS = (
    "tokenizer_class",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "legacy",
    "errors",
)


@dataclass(frozen=True)
class Layout:
    """Files of a tokenizer."""

    name: str
    files: tuple[str, ...]  # all needed, with CONFIG_FILE
    libraries: tuple[str, ...]  # that read it


LAYOUTS = (
    Layout("vocab.json with merges.txt", ("vocab.json", "merges.txt"), ("transformers",)),
    Layout("SentencePiece tokenizer.model", ("tokenizer.model",), ("transformers", "sentencepiece")),
)


def find_layout(folder: Path) -> Layout | None:
    """Return the layout of the tokenizer files in a folder; None if there is none that is known.

    Raises:
        CheckpointError: a name in the folder is a link that leaves it.
    """
    return next((it for it in LAYOUTS if all(place(folder, name).exists() for name in it.files)), None)


def convert(folder: Path, layout: Layout) -> Path:
    """Return a `tokenizer.json` in the user's cache for the tokenizer files of a folder.

    Raises:
        ConfigError: a library is missing; names the command that installs it.
        CheckpointError: the files are damaged, are not those of a supported tokenizer, or the cache is not writable.
    """
    if not place(folder, CONFIG_FILE).exists():
        raise CheckpointError(
            f"{folder}: has {layout.name} but no {CONFIG_FILE}, which names its kind and special tokens; add that file"
        )
    with tempfile.TemporaryDirectory() as temporary:
        copied = Path(temporary)
        _copy(folder, copied, layout)
        result = cached_tokenizer(_digest(copied))
        if not result.exists():
            text = _converted(folder, copied, layout)
            try:
                result.parent.mkdir(parents=True, exist_ok=True)
                with replacing(result, f".{os.getpid()}.part") as file:
                    file.write(text.encode())
            except OSError as error:
                raise CheckpointError(
                    f"{folder}: the converted tokenizer cannot be kept in {result.parent} ({error.strerror}); set "
                    "XDG_CACHE_HOME to a folder that can be written"
                ) from error
    return result


def cached_tokenizer(digest: str) -> Path:
    """Return where the conversion of files with this digest is kept."""
    return cache_folder(AUTO, "tokenizers") / f"{digest}.json"


def _copy(folder: Path, copied: Path, layout: Layout) -> None:
    for name in layout.files:
        copy_regular(place(folder, name), copied / name, CheckpointError, SIZE_LIMIT)
    for name in EXTRA_FILES:
        if place(folder, name).exists():
            (copied / name).write_text(json.dumps(read_json(place(folder, name))), encoding="utf-8")
    settings: dict[str, Any] = read_json(place(folder, CONFIG_FILE))
    kept = {key: settings[key] for key in _KEYS if key in settings}
    (copied / CONFIG_FILE).write_text(json.dumps(kept), encoding="utf-8")


def _digest(copied: Path) -> str:
    found = hashlib.sha256(_FORM.encode())
    for file in sorted(copied.iterdir()):
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)} ".encode())
        found.update(content)
    return found.hexdigest()[:32]


def _converted(folder: Path, copied: Path, layout: Layout) -> str:
    """Return the text of the `tokenizer.json`, within the limits of `gr00t_training.transforms.tokenizer_file`."""
    for library in layout.libraries:
        try:
            import_module(library)
        except ImportError as error:
            raise ConfigError(
                f"{folder}: has its tokenizer as {layout.name}, and {library} is not installed: {REMEDY}, or put its "
                "tokenizer.json into the folder"
            ) from error
    from transformers import AutoTokenizer

    try:
        with _quiet():
            found = AutoTokenizer.from_pretrained(copied, local_files_only=True, trust_remote_code=False)
        text = found.backend_tokenizer.to_str()
    except BaseException as error:  # the library raises anything on damaged files, and its core a BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{folder}: {layout.name} cannot be converted ({one_line(error)[:200]}); put its tokenizer.json into the "
            "folder"
        ) from error
    try:
        parse_tokenizer(text, str(folder))
    except Gr00tError as error:
        raise CheckpointError(f"{error} ({layout.name})") from error
    return text


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the library's notes from the command's output, also where it talks through its own logger."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
