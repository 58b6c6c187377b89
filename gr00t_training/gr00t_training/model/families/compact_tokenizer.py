# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The small tokenizer of the compact model; its prompts have the structure of N1's."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gr00t_training.model.families.n1 import N1
from gr00t_training.model.families.prompt_parts import CHAT_TOKENS
from gr00t_training.transforms.text import add_tokens

_VOCABULARY = 724  # before the added tokens; every word of the corpus is then one token
_CORPUS = (
    "system You are a helpful user image Perform the default behavior Pick up the red cube and place it into the "
    "blue bowl on the table Grasp the green block move it to the left right front back of the plate Put the yellow "
    "cup in the box Open the top middle bottom drawer close the door push the button pull the handle lift the "
    "bottle pour the water stack the blocks sort the fruit apple banana orange pear lemon from counter tray basket "
    "shelf sink stove pan pot lid spoon fork knife sponge towel fold the cloth wipe the surface hand over the "
    "screwdriver hammer tool with your left arm right arm gripper both hands reach towards target release drop hold "
    "rotate turn insert peg hole wait stop go home return small large black white brown grey purple pink cylinder "
    "sphere ball toy object then next under behind between near inside outside above below"
)


def build_compact_tokenizer() -> Tokenizer:
    """Make the compact model's tokenizer: byte-level BPE over words of table-top tasks; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = _CORPUS.split()
    # with and without the blank before it, since a word may start the instruction
    texts = [*(" " + word for word in words), *words, *(word.lower() for word in words)]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        min_frequency=1,
        special_tokens=list(CHAT_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    add_tokens(tokenizer, N1.prompt)
    return tokenizer
