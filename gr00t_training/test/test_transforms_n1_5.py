# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms and prompts of N1.5 against the reference release, for each of its data configurations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from reference_release import Reference, load_reference, structure
from tokenizers import Tokenizer, models

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError
from gr00t_training.model.families.n1_5 import N1_5
from gr00t_training.model.families.prompt_parts import EAGLE_IMAGE_TOKEN, QWEN3_VOCABULARY
from gr00t_training.transforms.images import SquareImages
from gr00t_training.transforms.pipeline import ModelInputs, Pipeline
from gr00t_training.transforms.text import PromptTokenizer, build_prompt, pad_left, shipped_tokenizer

CONFIGS = (
    "agibot_genie1",
    "bimanual_panda_gripper",
    "fourier_gr1_arms_only",
    "oxe_droid",
    "so100_dualcam",
    "unitree_g1",
    "unitree_g1_full_body",
)
NUM_IMAGE_TOKENS = 256
INPUTS = ModelInputs(
    rules=N1_5.rules(None),
    images=SquareImages(224, torch.float32, tokens=NUM_IMAGE_TOKENS),
    image_token_id=726,
    vocab_size=736,
    state_dim=64,
    action_dim=32,
    action_horizon=16,
    num_projectors=32,
)
# ids of the released tokenizer
PUBLISHED_SPECIAL = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151669: EAGLE_IMAGE_TOKEN,
    151670: "<img>",
    151671: "</img>",
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles, spec_dir: ReferenceFiles) -> Reference:
    configs = json.loads((spec_dir / "data_configs_n1_5.json").read_text())
    return load_reference(fixtures_dir / "transforms_n1_5" / request.param, configs[request.param])


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    """The small one that is shipped; it has all tokens of N1.5."""
    return PromptTokenizer.from_file(shipped_tokenizer("compact"), N1_5.prompt)


@pytest.fixture(scope="module")
def pipeline(reference: Reference, tokenizer: PromptTokenizer) -> Pipeline:
    return Pipeline(reference.embodiment, reference.statistics, INPUTS, tokenizer, reference.projector)


@pytest.fixture(scope="module")
def published(fixtures_dir: ReferenceFiles) -> dict:
    return json.loads((fixtures_dir / "n1_5_prompt_tokens.json").read_text())


def own_structure(tokenizer: PromptTokenizer, ids: list[int]) -> list[tuple[str, int]]:
    by_id = {tokenizer._tokenizer.token_to_id(token): token for token in PUBLISHED_SPECIAL.values()}
    return structure([by_id.get(i, "text") for i in ids])


def published_structure(ids: list[int]) -> list[tuple[str, int]]:
    return structure([PUBLISHED_SPECIAL.get(i, "text") for i in ids])


def expanded(template: str) -> str:
    """Put what an image stands for into the release's text."""
    for i in range(1, 4):
        image = f"<image {i}><img>{EAGLE_IMAGE_TOKEN * NUM_IMAGE_TOKENS}</img>"
        template = template.replace(f"<image-{i}>", image)
    return template


def test_evaluation_equals_the_reference(reference: Reference, pipeline: Pipeline):
    sample, expected = pipeline.encode(reference.observation("eval")), reference.expected
    concatenated = pipeline.state.forward(reference.vectors("eval", "state"))
    np.testing.assert_allclose(concatenated, expected["eval.state_concat"], atol=1e-12)
    np.testing.assert_allclose(sample["state"], expected["eval.state"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(sample["state_mask"], expected["eval.state_mask"])
    assert sample["embodiment_id"] == reference.projector
    pixels = sample["pixel_values"]
    assert pixels.dtype == torch.float32
    assert len(pixels) == len(reference.embodiment.video)
    # 0.008: one gray level of 255, since implementations of the resize round differently
    np.testing.assert_allclose(pixels[:, :, 100:132, 100:132], expected["eval.pixel_values_crop"], atol=0.008)
    np.testing.assert_allclose(pixels.mean((1, 2, 3)), expected["eval.pixel_values_mean"], atol=1e-4)


def test_prompts_equal_the_reference(reference: Reference, pipeline: Pipeline, tokenizer: PromptTokenizer):
    ids = pipeline.encode(reference.observation("eval"))["input_ids"].tolist()
    expected_ids = np.array(reference.described["input_ids"]).reshape(-1).tolist()
    assert own_structure(tokenizer, ids) == published_structure(expected_ids)
    (template,) = reference.described["text"]
    assert tokenizer.decode(ids) == expanded(template)


def test_training_equals_the_reference(reference: Reference, pipeline: Pipeline):
    actions, expected = reference.vectors("train", "action"), reference.expected
    np.testing.assert_allclose(pipeline.action.forward(actions), expected["train.action_concat"], atol=1e-12)
    sample = pipeline.encode(reference.observation("train"), actions, np.random.default_rng(0), training=True)
    for key in ("state", "action"):
        np.testing.assert_allclose(sample[key], expected[f"train.{key}"], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(sample[f"{key}_mask"], expected[f"train.{key}_mask"])


def test_predictions_come_back_as_in_the_reference(reference: Reference, pipeline: Pipeline):
    for i, prediction in enumerate(torch.from_numpy(reference.raw["unapply.action"])):
        found = pipeline.decode(prediction, reference.observation("eval"))
        assert list(found) == list(reference.embodiment.action)
        for key, values in found.items():
            assert values.dtype == np.float64
            np.testing.assert_allclose(values, reference.expected[f"unapply.action.{key}"][i], rtol=1e-5, atol=1e-6)


def test_batches_join_images_and_pad_prompts(reference: Reference, pipeline: Pipeline, tokenizer: PromptTokenizer):
    observation = reference.observation("eval")
    short, long = (pipeline.encode(replace(observation, instruction=text)) for text in ("lift", "lift the red cube"))
    batch = pipeline.collate([short, long])
    padding = len(long["input_ids"]) - len(short["input_ids"])
    assert padding > 0
    assert batch["pixel_values"].shape == (2 * len(reference.embodiment.video), 3, 224, 224)
    assert batch["attention_mask"].sum(1).tolist() == [len(short["input_ids"]), len(long["input_ids"])]
    endoftext = tokenizer._tokenizer.token_to_id("<|endoftext|>")  # N1 pads with <|im_end|>
    assert batch["input_ids"][0, :padding].tolist() == [endoftext] * padding
    assert batch["input_ids"][0, padding:].tolist() == short["input_ids"].tolist()


def test_sampled_prompts_equal_the_release(tokenizer: PromptTokenizer, published: dict):
    for sample in published["samples"]:
        arguments = (sample["language"], [NUM_IMAGE_TOKENS] * sample["num_images"])
        assert build_prompt(*arguments, N1_5.prompt) == expanded(sample["template_text"])
        ids = tokenizer.encode(*arguments)
        assert own_structure(tokenizer, ids) == published_structure(sample["input_ids"]), sample["language"]


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


def test_qwen3_gets_the_tokens_of_the_release(published: dict):
    """A stand-in vocabulary of Qwen3's size: the added tokens must get the published ids."""
    names = [f"w{i}" for i in range(QWEN3_VOCABULARY)]
    names[151643:151646] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    base = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    tokenizer = PromptTokenizer(base, "stand-in", N1_5.prompt)
    assert {i: base.id_to_token(i) for i in PUBLISHED_SPECIAL} == PUBLISHED_SPECIAL
    special = published["special"]
    assert tokenizer.pad_id == special["pad"][1]
    assert tokenizer.vocab_size == special["vocab"]
    assert [base.token_to_id(token) for token in ("<img>", "</img>", EAGLE_IMAGE_TOKEN)] == special["img"]


def test_a_tokenizer_of_the_other_family_is_refused():
    """SmolLM2's size: N1 would add its tokens, N1.5 must not."""
    base = Tokenizer(models.WordLevel({f"w{i}": i for i in range(49152)}, unk_token="w0"))
    with pytest.raises(CheckpointError, match=r"is missing; this is not a tokenizer of GR00T N1\.5"):
        PromptTokenizer(base, "stand-in", N1_5.prompt)
    assert base.token_to_id(EAGLE_IMAGE_TOKEN) is None
