# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training import checkpoint as checkpoint_module
from gr00t_training.checkpoint import (
    Checkpoint,
    embodiment_metadata,
    load_checkpoint,
    load_model,
    new_checkpoint,
    save_checkpoint,
)
from gr00t_training.dataset.statistics.compute import KeyStatistics, compute_statistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.families import variants
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.transforms.text import shipped_tokenizer

TOKENIZER = shipped_tokenizer("compact")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_statistics(embodiment: Embodiment) -> dict[str, dict[str, KeyStatistics]]:
    rng = np.random.default_rng(0)
    return {
        kind: {
            name: compute_statistics(rng.normal(size=(20, key.dim))) for name, key in getattr(embodiment, kind).items()
        }
        for kind in ("state", "action")
    }


def make_checkpoint() -> Checkpoint:
    embodiment = make_embodiment()
    return new_checkpoint("n1_compact", embodiment, make_statistics(embodiment))


@pytest.fixture(scope="module")
def model() -> Gr00tModel:
    torch.manual_seed(0)
    return Gr00tModel(variants()["n1_compact"].config).eval()


@pytest.fixture
def saved(tmp_path: Path, model: Gr00tModel) -> Path:
    return save_checkpoint(tmp_path / "run", make_checkpoint(), model)


def test_a_round_trip_is_bit_identical(saved: Path, model: Gr00tModel):
    made, found = make_checkpoint(), load_checkpoint(saved, embodiment=make_embodiment())
    assert (found.config, found.embodiment, found.projectors) == (made.config, made.embodiment, made.projectors)
    assert found.tokenizer.read_bytes() == made.tokenizer.read_bytes()
    for kind in ("state", "action"):
        assert list(found.statistics[kind]) == list(made.statistics[kind])
        for key, statistics in found.statistics[kind].items():
            for name in ("min", "max", "mean", "std", "q01", "q99"):
                np.testing.assert_array_equal(getattr(statistics, name), getattr(made.statistics[kind][key], name))
    weights = load_model(found).state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert weight.dtype == weights[name].dtype
        assert torch.equal(weight, weights[name]), name
    assert found.versions["format"] == 1


def test_saving_what_was_loaded_writes_the_same_files(saved: Path, tmp_path: Path):
    found = load_checkpoint(saved)
    again = save_checkpoint(tmp_path / "again", found, load_model(found))
    files = sorted(file.relative_to(saved) for file in saved.rglob("*") if file.is_file())
    assert len(files) == 8
    for file in files:
        assert (saved / file).read_bytes() == (again / file).read_bytes(), file


def test_weights_have_published_names_and_can_be_split(tmp_path: Path, model: Gr00tModel):
    split = save_checkpoint(tmp_path / "split", make_checkpoint(), model, max_shard_bytes=8_000_000)
    index = json.loads((split / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == "model-00001-of-00003.safetensors"
    assert len(shards) == 3
    assert "backbone.model.language_model.model.layers.0.self_attn.o_proj.weight" in index["weight_map"]
    assert all((split / shard).stat().st_size < 8_100_000 for shard in shards)
    weights = load_model(load_checkpoint(split)).state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    (split / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 weight files are missing \(model-00002-of-00003"):
        load_model(load_checkpoint(split))


def test_bfloat16_is_written_and_read(tmp_path: Path, model: Gr00tModel):
    half = save_checkpoint(tmp_path / "half", make_checkpoint(), model, dtype=torch.bfloat16)
    assert {w.dtype for w in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    found = load_model(load_checkpoint(half))
    name, weight = next(iter(model.state_dict().items()))
    assert torch.equal(found.state_dict()[name], weight.bfloat16().float())


def test_a_published_folder_loads(fixtures_dir: ReferenceFiles):
    """No tokenizer, embodiment or projector map in the folder; those of the family and of the caller are used."""
    embodiment = make_embodiment()
    found = load_checkpoint(
        fixtures_dir / "n1_tiny", embodiment=embodiment, statistics=make_statistics(embodiment), tokenizer=TOKENIZER
    )
    assert found.projector == 31
    assert load_model(found).config.backbone.select_layer == 3
    with pytest.raises(CheckpointError, match="the model expects at most 512 with 500"):
        found.pipeline()


def test_a_published_folder_without_tokenizer_says_what_to_put_where(fixtures_dir: ReferenceFiles):
    embodiment = make_embodiment()
    with pytest.raises(CheckpointError, match=r"put the tokenizer\.json of HuggingFaceTB/SmolLM2-1\.7B-Instruct"):
        load_checkpoint(fixtures_dir / "n1_tiny", embodiment=embodiment, statistics=make_statistics(embodiment))


def test_fine_tuning_keeps_the_other_embodiments_and_unknown_keys(saved: Path, tmp_path: Path, model: Gr00tModel):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"invented": 1}))
    other = replace(make_embodiment(), tag="gr1", action_horizon=8)
    tuned = load_checkpoint(saved, embodiment=other, statistics=make_statistics(other))
    assert tuned.config.action_head.action_horizon == 8
    path = save_checkpoint(tmp_path / "tuned", tuned, model)
    assert list(json.loads((path / "experiment_cfg" / "metadata.json").read_text())) == ["new_embodiment", "gr1"]
    assert json.loads((path / "config.json").read_text())["invented"] == 1
    assert load_checkpoint(path).projector == 0


def test_metadata_has_the_published_form():
    embodiment = make_embodiment()
    entry = embodiment_metadata(embodiment, make_statistics(embodiment))
    assert entry["modalities"]["video"] == {"front": {"resolution": [48, 32], "channels": 3, "fps": 10.0}}
    assert entry["modalities"]["state"]["arm"] == {
        "absolute": True,
        "rotation_type": None,
        "shape": [3],
        "continuous": True,
    }
    assert set(entry["statistics"]["action"]["arm"]) == {"max", "min", "mean", "std", "q01", "q99"}


def test_another_embodiment_is_refused_item_by_item(saved: Path):
    asked = replace(make_embodiment(), fps=30)
    with pytest.raises(CheckpointError, match="fps: found 10, expected 30"):
        load_checkpoint(saved, embodiment=asked)


def test_a_tag_without_statistics_is_refused(saved: Path):
    (saved / "embodiment.json").unlink()
    asked = replace(make_embodiment(), tag="gr1")
    with pytest.raises(
        CheckpointError, match=r"metadata\.json: no statistics for embodiment tag 'gr1'.*new_embodiment"
    ):
        load_checkpoint(saved, embodiment=asked)
    with pytest.raises(CheckpointError, match=r"has no embodiment\.json"):
        load_checkpoint(saved)


def test_a_tag_without_projector_is_refused():
    unknown = replace(make_checkpoint(), embodiment=replace(make_embodiment(), tag="g1"))
    with pytest.raises(
        CheckpointError, match="no projector for embodiment tag 'g1' of 'test_arm', known tags: gr1, new"
    ):
        unknown.pipeline()


@pytest.mark.parametrize("name", ["config.json", "experiment_cfg/metadata.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved: Path, name: str):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(load_checkpoint(saved))


@pytest.mark.parametrize(
    "name", ["config.json", "eagle_config.json", "embodiment.json", "experiment_cfg/metadata.json", "model.safetensors"]
)
def test_a_file_cut_short_is_named(saved: Path, name: str):
    file = saved / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(load_checkpoint(saved))


def test_weights_of_other_sizes_are_refused(saved: Path):
    config = json.loads((saved / "config.json").read_text())
    config["action_head_cfg"]["hidden_size"] = 64
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"state_encoder\.layer1\.W is \(2, 64, 192\), expected \(2, 64, 64\)"):
        load_model(load_checkpoint(saved))


def test_a_newer_format_is_refused(saved: Path):
    (saved / "versions.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match="format 2 is newer than 1"):
        load_checkpoint(saved)


def test_an_existing_folder_is_not_overwritten(saved: Path, model: Gr00tModel):
    with pytest.raises(CheckpointError, match="exists already"):
        save_checkpoint(saved, make_checkpoint(), model)


def test_a_failed_save_leaves_nothing(tmp_path: Path, model: Gr00tModel):
    def fail(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        raise OSError("No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path / "run", make_checkpoint(), model, add_files=fail)
    assert os.listdir(tmp_path) == []


def test_leftovers_of_a_killed_save_are_replaced(tmp_path: Path, model: Gr00tModel):
    leftover = tmp_path / ".run.partial"
    leftover.mkdir()
    (leftover / "junk").write_text("x")
    path = save_checkpoint(
        tmp_path / "run", make_checkpoint(), model, add_files=lambda folder: (folder / "more").touch()
    )
    assert os.listdir(tmp_path) == ["run"]
    assert (path / "more").exists()
    assert not (path / "junk").exists()


def test_loaded_weights_do_not_depend_on_the_file(saved: Path, model: Gr00tModel):
    loaded = load_model(load_checkpoint(saved))
    shutil.copyfile(saved / "config.json", saved / "model.safetensors")  # overwritten in place
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())


def test_unknown_variants_and_folders_are_refused(tmp_path: Path):
    embodiment = make_embodiment()
    with pytest.raises(ConfigError, match="model variant 'n9' is unknown, expected one of n1_2b, n1_compact"):
        new_checkpoint("n9", embodiment, make_statistics(embodiment))
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        new_checkpoint("n1_2b", embodiment, make_statistics(embodiment))


def test_files_of_the_docstring_are_those_that_are_written(saved: Path):
    names = {str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file()}
    documented = checkpoint_module.__doc__ or ""
    assert all(name in documented for name in names)
