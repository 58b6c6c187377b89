# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A new release needs one module and one entry of `FAMILIES`; a made-up one shows what the module holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from gr00t_test_support.builders import make_embodiment
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint, save_checkpoint
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.checkpoint.report import describe_checkpoint
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    ActionHeadConfig,
    BackboneConfig,
    DitConfig,
    Gr00tConfig,
    LanguageConfig,
    VisionConfig,
    with_horizon,
)
from gr00t_training.model.families import FAMILIES, ModelFamily, ProcessorFormat, Variant, family, variants
from gr00t_training.model.families.n1 import N1
from gr00t_training.model.families.n1_6 import input_rules
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.weight_names import NameTable
from gr00t_training.policy.policy import Policy
from gr00t_training.transforms.images import EagleImages
from gr00t_training.transforms.observation import resting_observation
from gr00t_training.transforms.processor import ProcessorOptions

MODEL_TYPE = "Gr00tMadeUp"


# What follows, up to the first test, is the module of a release.
_RELEASE = Gr00tConfig(
    backbone=BackboneConfig(
        vision=VisionConfig(
            hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, image_size=56, is_packed=True
        ),
        language=LanguageConfig(vocab_size=736, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2),
        select_layer=1,
        projector_dim=-1,
        image_token_id=726,
    ),
    action_head=ActionHeadConfig(
        dit=DitConfig(num_heads=2, head_dim=8, num_layers=2, output_dim=16), hidden_size=16, num_embodiments=4
    ),
    model_type=MODEL_TYPE,
)


def _parse(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    return with_horizon(_RELEASE, model["chunk"])


def _dump(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"model_type": config.model_type, "chunk": config.action_head.action_horizon}, {}


def _images(config: Gr00tConfig, options: ProcessorOptions | None, preprocessor: Mapping[str, Any]) -> EagleImages:
    assert options is not None
    return EagleImages(options, patch=config.backbone.vision.patch_size)


MADE_UP = ModelFamily(
    release=_RELEASE,
    projectors={"new_embodiment": 3},
    variants={"made_up": Variant(_RELEASE, {"new_embodiment": 3}, "compact")},
    tag_names={"ANY_ROBOT": "new_embodiment"},
    parse=_parse,
    dump=_dump,
    vlm_file="sizes.json",
    omits_released_sizes=True,
    names=NameTable(rows=(("vlm", "backbone"), ("head", "action_head"))),
    prompt=dataclasses.replace(N1.prompt, model="a made-up release", chat="{images}{text}<|im_end|>"),
    processor=ProcessorFormat(
        processor_class="MadeUpProcessor",
        defaults=ProcessorOptions(),
        options=("shortest_image_edge", "use_albumentations", "max_state_dim", "max_action_dim", "max_action_horizon"),
        released=ProcessorOptions(shortest_image_edge=56, use_albumentations=True),
    ),
    images=_images,
    rules=input_rules,
    denoising_steps=3,
    wire="n1.7",
)


@pytest.fixture
def embodiment() -> Embodiment:
    return make_embodiment()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, embodiment: Embodiment) -> Path:
    monkeypatch.setitem(FAMILIES, MODEL_TYPE, MADE_UP)

    def statistics(dim: int) -> KeyStatistics:
        one = np.ones(dim)
        return KeyStatistics(min=-one, max=one, mean=0 * one, std=one, q01=-one, q99=one)

    keys = {"state": embodiment.state, "action": embodiment.action}
    described = {kind: {key: statistics(vector.dim) for key, vector in keys[kind].items()} for kind in keys}
    checkpoint = new_checkpoint("made_up", embodiment, described)
    torch.manual_seed(0)
    return save_checkpoint(tmp_path / "made_up", checkpoint, Gr00tModel(checkpoint.config))


@pytest.mark.slow
def test_a_release_is_saved_loaded_and_run_by_its_family_alone(folder: Path, embodiment: Embodiment):
    policy = Policy.from_checkpoint(folder, device="cpu", seed=1)
    assert policy.checkpoint.family is MADE_UP
    assert policy.checkpoint.projector == 3
    assert policy.denoising_steps == 3
    chunk = policy.infer(resting_observation(embodiment, "go"))
    assert {key: values.shape for key, values in chunk.actions.items()} == {"arm": (16, 3), "gripper": (16, 1)}
    checkpoint = load_checkpoint(folder)
    again = Policy(checkpoint, load_model(checkpoint), seed=1).infer(resting_observation(embodiment, "go"))
    for key, values in chunk.actions.items():
        np.testing.assert_array_equal(again.actions[key], values)


def test_a_release_is_described_checked_and_offered_by_its_family_alone(folder: Path):
    report = describe_checkpoint(folder)
    assert (report.family, report.model_type) == ("a made-up release", MODEL_TYPE)
    assert report.parts[0].name.startswith("backbone.")
    assert list(audit_checkpoint(folder)) == []
    assert "made_up" in variants()
    assert load_checkpoint(folder, embodiment="any_robot").embodiment.tag == "new_embodiment"
    assert not (folder / "sizes.json").exists()


def test_families_are_named_by_their_model_type():
    assert {name: found.model_type for name, found in FAMILIES.items()} == {name: name for name in FAMILIES}
    assert [found.name for found in FAMILIES.values()] == ["GR00T N1", "GR00T N1.5", "GR00T N1.6", "GR00T N1.7"]
    with pytest.raises(CheckpointError, match=MODEL_TYPE):
        family(MODEL_TYPE)


def test_no_two_families_offer_a_model_of_the_same_name():
    assert len(variants()) == sum(len(found.variants) for found in FAMILIES.values())
