# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Instruction and images to the token ids of the prompt.

The released N1 uses the tokenizer of SmolLM2 plus twelve tokens of its own; it is not part of its checkpoint and not
shipped here. The compact model has a small tokenizer of the same structure, made by `build_compact_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from gr00t_training.errors import CheckpointError, ObservationError

IMAGE_TOKEN = "<IMG_CONTEXT>"
PAD_TOKEN = "<|im_end|>"
SMOLLM2_VOCABULARY = 49152  # entries before the tokens below
_BASE_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2
# Behind the base vocabulary, in this order.
_ADDED = (
    "<img>",
    "</img>",
    IMAGE_TOKEN,
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "assistant",
    "<interval>",
    "</interval>",
)

_COMPACT_VOCABULARY = 724  # before the added tokens; every word of the corpus is then one token
_COMPACT_CORPUS = (
    "system You are a helpful user image Perform the default behavior Pick up the red cube and place it into the "
    "blue bowl on the table Grasp the green block move it to the left right front back of the plate Put the yellow "
    "cup in the box Open the top middle bottom drawer close the door push the button pull the handle lift the "
    "bottle pour the water stack the blocks sort the fruit apple banana orange pear lemon from counter tray basket "
    "shelf sink stove pan pot lid spoon fork knife sponge towel fold the cloth wipe the surface hand over the "
    "screwdriver hammer tool with your left arm right arm gripper both hands reach towards target release drop hold "
    "rotate turn insert peg hole wait stop go home return small large black white brown grey purple pink cylinder "
    "sphere ball toy object then next under behind between near inside outside above below"
)


def build_prompt(instruction: str, num_images: int, num_image_tokens: int) -> str:
    """Return the chat text of one sample; the instruction goes in unchanged."""
    block = f"<img>{IMAGE_TOKEN * num_image_tokens}</img>\n"
    # only several images are numbered
    images = block if num_images == 1 else "".join(f"<image {i + 1}>{block}" for i in range(num_images))
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{images}{instruction}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


class PromptTokenizer:
    """Prompts to ids."""

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        """Wrap a tokenizer; SmolLM2's own gets the tokens of N1 added.

        Raises:
            CheckpointError: a token that prompts need is missing; `source` names the file.
        """
        if tokenizer.token_to_id(IMAGE_TOKEN) is None and tokenizer.get_vocab_size() == SMOLLM2_VOCABULARY:
            _add_tokens(tokenizer)
        vocabulary = tokenizer.get_vocab()
        for token in (*_BASE_SPECIAL, *_ADDED):
            if token not in vocabulary:
                raise CheckpointError(f"{source}: token '{token}' is missing; this is not a tokenizer of GR00T N1")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.image_token_id = vocabulary[IMAGE_TOKEN]
        self.pad_id = vocabulary[PAD_TOKEN]
        self.vocab_size = len(vocabulary)

    @classmethod
    def from_file(cls, path: str | Path) -> PromptTokenizer:
        """Read a `tokenizer.json`.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file, expected a tokenizer.json")
        try:
            return cls(Tokenizer.from_file(str(path)), str(path))
        except CheckpointError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{path}: not a tokenizer.json ({error}); copy it again") from error

    def encode(self, instruction: str, num_images: int, num_image_tokens: int) -> list[int]:
        """Return the ids of one sample's prompt.

        Raises:
            ObservationError: the instruction itself contains the image token.
        """
        prompt = build_prompt(instruction, num_images, num_image_tokens)
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        if ids.count(self.image_token_id) != num_images * num_image_tokens:
            raise ObservationError(f"instruction {instruction!r}: contains '{IMAGE_TOKEN}', which stands for an image")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the left to the longest; returns ids and mask `(B, T)` int64, mask 0 at padding."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def shipped_tokenizer(name: str) -> Path:
    """Return the path of a tokenizer that comes with the package."""
    return Path(str(resources.files("gr00t_training") / "tokenizers" / name / "tokenizer.json"))


def build_compact_tokenizer() -> Tokenizer:
    """Make the compact model's tokenizer: byte-level BPE over words of table-top tasks; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = _COMPACT_CORPUS.split()
    # with and without the blank before it, since a word may start the instruction
    texts = [*(" " + word for word in words), *words, *(word.lower() for word in words)]
    trainer = trainers.BpeTrainer(
        vocab_size=_COMPACT_VOCABULARY,
        min_frequency=1,
        special_tokens=list(_BASE_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    _add_tokens(tokenizer)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer) -> None:
    for token in _ADDED:
        if token == "assistant":  # an ordinary word that the release made one token
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=True)])
        else:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
