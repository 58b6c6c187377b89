# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read `tokenizer.json` within limits: only the parts that the releases' tokenizers have.

All families have a byte-level BPE; one that was converted from SentencePiece is read too. What could make a short text
long (replacing normalizers, templates) or slow (regular expressions that backtrack) is refused or, if no prompt needs
it, left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from gr00t_training.errors import CheckpointError
from gr00t_training.io.json_text import parse_json, read_json_object
from gr00t_training.io.text import printable

SIZE_LIMIT = 64 * 2**20  # [bytes]; that of Qwen3 has 11 MB
_MOST_ADDED = 5000  # tokens behind the vocabulary
_LONGEST_ADDED = 256  # [characters]
_MOST_ENTRIES = 600_000  # of vocabulary and merges; Qwen3 has 303,000
_DEEPEST = 3  # sequences in sequences
_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")
_PRE_TOKENIZERS = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace", "WhitespaceSplit")
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# of the public byte-level tokenizers; another one may repeat once at most, since it must not backtrack without end
_KNOWN_PATTERNS = frozenset({_GPT_2, _QWEN, _QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")})
_REPETITION = re.compile(r"[*+{]")
_REMEDY = "take the tokenizer.json of the checkpoint's language model"


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        CheckpointError: missing, damaged, too large, or with a part that no release has; names the part.
    """
    return _checked(read_json_object(path, CheckpointError, _REMEDY, SIZE_LIMIT), str(path))


def parse_tokenizer(text: str, source: str) -> Tokenizer:
    """Read the text of a `tokenizer.json`; `source` names its origin in errors.

    Raises:
        CheckpointError: see `read_tokenizer`.
    """
    content = parse_json(text, source, CheckpointError, _REMEDY)
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: its tokenizer is not an object; {_REMEDY}")
    return _checked(content, source)


def _checked(content: dict[str, Any], source: str) -> Tokenizer:
    try:
        _check_model(content.get("model"))
        _check_added(content.get("added_tokens") or [])
        _check_part("normalizer", content.get("normalizer"), _NORMALIZERS, "normalizers")
        _check_part("pre_tokenizer", content.get("pre_tokenizer"), _PRE_TOKENIZERS, "pretokenizers")
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: {error}; {_REMEDY}") from error
    # prompts are encoded without special tokens, padding and truncation
    content.update(post_processor=None, padding=None, truncation=None)
    try:
        return Tokenizer.from_str(json.dumps(content))
    except BaseException as error:  # the library raises plain Exception, and a BaseException where it gives up
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = printable(str(error))
        raise CheckpointError(f"{source}: not a tokenizer.json ({reason}); {_REMEDY}") from error


def _check_model(model: Any) -> None:
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        raise ValueError("its model is not a byte-level BPE")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, Mapping) or not isinstance(merges, list):
        raise ValueError("its model has no vocab and merges")
    if len(vocabulary) + len(merges) > _MOST_ENTRIES:
        raise ValueError(f"has {len(vocabulary) + len(merges)} entries and merges (limit {_MOST_ENTRIES})")
    for word, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < _MOST_ENTRIES:
            raise ValueError(f"entry '{printable(word)}' has number {number!r:.80}, expected 0 to {_MOST_ENTRIES - 1}")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise ValueError("two entries have the same number")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"{name} is {printable(repr(model[name]))}, no tokenizer of a release has one")


def _check_added(added: Any) -> None:
    if not isinstance(added, list) or len(added) > _MOST_ADDED:
        raise ValueError(f"added_tokens is not a list of at most {_MOST_ADDED} tokens")
    for token in added:
        text = token.get("content")
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_ADDED:
            raise ValueError(f"added token {printable(repr(text))} is not a text of 1 to {_LONGEST_ADDED} characters")


def _check_part(name: str, part: Any, known: tuple[str, ...], items: str, depth: int = 0) -> None:
    """Refuse a normalizer or pre-tokenizer that no release has."""
    if part is None:
        return
    kind = part.get("type")
    if kind == "Sequence" and depth < _DEEPEST and isinstance(part.get(items), list) and len(part[items]) <= 10:
        for item in part[items]:
            _check_part(name, item, known, items, depth + 1)
    elif kind not in known:
        raise ValueError(f"{name} {printable(repr(kind))} is not supported ({', '.join(known)})")
    elif kind == "Metaspace":  # puts one character in the place of a space, and before the text
        if not isinstance(part.get("replacement"), str) or len(part["replacement"]) != 1:
            raise ValueError(f"{name} replaces a space by {printable(repr(part.get('replacement')))}")
    elif kind == "Split":
        pattern = part.get("pattern") or {}
        regex = pattern.get("Regex")
        if regex is not None and regex not in _KNOWN_PATTERNS and len(_REPETITION.findall(regex)) > 1:
            raise ValueError(f"{name} has a regular expression of no known tokenizer: {printable(regex)}")
