# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Pipeline and prompts of N1.7 against the reference release: raw samples in, the model's batch and actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from reference_processor import ProcessorReference, load_processor

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError, ConfigError, ObservationError
from gr00t_training.model.families.n1_7 import N1_7
from gr00t_training.transforms.images import QwenImages
from gr00t_training.transforms.pipeline import Pipeline
from gr00t_training.transforms.text import PromptTokenizer

DROID, LIBERO = 0, 1  # samples of the tiny checkpoint: relative poses and joints with two ticks of images; absolute


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(fixtures_dir: ReferenceFiles) -> ProcessorReference:
    return load_processor(fixtures_dir / "n1_7_tiny").with_borders()


@pytest.fixture(scope="module", params=["n1_7_tiny", "n1_7_tiny_variant"])
def reference(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles) -> ProcessorReference:
    return load_processor(fixtures_dir / request.param).with_borders()


def make_pipeline(reference: ProcessorReference, sample: int, **changes: Any) -> Pipeline:
    options = replace(reference.options, **changes.pop("options", {}))
    images = QwenImages(options, min_pixels=4096, max_pixels=1048576)
    return reference.pipeline(sample, images, N1_7.prompt, options=options, **changes)


def make_samples(reference: ProcessorReference) -> list[dict[str, torch.Tensor]]:
    return [
        make_pipeline(reference, i).encode(reference.observation(i), reference.actions(i))
        for i in range(reference.num_samples)
    ]


def assert_keys_close(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], **tolerance: float) -> None:
    assert list(found) and found.keys() == expected.keys()
    for key, values in found.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected[key][0], err_msg=key, **tolerance)


def test_batch_of_several_embodiments_equals_the_reference(reference: ProcessorReference):
    batch, expected = make_pipeline(reference, 0).collate(make_samples(reference)), reference.batch
    for key in ("input_ids", "attention_mask", "embodiment_id", "pixel_values"):
        assert torch.equal(batch[key], expected[key]), key
    assert torch.equal(batch["image_grid"], expected["image_grid_thw"][:, 1:])
    for key in ("state", "action"):
        assert batch[key].dtype == torch.float32
        np.testing.assert_allclose(batch[key], expected[key], rtol=1e-6, atol=1e-6, err_msg=key)
    assert torch.equal(batch["action_mask"], expected["action_mask"].bool())


def test_predictions_come_back_as_in_the_reference(reference: ProcessorReference):
    for i, prediction in enumerate(reference.predictions):
        found = make_pipeline(reference, i).decode(prediction, reference.observation(i))
        assert_keys_close(found, reference.results(i, "decoded_pred"), rtol=1e-5, atol=1e-6)


def test_actions_there_and_back_equal_the_reference(reference: ProcessorReference):
    for i, sample in enumerate(make_samples(reference)):
        found = make_pipeline(reference, i).decode(sample["action"], reference.observation(i))
        assert_keys_close(found, reference.results(i, "roundtrip_action"), rtol=1e-5, atol=1e-6)


def test_images_are_ordered_tick_by_tick(tiny: ProcessorReference):
    observation = tiny.observation(DROID)
    first, second = observation.images.values()
    found = make_pipeline(tiny, DROID).images(observation)
    assert len(found) == 4
    for image, expected in zip(found, (first[0], second[0], first[1], second[1]), strict=True):
        assert np.array_equal(image, expected)


def test_a_policy_in_a_hurry_gets_the_same_inputs(tiny: ProcessorReference):
    pipeline, observation = make_pipeline(tiny, DROID), tiny.observation(DROID)
    sample = pipeline.encode(observation)
    state, mask = pipeline.vectors(observation)
    assert torch.equal(state, sample["state"])
    assert torch.equal(mask, sample["state_mask"])
    assert mask[0].tolist() == [True] * 17 + [False] * 23
    ids = pipeline.prompt(observation.instruction, (4, 4, 4, 4))
    assert list(ids) == sample["input_ids"].tolist()
    assert pipeline.prompt(observation.instruction, (4, 4, 4, 4)) is ids  # from the cache
    assert pipeline.prompt(observation.instruction, (4, 4, 4, 6)) != ids


def test_prompts_are_only_kept_up_to_a_number(tiny: ProcessorReference):
    pipeline = make_pipeline(tiny, LIBERO)
    for i in range(600):
        pipeline.prompt(f"pick {i}", (1,))
    assert len(pipeline._prompts) <= 256


def test_instruction_is_made_formal_if_the_options_say_so(tiny: ProcessorReference):
    formal = make_pipeline(tiny, LIBERO)
    assert formal.prompt("Stop, Now!", (1,)) == formal.prompt("stop now", (1,))
    plain = make_pipeline(tiny, LIBERO, options={"formalize_language": False})
    assert plain.prompt("Stop, Now!", (1,)) != plain.prompt("stop now", (1,))
    assert formal.prompt("", (1,)) != formal.prompt("perform the default behavior", (1,))  # no default here


def test_state_is_dropped_in_training_only_and_excluded_always(tiny: ProcessorReference):
    observation, actions = tiny.observation(DROID), tiny.actions(DROID)
    whole = make_pipeline(tiny, DROID).encode(observation, actions)
    dropping = make_pipeline(tiny, DROID, options={"state_dropout_prob": 0.5, "color_jitter_params": None})
    dropped = 0
    for seed in range(20):
        sample = dropping.encode(observation, actions, np.random.default_rng(seed), training=True)
        is_dropped = not sample["state"].any()
        assert is_dropped or torch.equal(sample["state"], whole["state"])
        assert torch.equal(sample["action"], whole["action"])  # still relative to the state
        dropped += is_dropped
    assert 4 <= dropped <= 16
    assert torch.equal(dropping.encode(observation)["state"], whole["state"])
    excluding = make_pipeline(tiny, DROID, options={"exclude_state": True})
    assert not excluding.encode(observation)["state"].any()
    assert not excluding.vectors(observation)[0].any()


def test_actions_of_an_older_chunk_are_counted_from_the_new_state(tiny: ProcessorReference):
    """By hand: joint j of step i is 2 (a - s - low_ij) / (high_ij - low_ij) - 1 with the new state s."""
    pipeline = make_pipeline(tiny, DROID)
    old, new = tiny.observation(DROID), tiny.observation(2)
    chunk = pipeline.decode(tiny.predictions[DROID], old)
    rest = {key: values[5:] for key, values in chunk.items()}
    found = pipeline.encode_actions(rest, new)
    assert found.shape == (7, 40)
    assert found.dtype == torch.float32
    statistics = pipeline.action.keys["joint_position"].statistics
    assert statistics is not None
    low, high = statistics.min[:7], statistics.max[:7]
    by_hand = 2 * (rest["joint_position"] - new.state["joint_position"][-1] - low) / (high - low) - 1
    np.testing.assert_allclose(found[:, 10:17], by_hand.clip(-1, 1), atol=1e-5)
    assert not found[:, 17:].any()


def test_actions_encoded_at_their_own_observation_are_the_targets(tiny: ProcessorReference):
    pipeline, observation, actions = make_pipeline(tiny, DROID), tiny.observation(DROID), tiny.actions(DROID)
    first = pipeline.encode_actions({key: values[:5] for key, values in actions.items()}, observation)
    assert torch.equal(first, pipeline.encode(observation, actions)["action"][:5])


def test_images_of_any_size_are_taken(tiny: ProcessorReference):
    """Cameras of one sample may differ; without borders a wide image has more tokens."""
    pipeline = make_pipeline(tiny, LIBERO, options={"letter_box_transform": False})
    images = {"image": np.zeros((1, 64, 64, 3), np.uint8), "wrist_image": np.zeros((1, 64, 128, 3), np.uint8)}
    sample = pipeline.encode(replace(tiny.observation(LIBERO), images=images))
    tokens = (sample["image_grid"].prod(1) // 4).tolist()
    assert tokens[1] > tokens[0] == 4
    assert (sample["input_ids"] == pipeline.inputs.image_token_id).sum() == sum(tokens)
    assert len(sample["pixel_values"]) == 4 * sum(tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"image": np.zeros((2, 72, 72, 3), np.uint8)}}, r"video\.wrist_image: missing, found image"),
        ({"images": (2, 48, 80, 1)}, r"uint8 \(2, 48, 80, 1\).*expects uint8 \(1, any height, any width, 3\)"),
        ({"images": (2, 48, 80, 3)}, r"video\.image: uint8 \(2, 48, 80, 3\)"),
        ({"images": (48, 80, 3)}, r"video\.image: uint8 \(48, 80, 3\)"),
        ({"images": (1, 20, 80, 3)}, r"video\.image: images of 80x20, expected sides of at least 28 px"),
        ({"state": {"x": np.zeros((2, 1))}}, r"state\.x: shape \(2, 1\).*expects \(1, 1\)"),
        ({"state": {"x": np.full((1, 1), np.inf)}}, r"state\.x: .*not finite"),
    ],
)
def test_malformed_observations_are_refused(tiny: ProcessorReference, changes: dict, message: str):
    pipeline, observation = make_pipeline(tiny, LIBERO), tiny.observation(LIBERO)
    if "state" in changes:
        observation = replace(observation, state={**observation.state, **changes["state"]})
    elif isinstance(changes["images"], tuple):
        observation = replace(
            observation, images=dict.fromkeys(observation.images, np.zeros(changes["images"], np.uint8))
        )
    else:
        observation = replace(observation, images={"image": observation.images["image"]})
    with pytest.raises(ObservationError, match=message):
        pipeline.encode(observation)


def test_a_pose_without_rotation_is_refused_by_name(tiny: ProcessorReference):
    observation = tiny.observation(DROID)
    still = replace(observation, state={**observation.state, "eef_9d": np.zeros((1, 9))})
    pipeline = make_pipeline(tiny, DROID)
    with pytest.raises(ObservationError, match=r"action\.eef_9d: "):
        pipeline.decode(tiny.predictions[DROID], still)
    with pytest.raises(ObservationError, match=r"action\.eef_9d: "):
        pipeline.encode_actions(tiny.actions(DROID), still)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_horizon": 13}, "action_horizon is 13, the model's is at most 12"),
        ({"state_history": (-1, 0)}, r"state_history is \[-1, 0\], the model takes 1 rows of the state"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(tiny: ProcessorReference, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        make_pipeline(tiny, LIBERO, **changes)


def test_an_action_that_counts_from_an_unused_state_is_refused(tiny: ProcessorReference):
    keys = replace(make_pipeline(tiny, DROID).embodiment.model, state=("gripper_position", "eef_9d"))
    with pytest.raises(ConfigError, match=r"action\.joint_position counts from state\.joint_position, which the model"):
        make_pipeline(tiny, DROID, model=keys)


def test_the_tokenizer_of_another_model_is_refused(tiny: ProcessorReference, fixtures_dir: ReferenceFiles):
    pipeline = make_pipeline(tiny, LIBERO)
    other = PromptTokenizer.from_file(fixtures_dir / "n1_6_tiny" / "backbone" / "tokenizer.json", N1_7.prompt)
    with pytest.raises(CheckpointError, match="359 entries with image token 352, the model expects at most 354"):
        Pipeline(pipeline.embodiment, {"state": {}, "action": {}}, pipeline.inputs, other, 0)
