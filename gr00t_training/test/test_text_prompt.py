# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from reference_release import structure
from tokenizers import Tokenizer, models

from gr00t_training.errors import CheckpointError, ObservationError
from gr00t_training.transforms.text import (
    IMAGE_TOKEN,
    SMOLLM2_VOCABULARY,
    PromptTokenizer,
    build_compact_tokenizer,
    build_prompt,
    pad_left,
    shipped_tokenizer,
)

# ids of the released tokenizer
PUBLISHED_SPECIAL = {
    1: "<|im_start|>",
    2: "<|im_end|>",
    49152: "<img>",
    49153: "</img>",
    49154: IMAGE_TOKEN,
    49161: "assistant",
}


@pytest.fixture(scope="module")
def compact() -> PromptTokenizer:
    return PromptTokenizer.from_file(shipped_tokenizer("compact"))


@pytest.fixture(scope="module")
def published(fixtures_dir: Path) -> dict:
    return json.loads((fixtures_dir / "n1_prompt_tokens.json").read_text())


def test_prompt_of_one_image_and_of_two():
    assert build_prompt("Go", 1, 2) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\nGo<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "user\n<image 1><img><IMG_CONTEXT></img>\n<image 2><img><IMG_CONTEXT></img>\nGo<" in build_prompt("Go", 2, 1)


def test_prompts_have_the_structure_of_the_release(compact: PromptTokenizer, published: dict):
    by_id = {compact._tokenizer.token_to_id(token): token for token in PUBLISHED_SPECIAL.values()}
    for sample in published["samples"]:
        expected = [PUBLISHED_SPECIAL.get(i, "text") for i in sample["input_ids"]]
        ids = compact.encode(sample["language"], sample["num_images"], 64)
        assert structure([by_id.get(i, "text") for i in ids]) == structure(expected), sample["language"]


def test_padding_equals_the_release(published: dict):
    example = published["batch_pad_example"]
    rows = [
        [token for token, kept in zip(ids, mask, strict=True) if kept]
        for ids, mask in zip(example["input_ids"], example["attention_mask"], strict=True)
    ]
    assert len(rows[0]) != len(rows[1])
    ids, mask = pad_left(rows, published["special"]["pad"][1])
    assert ids.tolist() == example["input_ids"]
    assert mask.tolist() == example["attention_mask"]


def test_any_text_comes_back(compact: PromptTokenizer):
    for text in ("Pick up 12 cubes", "Öffne die Schublade", "抓住红色方块", "🤖\t\n\x00", "\U0010ffff"):
        ids = compact.encode(text, 1, 4)
        assert compact.decode(ids) == build_prompt(text, 1, 4)
        assert max(ids) < compact.vocab_size


def test_the_word_assistant_is_one_token_also_inside_a_word(compact: PromptTokenizer):
    ids = compact.encode("assistants", 1, 4)
    assert [compact.decode([i]) for i in ids].count("assistant") == 3  # system text, instruction, generation prompt


def test_shipped_tokenizer_can_be_rebuilt(compact: PromptTokenizer):
    rebuilt = build_compact_tokenizer()
    assert rebuilt.get_vocab() == compact._tokenizer.get_vocab()
    text = build_prompt("Put the screwdriver beside the assistants, please", 2, 16)
    assert rebuilt.encode(text).ids == compact._tokenizer.encode(text).ids


def test_smollm2_gets_the_tokens_of_the_release():
    """A stand-in vocabulary of SmolLM2's size: the added tokens must get the published ids."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"w{i}" for i in range(SMOLLM2_VOCABULARY - 3))]
    base = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    tokenizer = PromptTokenizer(base, "stand-in")
    assert {i: base.id_to_token(i) for i in PUBLISHED_SPECIAL} == PUBLISHED_SPECIAL
    assert (tokenizer.image_token_id, tokenizer.pad_id, tokenizer.vocab_size) == (49154, 2, 49164)


def test_an_instruction_with_an_image_token_is_refused(compact: PromptTokenizer):
    with pytest.raises(ObservationError, match="contains '<IMG_CONTEXT>'"):
        compact.encode("look at <IMG_CONTEXT>", 1, 4)


def test_files_that_are_no_tokenizer_of_the_model_are_refused(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="no such file"):
        PromptTokenizer.from_file(file)
    file.write_text("{")
    with pytest.raises(CheckpointError, match=r"not a tokenizer\.json"):
        PromptTokenizer.from_file(file)
    Tokenizer(models.BPE()).save(str(file))
    with pytest.raises(CheckpointError, match=r"token '<\|endoftext\|>' is missing"):
        PromptTokenizer.from_file(file)
