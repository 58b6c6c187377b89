# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of the N1.6 family, where they differ from those of N1.7."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.checkpoint import load_checkpoint, load_model, save_checkpoint
from gr00t_training.embodiment import Normalization
from gr00t_training.errors import CheckpointError
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.transforms.images import EagleImages

MASK_TOKEN = "action_head.mask_token"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def folder(fixtures_dir: ReferenceFiles, tmp_path: Path) -> Path:
    """Return a folder with copies of the tiny files that a test may change."""
    tiny = tmp_path / "tiny"
    (tiny / "backbone").mkdir(parents=True)
    names = ("config.json", "processor_config.json", "statistics.json", "embodiment_id.json", "model.safetensors")
    for name in (*names, "backbone/config.json", "backbone/tokenizer.json"):
        shutil.copyfile(fixtures_dir / "n1_6_tiny" / name, tiny / name)
    return tiny


def test_a_published_folder_loads(fixtures_dir: ReferenceFiles):
    found = load_checkpoint(fixtures_dir / "n1_6_tiny", embodiment="GR1", fps=20)
    assert found.projector == 20
    assert found.options and found.options.apply_sincos_state_encoding
    assert {key.normalization for key in found.embodiment.state.values()} == {Normalization.SIN_COS}
    pipeline = found.pipeline()
    assert isinstance(pipeline.inputs.images, EagleImages)
    assert pipeline.inputs.num_states is None
    assert pipeline.state.dim == 32  # sines and cosines of 16 channels


def test_public_names_are_those_of_the_family(fixtures_dir: ReferenceFiles):
    tiny = fixtures_dir / "n1_6_tiny"
    assert load_checkpoint(tiny, embodiment="LIBERO_PANDA", fps=20).embodiment.tag == "libero_panda"
    with pytest.raises(CheckpointError, match="tag 'libero_sim' is unknown, known: gr1, libero_panda"):
        load_checkpoint(tiny, embodiment="libero_sim")


def test_a_published_folder_comes_back_as_it_was(fixtures_dir: ReferenceFiles, tmp_path: Path):
    tiny = fixtures_dir / "n1_6_tiny"
    found = load_checkpoint(tiny, embodiment="gr1", fps=20)
    written = save_checkpoint(tmp_path / "again", found, load_model(found))
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json"):
        assert json.loads((written / name).read_text()) == json.loads((tiny / name).read_text()), name
    before, after = load_file(tiny / "model.safetensors"), load_file(written / "model.safetensors")
    assert after.keys() == {name for name in before if not name.startswith(N1_6.names.ignored)}
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    again = load_checkpoint(written)
    assert (again.config, again.embodiment, again.options) == (found.config, found.embodiment, found.options)


def test_missing_options_have_the_defaults_of_the_constructor(folder: Path):
    content = json.loads((folder / "processor_config.json").read_text())
    kept = ("modality_configs", "max_state_dim", "max_action_dim")
    content["processor_kwargs"] = {name: content["processor_kwargs"][name] for name in kept}
    (folder / "processor_config.json").write_text(json.dumps(content))
    options = load_checkpoint(folder, embodiment="gr1", fps=20).options
    assert options and (options.shortest_image_edge, options.max_action_horizon) == (512, 40)
    assert not options.apply_sincos_state_encoding


def test_projectors_that_a_folder_lacks_are_those_of_the_release(folder: Path):
    (folder / "embodiment_id.json").unlink()
    assert load_checkpoint(folder, embodiment="gr1", fps=20).projectors == N1_6.projectors


def test_a_file_without_mask_token_loads_with_a_fresh_one(folder: Path):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({name: weight for name, weight in weights.items() if name != MASK_TOKEN}, folder / "model.safetensors")
    torch.manual_seed(0)
    loaded = load_model(load_checkpoint(folder, embodiment="gr1", fps=20), dtype=torch.bfloat16).state_dict()
    token = loaded["action_head.mask_token"]
    assert token.dtype == torch.bfloat16 and token.shape == (1, 1, 32)
    assert 0.01 < token.float().std() < 0.04


def test_sines_and_cosines_count_twice(folder: Path):
    for name, key in (("config.json", None), ("processor_config.json", "processor_kwargs")):
        content = json.loads((folder / name).read_text())
        (content[key] if key else content)["max_state_dim"] = 31
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"state has 32 channels, the model has room for 31 \(max_state_dim\)"):
        load_checkpoint(folder, embodiment="gr1", fps=20)
