# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Instruction and images to the token ids of the prompt.

The released models use the tokenizer of a language model, most of them with tokens of their own behind it; it is not
shipped here. The compact model has a small tokenizer of N1's structure, made by `build_compact_tokenizer`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from gr00t_training.errors import CheckpointError, ObservationError

IMAGE_TOKEN = "<IMG_CONTEXT>"  # of N1 to N1.6
QWEN_IMAGE_TOKEN = "<|image_pad|>"  # of N1.7
SMOLLM2_VOCABULARY = 49152  # entries before the tokens of N1
QWEN3_VOCABULARY = 151669  # entries before the tokens of N1.5 and N1.6; N1.7 adds none
_BASE_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_ANSWER_START = "<|im_start|>assistant\n"
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


_N1_ADDED = (
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
_EAGLE_ADDED = (
    IMAGE_TOKEN,
    "<img>",
    "</img>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<interval>",
    "</interval>",
)
_EAGLE_IMAGE = "<image {i}><img>{tokens}</img>"
_QWEN_IMAGE = "<|vision_start|>{tokens}<|vision_end|>"

N1_PROMPT = PromptFormat(
    model="GR00T N1",
    base="HuggingFaceTB/SmolLM2-1.7B-Instruct",
    base_vocabulary=SMOLLM2_VOCABULARY,
    added=_N1_ADDED,
    required=(*_BASE_SPECIAL, *_N1_ADDED),
    pad="<|im_end|>",
    image_token=IMAGE_TOKEN,
    chat=_SYSTEM_TURN + "<|im_start|>user\n{images}{text}<|im_end|>\n" + _ANSWER_START,
    image=_EAGLE_IMAGE + "\n",
    only_image="<img>{tokens}</img>\n",
)
N1_5_PROMPT = PromptFormat(
    model="GR00T N1.5",
    base="Qwen/Qwen3-1.7B",
    base_vocabulary=QWEN3_VOCABULARY,
    added=_EAGLE_ADDED,
    required=(*_BASE_SPECIAL, *_EAGLE_ADDED),
    pad="<|endoftext|>",
    image_token=IMAGE_TOKEN,
    chat=_SYSTEM_TURN + "<|im_start|>user\n{images}{text}<|im_end|>\n" + _ANSWER_START,
    image=_EAGLE_IMAGE,
    only_image=_EAGLE_IMAGE,
)
N1_6_PROMPT = PromptFormat(
    model="GR00T N1.6",
    base="Qwen/Qwen3-1.7B",
    base_vocabulary=QWEN3_VOCABULARY,
    added=_EAGLE_ADDED,
    required=(*_BASE_SPECIAL, *_EAGLE_ADDED[:3]),
    pad="<|endoftext|>",
    image_token=IMAGE_TOKEN,
    chat=_SYSTEM_TURN + "<|im_start|>user\n{text}{images}<|im_end|>\n",
    image=_EAGLE_IMAGE,
    only_image=_EAGLE_IMAGE,
)
N1_7_PROMPT = PromptFormat(
    model="GR00T N1.7",
    base="nvidia/Cosmos-Reason2-2B or Qwen/Qwen3-VL-2B-Instruct",
    base_vocabulary=QWEN3_VOCABULARY,
    added=(),
    required=(*_BASE_SPECIAL, "<|vision_start|>", "<|vision_end|>", QWEN_IMAGE_TOKEN),
    pad="<|endoftext|>",
    image_token=QWEN_IMAGE_TOKEN,
    chat="<|im_start|>user\n{images}{text}<|im_end|>\n",
    image=_QWEN_IMAGE,
    only_image=_QWEN_IMAGE,
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


def formalize(instruction: str) -> str:
    """Return the instruction in lower case without punctuation (N1.6, N1.7); underscores and white space stay."""
    return _PUNCTUATION.sub("", instruction.lower())


def build_prompt(instruction: str, tokens_per_image: Sequence[int], prompt_format: PromptFormat = N1_PROMPT) -> str:
    """Return the chat text of one sample; the instruction goes in unchanged."""
    block = prompt_format.image if len(tokens_per_image) > 1 else prompt_format.only_image
    images = [
        block.format(i=i, tokens=prompt_format.image_token * count) for i, count in enumerate(tokens_per_image, 1)
    ]
    return prompt_format.chat.format(images="".join(images), text=instruction)


class PromptTokenizer:
    """Prompts of one model family to ids."""

    def __init__(self, tokenizer: Tokenizer, source: str, prompt_format: PromptFormat = N1_PROMPT) -> None:
        """Wrap a tokenizer; that of the family's language model gets the tokens of the family added.

        Raises:
            CheckpointError: a token that prompts need is missing; `source` names the file.
        """
        is_base = tokenizer.get_vocab_size() == prompt_format.base_vocabulary
        if tokenizer.token_to_id(prompt_format.image_token) is None and is_base:
            _add_tokens(tokenizer, prompt_format)
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
        self.vocab_size = len(vocabulary)

    @classmethod
    def from_file(cls, path: str | Path, prompt_format: PromptFormat = N1_PROMPT) -> PromptTokenizer:
        """Read a `tokenizer.json`.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file, expected a tokenizer.json")
        try:
            return cls(Tokenizer.from_file(str(path)), str(path), prompt_format)
        except CheckpointError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{path}: not a tokenizer.json ({error}); copy it again") from error

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
    _add_tokens(tokenizer, N1_PROMPT)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, prompt_format: PromptFormat) -> None:
    for token in prompt_format.added:
        if token == "assistant":  # an ordinary word that N1's release made one token
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=True)])
        else:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
