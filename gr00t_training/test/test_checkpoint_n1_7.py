# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of the N1.7 family: read as published, compared with an embodiment, written again."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training import checkpoint
from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model, new_checkpoint, save_checkpoint
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, Normalization, Pose, load_embodiment
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.families.n1_7 import N1_7
from gr00t_training.transforms.images import QwenImages
from gr00t_training.transforms.processor import ProcessorOptions

DROID, LIBERO = "oxe_droid_relative_eef_relative_joint", "libero_sim"
OUTPUT, EMBEDDING = "backbone.model.lm_head.weight", "backbone.model.model.language_model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def folder(fixtures_dir: ReferenceFiles, tmp_path: Path) -> Path:
    """Return a copy of the tiny folder that a test may change."""
    names = ("config.json", "processor_config.json", "statistics.json", "embodiment_id.json", "model.safetensors")
    (tmp_path / "tiny").mkdir()
    for name in names:
        shutil.copyfile(fixtures_dir / "n1_7_tiny" / name, tmp_path / "tiny" / name)
    shutil.copytree(fixtures_dir / "n1_7_tiny" / "backbone", tmp_path / "tiny" / "backbone")
    (tmp_path / "tiny" / "backbone").chmod(0o755)
    return tmp_path / "tiny"


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.chmod(0o644)
    file.write_text(json.dumps(content))


def edit_options(folder: Path, **changes: Any) -> None:
    edit(folder / "processor_config.json", lambda content: content["processor_kwargs"].update(changes))


def make_statistics(embodiment: Embodiment) -> dict[str, dict[str, KeyStatistics]]:
    """All channels are in 10..14."""

    def spread(dim: int) -> KeyStatistics:
        return KeyStatistics(*(np.full(dim, value) for value in (10.0, 14.0, 12.0, 1.0, 10.0, 14.0)))

    return {
        kind: {name: spread(key.dim) for name, key in getattr(embodiment, kind).items()} for kind in ("state", "action")
    }


def assert_same_statistics(found: Checkpoint, expected: Checkpoint) -> None:
    assert {kind: list(keys) for kind, keys in found.statistics.items()} == {
        kind: list(keys) for kind, keys in expected.statistics.items()
    }
    for kind, keys in expected.statistics.items():
        for key, values in keys.items():
            assert found.statistics[kind][key].to_mapping() == values.to_mapping()


def test_a_published_folder_tells_everything_but_the_rate(folder: Path, caplog: pytest.LogCaptureFixture):
    found = load_checkpoint(folder, embodiment=DROID)
    assert found.embodiment.fps == 20
    assert "unknown tick rate, assuming 20 Hz" in caplog.text
    caplog.clear()
    found = load_checkpoint(folder, embodiment=DROID, fps=15)
    assert caplog.text == ""
    embodiment = found.embodiment
    assert (embodiment.tag, embodiment.fps, embodiment.action_horizon) == (DROID, 15, 12)
    assert (embodiment.video_history, embodiment.state_history) == ((-3, 0), (0,))
    assert embodiment.action["eef_9d"].pose is Pose.XYZ_ROTATION_6D
    assert [embodiment.action[key].relative_to for key in embodiment.action_keys] == ["eef_9d", None, "joint_position"]
    assert found.projector == 24
    assert found.statistics["relative_action"]["eef_9d"].min.shape == (12, 9)
    assert found.tokenizer == folder / "backbone" / "tokenizer.json"
    assert found.options == ProcessorOptions(
        use_albumentations=True,
        color_jitter_params={"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
        shortest_image_edge=64,
        model_name="Qwen/Qwen3-VL-tiny",
        model_type="qwen",
        max_state_dim=40,
        max_action_dim=40,
        max_action_horizon=12,
        use_percentiles=True,
        use_relative_action=True,
    )


@pytest.mark.parametrize("name", ["libero_sim", "LIBERO_SIM", "LIBERO_PANDA", "libero_panda"])
def test_tags_and_public_names_are_taken_in_any_case(fixtures_dir: ReferenceFiles, name: str):
    assert load_checkpoint(fixtures_dir / "n1_7_tiny", embodiment=name).projector == 2


def test_an_unknown_tag_is_refused_with_those_that_are_there(fixtures_dir: ReferenceFiles):
    tiny = fixtures_dir / "n1_7_tiny"
    with pytest.raises(CheckpointError, match=rf"tag 'gr1' is unknown, known: {DROID}, libero_sim \(LIBERO_PANDA\)"):
        load_checkpoint(tiny, embodiment="gr1")
    with pytest.raises(CheckpointError, match=rf"has no embodiment\.json .*one of its tags: {DROID}, libero_sim"):
        load_checkpoint(tiny)


def test_an_embodiment_of_the_robot_is_held_against_the_folder(folder: Path):
    derived = load_checkpoint(folder, embodiment=DROID, fps=15).embodiment
    joints = dataclasses.replace(derived.action["joint_position"], names=tuple("abcdefg"), unit="rad")
    own = dataclasses.replace(derived, name="arm", fps=30, action={**derived.action, "joint_position": joints})
    assert load_checkpoint(folder, embodiment=own).embodiment == own  # names, units and rate are the robot's own
    wrong = dataclasses.replace(
        own,
        action_horizon=8,
        video_history=(-15, 0),
        action={**own.action, "joint_position": dataclasses.replace(joints, relative_to=None)},
    )
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(folder, embodiment=wrong)
    for item in (
        "was trained for another embodiment",
        "video_history: found [-3, 0], expected [-15, 0]",
        "action_horizon: found 12, expected 8",
        "action.joint_position.relative_to: found joint_position, expected none",
    ):
        assert item in str(refusal.value)
    with pytest.raises(CheckpointError, match=r"does not describe embodiment tag 'new_embodiment' of 'test_arm'"):
        load_checkpoint(folder, embodiment=make_embodiment())


def test_a_published_folder_comes_back_as_it_was(fixtures_dir: ReferenceFiles, tmp_path: Path):
    tiny = fixtures_dir / "n1_7_tiny"
    found = load_checkpoint(tiny, embodiment=DROID, fps=15)
    written = save_checkpoint(tmp_path / "again", found, load_model(found))
    files = {file.relative_to(written).as_posix() for file in written.rglob("*") if file.is_file()}
    assert files == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "statistics.json",
        "embodiment_id.json",
        "backbone/config.json",
        "backbone/preprocessor_config.json",
        "embodiment.json",
        "tokenizer.json",
        "versions.json",
    }
    assert all(name in (checkpoint.__doc__ or "") for name in files)
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json", "backbone/preprocessor_config.json"):
        assert json.loads((written / name).read_text()) == json.loads((tiny / name).read_text()), name
    before, after = load_file(tiny / "model.safetensors"), load_file(written / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    again = load_checkpoint(written)
    assert (again.config, again.embodiment, again.options) == (found.config, found.embodiment, found.options)
    assert_same_statistics(again, found)
    twice = save_checkpoint(tmp_path / "twice", again, load_model(again))
    for name in files:
        assert (twice / name).read_bytes() == (written / name).read_bytes(), name


def test_fine_tuning_adds_an_embodiment_and_keeps_the_others(folder: Path, tmp_path: Path):
    embodiment = dataclasses.replace(make_embodiment(), action_horizon=10)
    base = load_checkpoint(folder, embodiment=embodiment, statistics=make_statistics(embodiment))
    assert base.config.action_head.action_horizon == 12  # the model's, which is longer
    assert base.options and not base.options.use_percentiles  # as the embodiment is scaled: min_max
    written = save_checkpoint(tmp_path / "tuned", base, load_model(base))
    processor = json.loads((written / "processor_config.json").read_text())
    assert processor["processor_class"] == "Gr00tN1d7Processor"
    modalities = processor["processor_kwargs"]["modality_configs"]
    assert list(modalities) == [DROID, LIBERO, "new_embodiment"]
    assert modalities["new_embodiment"]["action"]["modality_keys"] == ["arm", "gripper"]
    assert modalities["new_embodiment"]["action"]["delta_indices"] == list(range(10))
    assert list(json.loads((written / "statistics.json").read_text())) == [DROID, LIBERO, "new_embodiment"]
    tuned = load_checkpoint(written)
    assert (tuned.embodiment, tuned.projector) == (embodiment, 10)
    assert load_checkpoint(written, embodiment=LIBERO).projector == 2
    longer = dataclasses.replace(embodiment, action_horizon=16)
    with pytest.raises(CheckpointError, match="action_horizon: found 10, expected 16"):
        load_checkpoint(written, embodiment=longer)
    wide = load_checkpoint(folder, embodiment=longer, statistics=make_statistics(longer))
    assert wide.config.action_head.action_horizon == 16
    assert wide.options and wide.options.max_action_horizon == 16


def test_scaling_that_the_family_does_not_know_is_refused(folder: Path):
    arm = dataclasses.replace(make_embodiment().action["arm"], normalization=Normalization.BINARY)
    embodiment = dataclasses.replace(make_embodiment(), action={**make_embodiment().action, "arm": arm})
    with pytest.raises(ConfigError, match=r"action\.arm is binary"):
        load_checkpoint(folder, embodiment=embodiment, statistics=make_statistics(embodiment))


def test_the_pipeline_takes_the_pixel_limits_of_the_folder(folder: Path):
    assert images(folder).num_tokens(64, 64) == 4  # 64 x 64 pixels in cells of 32
    file = folder / "backbone" / "preprocessor_config.json"
    edit(file, lambda content: content["size"].update(shortest_edge=128 * 128))
    assert images(folder).num_tokens(64, 64) == 16
    edit(file, lambda content: content.update(min_pixels=96 * 96, size=None))
    assert images(folder).num_tokens(64, 64) == 9
    edit(file, lambda content: content.update(min_pixels="many"))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: min_pixels is 'many', expected a number of"):
        images(folder)


def images(folder: Path) -> QwenImages:
    processor = load_checkpoint(folder, embodiment=LIBERO).pipeline().inputs.images
    assert isinstance(processor, QwenImages)
    return processor


def test_files_of_the_processor_may_lie_in_a_folder_of_their_own(folder: Path, tmp_path: Path):
    expected = load_checkpoint(folder, embodiment=LIBERO)
    (folder / "processor").mkdir()
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json"):
        (folder / name).rename(folder / "processor" / name)
    found = load_checkpoint(folder, embodiment=LIBERO)
    assert (found.embodiment, found.options) == (expected.embodiment, expected.options)
    assert_same_statistics(found, expected)


def test_projectors_that_a_folder_lacks_are_those_of_the_release(folder: Path):
    edit(folder / "embodiment_id.json", lambda rows: (rows.clear(), rows.update(libero_sim=5)))
    assert load_checkpoint(folder, embodiment=LIBERO).projectors == {**N1_7.projectors, "libero_sim": 5}
    (folder / "embodiment_id.json").unlink()
    assert load_checkpoint(folder, embodiment=LIBERO).projectors == N1_7.projectors


def test_missing_options_have_the_defaults_of_the_constructor(folder: Path):
    def strip(content: dict[str, Any]) -> None:
        kwargs = content["processor_kwargs"]
        content["processor_kwargs"] = {
            name: kwargs[name] for name in ("modality_configs", "max_state_dim", "max_action_dim")
        }

    edit(folder / "processor_config.json", strip)
    options = load_checkpoint(folder, embodiment=LIBERO).options
    assert options == ProcessorOptions(max_state_dim=40, max_action_dim=40)
    assert (options.shortest_image_edge, options.crop_fraction, options.use_percentiles) == (256, 0.95, False)


def test_unknown_keys_of_the_processor_are_kept(folder: Path, tmp_path: Path):
    edit_options(folder, invented=[1])
    edit(folder / "processor_config.json", lambda content: content.update(auto_map={"a": "b"}))
    edit(
        folder / "processor_config.json",
        lambda content: content["processor_kwargs"]["modality_configs"][LIBERO].update(rl_info={"delta_indices": [0]}),
    )
    found = load_checkpoint(folder, embodiment=LIBERO)
    written = save_checkpoint(tmp_path / "again", found, load_model(found))
    content = json.loads((written / "processor_config.json").read_text())
    assert content == json.loads((folder / "processor_config.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_state_dim": 29}, r"max_state_dim is 29 in processor_config\.json and 40 in config\.json"),
        ({"max_action_dim": 29}, r"max_action_dim is 29 in processor_config\.json and 40 in config\.json"),
        ({"use_percentiles": 1}, "use_percentiles is 1, expected true or false"),
        ({"max_state_dim": True}, "max_state_dim is True, expected a whole number"),
        ({"image_target_size": [256]}, r"image_target_size is \[256\], expected two whole numbers or null"),
        ({"color_jitter_params": 0.3}, "color_jitter_params is 0.3, expected an object or null"),
        ({"crop_fraction": "0.95"}, "crop_fraction is '0.95', expected a number or null"),
        ({"exclude_state": None}, "exclude_state is None, expected true or false"),
        ({"modality_configs": None}, "'modality_configs' is missing"),
        ({"modality_configs": {LIBERO: []}}, f"'{LIBERO}' is list, expected an object"),
    ],
)
def test_wrong_options_are_named(folder: Path, changes: dict[str, Any], message: str):
    edit_options(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, embodiment=LIBERO)


def test_files_of_other_families_and_programs_are_refused(folder: Path):
    edit(folder / "processor_config.json", lambda content: content.update(processor_class="Gr00tN1d6Processor"))
    with pytest.raises(CheckpointError, match=r"'Gr00tN1d6Processor'.*Gr00tN1d7Processor"):
        load_checkpoint(folder, embodiment=LIBERO)
    (folder / "config.json").write_text('{"type": "groot", "base_model_path": "nvidia/GR00T-N1.7-3B"}')
    with pytest.raises(CheckpointError, match=r"of a LeRobot policy; .* fine-tuned from \(nvidia/GR00T-N1\.7-3B\)"):
        load_checkpoint(folder, embodiment=LIBERO)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_state_dim": 7}, "state has 8 channels, the model has room for 7"),
        ({"max_action_dim": 6}, "action has 7 channels, the model has room for 6"),
        ({"action_horizon": 4}, "action_horizon is 8, the model's is 4"),
        ({"state_history_length": 2}, r"state_history is \[0\], 1 rows, the model takes 2 \(state_history_length"),
    ],
)
def test_an_embodiment_that_the_model_has_no_room_for_is_refused(folder: Path, changes: dict[str, Any], message: str):
    edit(folder / "config.json", lambda content: content.update(changes))
    sizes = {name: value for name, value in changes.items() if name.startswith("max")}
    edit_options(folder, **sizes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, embodiment=LIBERO)


def forget(content: dict[str, Any], *path: str) -> None:
    *parents, last = path
    for name in parents:
        content = content[name]
    del content[last]


def shorten(content: dict[str, Any]) -> None:
    values = content[DROID]["relative_action"]["joint_position"]
    content[DROID]["relative_action"]["joint_position"] = {name: rows[:5] for name, rows in values.items()}


def widen(content: dict[str, Any]) -> None:
    values = content[DROID]["relative_action"]["joint_position"]
    content[DROID]["relative_action"]["joint_position"] = {
        name: [[*row, row[0]] for row in rows] for name, rows in values.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: forget(c, DROID), rf"statistics\.json: no statistics for embodiment tag '{DROID}'"),
        (lambda c: forget(c, DROID, "state"), rf"statistics\.json: '{DROID}' has no state or action"),
        (lambda c: forget(c, DROID, "relative_action"), r"relative_action\.eef_9d.* are missing"),
        (lambda c: forget(c, DROID, "action", "gripper_position"), "action.gripper_position is missing or damaged"),
        (lambda c: forget(c, DROID, "state", "eef_9d", "q01"), r"state\.eef_9d: 'q01' is missing"),
        (shorten, r"relative_action\.joint_position have 5 steps, the action horizon .* is 12"),
        (widen, r"relative_action\.joint_position have 8 channels, .* has 7"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(folder: Path, change: Callable[[dict[str, Any]], None], message: str):
    edit(folder / "statistics.json", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, embodiment=DROID)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "statistics.json", "model.safetensors"])
def test_files_that_are_missing_or_cut_short_are_named(folder: Path, name: str):
    file = folder / name
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(load_checkpoint(folder, embodiment=LIBERO))
    file.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(load_checkpoint(folder, embodiment=LIBERO))


def test_a_folder_without_tokenizer_says_what_to_put_where(folder: Path):
    for name in ("tokenizer.json", "vocab.json"):  # the second is converted by transformers
        (folder / "backbone" / name).unlink()
    with pytest.raises(
        CheckpointError,
        match=r"for GR00T N1\.7 put the tokenizer\.json of nvidia/Cosmos-Reason2-2B or Qwen",
    ):
        load_checkpoint(folder, embodiment=LIBERO)


def with_output(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The released file: embeddings and the output layer that is tied to them."""
    return {**weights, OUTPUT: weights[EMBEDDING].clone()}


def only_output(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in with_output(weights).items() if name != EMBEDDING}


def with_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"_groot_model.{name}": weight for name, weight in only_output(weights).items()}


def with_dropout_table(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "action_head.dropout_prob_by_embodiment": torch.zeros(32)}


@pytest.mark.parametrize("change", [with_output, only_output, with_prefix, with_dropout_table])
def test_weight_files_of_all_writers_load(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], caplog: pytest.LogCaptureFixture
):
    file = folder / "model.safetensors"
    published = load_file(file)
    file.unlink()
    save_file(change(published), file)
    weights = load_model(load_checkpoint(folder, embodiment=LIBERO, fps=20)).state_dict()
    embedding = weights["backbone.language.embed_tokens.weight"]
    assert torch.equal(embedding, published[EMBEDDING])
    assert len(weights) == len(published)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_new_model_gets_the_options_of_the_release(fixtures_dir: ReferenceFiles):
    embodiment = make_embodiment()
    tokenizer = fixtures_dir / "n1_7_tiny" / "backbone" / "tokenizer.json"
    made = new_checkpoint("n1_7_3b", embodiment, make_statistics(embodiment), tokenizer=tokenizer)
    assert made.options and made.projector == 10
    assert (made.options.max_state_dim, made.options.max_action_dim, made.options.max_action_horizon) == (132, 132, 16)
    assert (made.options.shortest_image_edge, made.options.crop_fraction) == (256, 0.95)
    assert not made.options.use_percentiles  # as the embodiment says


def test_the_embodiment_file_of_a_saved_folder_is_the_robots(folder: Path, tmp_path: Path):
    own = dataclasses.replace(load_checkpoint(folder, embodiment=LIBERO).embodiment, name="panda", fps=10)
    found = load_checkpoint(folder, embodiment=own)
    written = save_checkpoint(tmp_path / "again", found, load_model(found))
    assert load_embodiment(written / "embodiment.json") == own
    assert load_checkpoint(written).embodiment == own
    with pytest.raises(CheckpointError, match="fps: found 10, expected 20"):
        load_checkpoint(written, embodiment=dataclasses.replace(own, fps=20))


def test_files_that_contradict_each_other_are_refused(folder: Path, tmp_path: Path):
    found = load_checkpoint(folder, embodiment=LIBERO, fps=20)
    written = save_checkpoint(tmp_path / "again", found, load_model(found))
    edit_options(written, use_percentiles=False)
    with pytest.raises(
        CheckpointError,
        match=r"processor_config\.json \(found\) and embodiment\.json \(expected\) contradict each other: .*"
        r"state\.x\.normalization: found min_max, expected q99; .*restore the one that was changed",
    ):
        load_checkpoint(written)
