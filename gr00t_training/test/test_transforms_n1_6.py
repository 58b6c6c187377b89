# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Pipeline and prompts of N1.6 against the reference release: raw samples in, the model's batch and actions out."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from reference_processor import ProcessorReference, load_processor
from torch import Tensor

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.transforms.images import EagleImages
from gr00t_training.transforms.pipeline import Pipeline
from gr00t_training.types import Observation

PATCH = 14


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reference(fixtures_dir: ReferenceFiles) -> ProcessorReference:
    return load_processor(fixtures_dir / "n1_6_tiny").with_borders()


def make_pipeline(reference: ProcessorReference, sample: int) -> Pipeline:
    return reference.pipeline(sample, EagleImages(reference.options), N1_6.prompt)


def make_samples(reference: ProcessorReference) -> list[dict[str, Tensor]]:
    return [
        make_pipeline(reference, i).encode(reference.observation(i), reference.actions(i))
        for i in range(reference.num_samples)
    ]


def as_images(patches: Tensor, grid: Tensor) -> list[Tensor]:
    """Put packed patches `(N, 14 * 14 * 3)` together to images `(3, H, W)`."""
    images = []
    for rows, columns in grid.tolist():
        part, patches = patches[: rows * columns], patches[rows * columns :]
        pixels = part.reshape(rows, columns, PATCH, PATCH, 3).permute(4, 0, 2, 1, 3)
        images.append(pixels.reshape(3, rows * PATCH, columns * PATCH))
    assert not len(patches)
    return images


def test_batch_of_several_embodiments_equals_the_reference(reference: ProcessorReference):
    batch, expected = make_pipeline(reference, 0).collate(make_samples(reference)), reference.batch
    for key in ("input_ids", "attention_mask", "embodiment_id"):
        assert torch.equal(batch[key], expected[key]), key
    assert batch["image_grid"].tolist() == [
        [height // PATCH, width // PATCH] for height, width in expected["image_sizes"]
    ]
    for i, image in enumerate(as_images(batch["pixel_values"], batch["image_grid"])):
        assert torch.equal(image, expected[f"pixel_values.{i}"][0]), i
    for key in ("state", "action"):
        assert batch[key].dtype == torch.float32
        np.testing.assert_allclose(batch[key], expected[key], rtol=1e-6, atol=1e-6, err_msg=key)
    assert torch.equal(batch["action_mask"], expected["action_mask"].bool())


def test_prompts_equal_the_reference(reference: ProcessorReference):
    for i, prompt in enumerate(reference.meta["decoded_prompts"]):
        pipeline = make_pipeline(reference, i)
        ids = pipeline.encode(reference.observation(i))["input_ids"].tolist()
        assert pipeline.tokenizer.decode(ids) == prompt


def test_predictions_and_actions_come_back_as_in_the_reference(reference: ProcessorReference):
    samples = make_samples(reference)
    for i, (prediction, sample) in enumerate(zip(reference.predictions, samples, strict=True)):
        pipeline, observation = make_pipeline(reference, i), reference.observation(i)
        for name, action in (("decoded_pred", prediction), ("roundtrip_action", sample["action"])):
            found, expected = pipeline.decode(action, observation), reference.results(i, name)
            assert found.keys() == expected.keys()
            for key, values in found.items():
                np.testing.assert_allclose(values, expected[key][0], rtol=1e-5, atol=1e-6, err_msg=f"{name} {key}")


def test_states_of_several_ticks_are_taken(reference: ProcessorReference):
    """N1.6 makes a token of each."""
    embodiment = make_pipeline(reference, 1).embodiment
    pipeline = reference.pipeline(
        1, EagleImages(reference.options), N1_6.prompt, num_states=None, state_history=(-2, -1, 0)
    )
    rows = {key: np.arange(3.0)[:, None] * np.ones(vector.dim) for key, vector in embodiment.state.items()}
    single = make_pipeline(reference, 1)
    state, mask = pipeline.vectors(Observation({}, rows, ""))
    assert state.shape == mask.shape == (3, 40)
    for row in range(3):
        alone, _ = single.vectors(Observation({}, {key: values[[row]] for key, values in rows.items()}, ""))
        assert torch.equal(state[[row]], alone)
