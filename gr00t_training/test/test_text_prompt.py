# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest

pytest.importorskip("torch")

from reference_release import structure
from tokenizers import Tokenizer, models

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError, ObservationError
from gr00t_training.model.families.compact_tokenizer import build_compact_tokenizer
from gr00t_training.model.families.n1 import N1
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.model.families.n1_7 import N1_7
from gr00t_training.model.families.prompt_parts import EAGLE_IMAGE_TOKEN, QWEN3_VOCABULARY
from gr00t_training.transforms.text import (
    PromptFormat,
    PromptTokenizer,
    build_prompt,
    formalize,
    pad_left,
    shipped_tokenizer,
)

# ids of the released tokenizer
PUBLISHED_SPECIAL = {
    1: "<|im_start|>",
    2: "<|im_end|>",
    49152: "<img>",
    49153: "</img>",
    49154: EAGLE_IMAGE_TOKEN,
    49161: "assistant",
}
# and of Qwen3's, which N1.6 and N1.7 use
QWEN_SPECIAL = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151652: "<|vision_start|>",
    151653: "<|vision_end|>",
    151655: "<|image_pad|>",
}
EAGLE_SPECIAL = {151669: EAGLE_IMAGE_TOKEN, 151670: "<img>", 151671: "</img>"}


@pytest.fixture(scope="module")
def compact() -> PromptTokenizer:
    return PromptTokenizer.from_file(shipped_tokenizer("compact"), N1.prompt)


@pytest.fixture(scope="module")
def published(fixtures_dir: ReferenceFiles) -> dict:
    return json.loads((fixtures_dir / "n1_prompt_tokens.json").read_text())


def test_prompt_of_one_image_and_of_two():
    assert build_prompt("Go", [2], N1.prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\nGo<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "user\n<image 1><img><IMG_CONTEXT></img>\n<image 2><img><IMG_CONTEXT></img>\nGo<" in build_prompt(
        "Go", [1, 1], N1.prompt
    )


def test_prompts_have_the_structure_of_the_release(compact: PromptTokenizer, published: dict):
    by_id = {compact._tokenizer.token_to_id(token): token for token in PUBLISHED_SPECIAL.values()}
    for sample in published["samples"]:
        expected = [PUBLISHED_SPECIAL.get(i, "text") for i in sample["input_ids"]]
        ids = compact.encode(sample["language"], [64] * sample["num_images"])
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
        ids = compact.encode(text, [4])
        assert compact.decode(ids) == build_prompt(text, [4], N1.prompt)
        assert max(ids) < compact.vocab_size


def test_the_word_assistant_is_one_token_also_inside_a_word(compact: PromptTokenizer):
    ids = compact.encode("assistants", [4])
    assert [compact.decode([i]) for i in ids].count("assistant") == 3  # system text, instruction, generation prompt


def test_shipped_tokenizer_can_be_rebuilt(compact: PromptTokenizer):
    rebuilt = build_compact_tokenizer()
    assert rebuilt.get_vocab() == compact._tokenizer.get_vocab()
    text = build_prompt("Put the screwdriver beside the assistants, please", [16, 16], N1.prompt)
    assert rebuilt.encode(text).ids == compact._tokenizer.encode(text).ids


def test_smollm2_gets_the_tokens_of_the_release():
    """A stand-in vocabulary of SmolLM2's size: the added tokens must get the published ids."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"w{i}" for i in range(N1.prompt.base_vocabulary - 3))]
    base = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    tokenizer = PromptTokenizer(base, "stand-in", N1.prompt)
    assert {i: base.id_to_token(i) for i in PUBLISHED_SPECIAL} == PUBLISHED_SPECIAL
    assert (tokenizer.image_token_id, tokenizer.pad_id, tokenizer.vocab_size) == (49154, 2, 49164)


def test_an_instruction_with_an_image_token_is_refused(compact: PromptTokenizer):
    with pytest.raises(ObservationError, match="contains '<IMG_CONTEXT>'"):
        compact.encode("look at <IMG_CONTEXT>", [4])


def test_files_that_are_no_tokenizer_of_the_model_are_refused(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="cannot be read"):
        PromptTokenizer.from_file(file, N1.prompt)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        PromptTokenizer.from_file(file, N1.prompt)
    Tokenizer(models.BPE()).save(str(file))
    with pytest.raises(CheckpointError, match=r"token '<\|endoftext\|>' is missing"):
        PromptTokenizer.from_file(file, N1.prompt)


def test_prompts_of_n1_6_and_n1_7():
    """Images may have different numbers of tokens."""
    assert build_prompt("go", [2, 1], N1_6.prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\ngo"
        "<image 1><img><IMG_CONTEXT><IMG_CONTEXT></img><image 2><img><IMG_CONTEXT></img><|im_end|>\n"
    )
    assert "user\ngo<image 1><img>" in build_prompt("go", [2], N1_6.prompt)
    assert build_prompt("go {tokens}", [1, 2], N1_7.prompt) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>go {tokens}<|im_end|>\n"
    )


def test_instructions_are_made_formal_as_in_the_release(fixtures_dir: ReferenceFiles):
    for folder in ("n1_6_tiny", "n1_7_tiny", "n1_7_tiny_variant"):
        for sample in json.loads((fixtures_dir / folder / "meta.json").read_text())["samples"]:
            assert formalize(sample["instruction"]) in sample["chat_text"]
    assert formalize("Öffne die  Tür_2, jetzt!\n") == "öffne die  tür_2 jetzt\n"


def qwen3(*, size: int = QWEN3_VOCABULARY) -> Tokenizer:
    """Stand-in for Qwen3's tokenizer: its size and special tokens, but other text."""
    names = [f"w{i}" for i in range(size)]
    for i, token in QWEN_SPECIAL.items():
        names[i] = token
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    tokenizer.add_special_tokens(list(QWEN_SPECIAL.values()))
    return tokenizer


def published_ids(family: str, sample: dict) -> list[int]:
    """Write the ids of `groot_token_ids.json` out in full."""
    if family == "n1_6":
        ids = [[151669] * 81 if i == "CTX" else [int(i)] for i in sample["ids_image_context_collapsed"]]
        return list(chain.from_iterable(ids))
    images = [151652, *[151655] * 64, 151653] * sample["n_images_256x256"]
    return [*sample["first8"][:3], *images, *sample["text_ids"], *sample["last"]]


@pytest.mark.parametrize(("family", "prompt_format"), [("n1_6", N1_6.prompt), ("n1_7", N1_7.prompt)])
def test_special_tokens_stand_where_the_release_has_them(
    fixtures_dir: ReferenceFiles, family: str, prompt_format: PromptFormat
):
    tokenizer = PromptTokenizer(qwen3(), "stand-in", prompt_format)
    special = QWEN_SPECIAL | EAGLE_SPECIAL

    def outline(ids: list[int]) -> list[tuple[str, int]]:
        return structure([special.get(i, "text") for i in ids])

    for sample in json.loads((fixtures_dir / "groot_token_ids.json").read_text())[family]:
        expected = published_ids(family, sample)
        assert len(expected) == sample["n_tokens"]
        images = [81] * sample["n_images_252x252"] if family == "n1_6" else [64] * sample["n_images_256x256"]
        assert outline(tokenizer.encode(sample["instruction"], images)) == outline(expected)


def test_qwen3_gets_the_tokens_of_n1_6_and_none_of_n1_7():
    base = qwen3()
    tokenizer = PromptTokenizer(base, "stand-in", N1_7.prompt)
    assert (tokenizer.image_token_id, tokenizer.pad_id, tokenizer.vocab_size) == (151655, 151643, QWEN3_VOCABULARY)
    tokenizer = PromptTokenizer(base, "stand-in", N1_6.prompt)
    assert (tokenizer.image_token_id, tokenizer.pad_id, tokenizer.vocab_size) == (151669, 151643, 151680)
    assert {i: base.id_to_token(i) for i in EAGLE_SPECIAL} == EAGLE_SPECIAL


@pytest.mark.parametrize(
    ("base", "prompt_format", "message"),
    [
        (build_compact_tokenizer, N1_7.prompt, r"'<\|vision_start\|>' is missing; .* of GR00T N1\.7, take .*Cosmos"),
        (lambda: qwen3(size=QWEN3_VOCABULARY - 4), N1_6.prompt, r"'<IMG_CONTEXT>' is missing; .* of GR00T N1\.6"),
    ],
)
def test_tokenizers_of_other_models_are_refused_by_name(base, prompt_format: PromptFormat, message: str):
    with pytest.raises(CheckpointError, match=message):
        PromptTokenizer(base(), "stand-in", prompt_format)


def test_an_instruction_with_n1_7s_image_token_is_refused():
    with pytest.raises(ObservationError, match=r"contains '<\|image_pad\|>'"):
        PromptTokenizer(qwen3(), "stand-in", N1_7.prompt).encode("look at <|image_pad|>", [4])
