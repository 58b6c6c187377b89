# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of the N1.5 family: read as published, written again, and run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from reference_release import contains, load_batch, load_tiny
from safetensors.torch import load_file

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model, new_checkpoint, save_checkpoint
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import DitConfig, Gr00tConfig, RefinerConfig, VisionConfig
from gr00t_training.model.families.n1_5 import N1_5
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.policy.policy import Policy
from gr00t_training.transforms.text import shipped_tokenizer
from gr00t_training.types import Observation

TOKENIZER = shipped_tokenizer("compact")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_statistics(embodiment: Embodiment) -> dict[str, dict[str, KeyStatistics]]:
    """All channels are in 10..14."""

    def spread(dim: int) -> KeyStatistics:
        return KeyStatistics(*(np.full(dim, value) for value in (10.0, 14.0, 12.0, 1.0, 10.0, 14.0)))

    return {
        kind: {name: spread(key.dim) for name, key in getattr(embodiment, kind).items()} for kind in ("state", "action")
    }


def make_config() -> Gr00tConfig:
    """Return N1.5 with few and narrow layers, for the tokenizer that is shipped."""
    language = dataclasses.replace(
        N1_5.release.backbone.language,
        vocab_size=736,
        hidden_size=24,
        intermediate_size=32,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
    )
    vision = VisionConfig(hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, image_size=56)
    backbone = dataclasses.replace(
        N1_5.release.backbone, vision=vision, language=language, select_layer=2, image_token_id=726
    )
    head = dataclasses.replace(
        N1_5.release.action_head,
        dit=DitConfig(num_heads=2, head_dim=10, num_layers=2, output_dim=12),
        refiner=RefinerConfig(num_heads=2, head_dim=12, num_layers=1),
        hidden_size=12,
        num_future_tokens=3,
    )
    return dataclasses.replace(N1_5.release, backbone=backbone, action_head=head)


def make_checkpoint(embodiment: Embodiment) -> Checkpoint:
    return Checkpoint(make_config(), embodiment, make_statistics(embodiment), TOKENIZER, N1_5.projectors)


@pytest.fixture(scope="module")
def model() -> Gr00tModel:
    torch.manual_seed(0)
    return Gr00tModel(make_config()).eval()


def test_a_published_folder_comes_back_as_it_was(fixtures_dir: ReferenceFiles, tmp_path: Path):
    tiny, embodiment = fixtures_dir / "n1_5_tiny", make_embodiment()
    found = load_checkpoint(tiny, embodiment=embodiment, statistics=make_statistics(embodiment), tokenizer=TOKENIZER)
    loaded, batch = load_model(found), load_batch(tiny, "single")
    written = save_checkpoint(tmp_path / "again", found, loaded)
    for name in ("config.json", "eagle_config.json"):
        assert contains(json.loads((written / name).read_text()), json.loads((tiny / name).read_text()))
    before, after = load_file(tiny / "model.safetensors"), load_file(written / "model.safetensors")
    assert after.keys() == {name for name in before if not name.startswith(N1_5.names.ignored)}
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    again = load_model(load_checkpoint(written)).sample_actions(batch, batch["init_noise"])
    assert torch.equal(again, load_tiny(tiny).sample_actions(batch, batch["init_noise"]))


def test_a_round_trip_is_bit_identical(tmp_path: Path, model: Gr00tModel):
    made = make_checkpoint(make_embodiment())
    found = load_checkpoint(save_checkpoint(tmp_path / "run", made, model))
    assert (found.config, found.embodiment, found.projectors) == (made.config, made.embodiment, made.projectors)
    weights = load_model(found).state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_a_policy_runs_from_a_folder_with_the_published_files(tmp_path: Path, model: Gr00tModel):
    embodiment = dataclasses.replace(make_embodiment(), tag="oxe_droid")
    folder = save_checkpoint(tmp_path / "run", make_checkpoint(embodiment), model)
    for name in ("embodiment.json", "embodiment_id.json", "versions.json"):
        (folder / name).unlink()
    policy = Policy.from_checkpoint(folder, embodiment=embodiment, device="cpu", seed=7)
    assert policy.checkpoint.projector == 17
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    observation = Observation(
        {"front": image}, {"arm": np.full((1, 3), 12.5), "gripper": np.full((1, 1), 11.0)}, "lift the cube"
    )
    chunk = policy.infer(observation)

    sample = policy.pipeline.encode(observation)
    assert sample["pixel_values"].dtype == torch.float32
    assert sample["state"][0, :5].tolist() == [0.25, 0.25, 0.25, -0.5, 0.0]
    noise = torch.randn((1, 16, 32), generator=torch.Generator().manual_seed(7))
    batch = policy.pipeline.collate([sample])
    model.check_batch(batch)
    normalized = model.sample_actions(batch, noise, 4)[0].double().numpy()  # by hand: y -> (y + 1) / 2 * range + min
    np.testing.assert_allclose(chunk.actions["arm"], (normalized[:, :3] + 1) / 2 * 4 + 10, atol=1e-12)
    np.testing.assert_allclose(chunk.actions["gripper"], (normalized[:, 3:4] + 1) / 2 * 4 + 10, atol=1e-12)


def test_the_release_asks_for_the_tokenizer_of_its_language_model(fixtures_dir: ReferenceFiles):
    embodiment = make_embodiment()
    statistics = make_statistics(embodiment)
    with pytest.raises(CheckpointError, match=r"for GR00T N1\.5 put the tokenizer\.json of Qwen/Qwen3-1\.7B"):
        load_checkpoint(fixtures_dir / "n1_5_tiny", embodiment=embodiment, statistics=statistics)
    with pytest.raises(CheckpointError, match=r"for GR00T N1\.5"):
        new_checkpoint("n1_5_3b", embodiment, statistics)
    made = new_checkpoint("n1_5_3b", embodiment, statistics, tokenizer=TOKENIZER)
    with pytest.raises(CheckpointError, match="the model expects at most 151680 with 151669"):
        made.pipeline()
