# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert instruction and images to the token ids of the prompt.

A family uses the tokenizer of a language model, most of them with additional tokens after it (`PromptFormat`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from gr00t_training.errors import CheckpointError, ObservationError
from gr00t_training.transforms.tokenizer_file import read_tokenizer

_PUNCTUATION = re.compile(r"[^\w\s]")


@dataclass(frozen=True)
class PromptFormat:
    """How a model family writes and tokenizes its prompts."""

    model: str  # name for messages
    base: str  # language model whose tokenizer is used
    base_vocabulary: int  # its entries
    added: tuple[str, ...]  # behind the base vocabulary, in this order
    required: tuple[str, ...]  # tokens that every tokenizer of the family has
    pad: str
    image_token: str  # repeated for each image
    chat: str  # whole prompt around {images} and {text}
    image: str  # one of several images: its number {i} from 1, its {tokens}
    only_image: str  # the only image of a prompt


def formalize(instruction: str) -> str:
    """Return the instruction in lower case without punctuation (N1.6, N1.7); underscores and white space stay."""
    return _PUNCTUATION.sub("", instruction.lower())


def build_prompt(instruction: str, tokens_per_image: Sequence[int], prompt_format: PromptFormat) -> str:
    """Return the chat text of one sample; the instruction goes in unchanged."""
    block = prompt_format.image if len(tokens_per_image) > 1 else prompt_format.only_image
    images = [
        block.format(i=i, tokens=prompt_format.image_token * count) for i, count in enumerate(tokens_per_image, 1)
    ]
    return prompt_format.chat.format(images="".join(images), text=instruction)


class PromptTokenizer:
    """Prompts of one model family to ids."""

    def __init__(self, tokenizer: Tokenizer, source: str, prompt_format: PromptFormat) -> None:
        """Wrap a tokenizer; that of the family's language model gets the tokens of the family added.

        Raises:
            CheckpointError: a token that prompts need is missing; `source` names the file.
        """
        is_base = tokenizer.get_vocab_size() == prompt_format.base_vocabulary
        if tokenizer.token_to_id(prompt_format.image_token) is None and is_base:
            add_tokens(tokenizer, prompt_format)
        vocabulary = tokenizer.get_vocab()
        for token in prompt_format.required:
            if token not in vocabulary:
                raise CheckpointError(
                    f"{source}: token '{token}' is missing; this is not a tokenizer of {prompt_format.model}, take "
                    f"that of {prompt_format.base}"
                )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._format = prompt_format
        self.image_token_id = vocabulary[prompt_format.image_token]
        self.pad_id = vocabulary[prompt_format.pad]
        self.vocab_size = max(vocabulary.values()) + 1  # numbers may have gaps

    @classmethod
    def from_file(cls, path: str | Path, prompt_format: PromptFormat) -> PromptTokenizer:
        """Read a `tokenizer.json`.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
        """
        return cls(read_tokenizer(Path(path)), str(path), prompt_format)

    def encode(self, instruction: str, tokens_per_image: Sequence[int]) -> list[int]:
        """Return the ids of one sample's prompt.

        Raises:
            ObservationError: the instruction itself contains the image token.
        """
        prompt = build_prompt(instruction, tokens_per_image, self._format)
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        if ids.count(self.image_token_id) != sum(tokens_per_image):
            raise ObservationError(
                f"instruction {instruction!r}: contains '{self._format.image_token}', which stands for an image"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the left to the longest; returns ids and mask `(B, T)` int64, mask 0 at padding."""
    length = max(len(row) for row in rows)
    ids = np.full((len(rows), length), pad_id, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :], mask[i, length - len(row) :] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def shipped_tokenizer(name: str) -> Path:
    """Return the path of a tokenizer that comes with the package."""
    return Path(str(resources.files("gr00t_training") / "tokenizers" / name / "tokenizer.json"))


def add_tokens(tokenizer: Tokenizer, prompt_format: PromptFormat) -> None:
    """Add the tokens of a family behind those of its language model."""
    for token in prompt_format.added:
        if token == "assistant":  # an ordinary word that N1's release made one token
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=True)])
        else:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
