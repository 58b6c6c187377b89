# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_checkpoint`."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.checkpoint import load_checkpoint, load_model, save_checkpoint
from gr00t_training.checkpoint.processor import dump_processor
from gr00t_training.cli.checkpoint import main
from gr00t_training.embodiment import load_embodiment
from gr00t_training.model.families import family, variants

pytestmark = pytest.mark.slow

DROID, LIBERO = "oxe_droid_relative_eef_relative_joint", "libero_sim"
OUTPUT, EMBEDDING = "backbone.model.lm_head.weight", "backbone.model.model.language_model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def folder(fixtures_dir: ReferenceFiles, tmp_path: Path) -> Path:
    """Return a copy of the tiny N1.7 folder that a test may change."""
    tiny = tmp_path / "tiny"
    (tiny / "backbone").mkdir(parents=True)
    names = ("config.json", "processor_config.json", "statistics.json", "embodiment_id.json", "model.safetensors")
    for name in (*names, "backbone/config.json", "backbone/tokenizer.json", "backbone/preprocessor_config.json"):
        shutil.copyfile(fixtures_dir / "n1_7_tiny" / name, tiny / name)
    return tiny


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    """Return what a command returns, and the lines that it prints."""
    capsys.readouterr()
    result = main([str(argument) for argument in arguments])
    return result, capsys.readouterr().out.splitlines()


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")


def test_a_published_folder_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]):
    result, lines = run(capsys, "inspect", folder)
    assert result == 0
    assert lines[:9] == [
        f"folder       {folder}",
        "family       GR00T N1.7 (Gr00tN1d7)",
        "weights      817,656 parameters, 3.27 MB, float32, 1 file",
        "vision       4 layers of 32",
        "language     4 layers of 64, vocabulary 368",
        "action head  2 layers of self-attention, 8 diffusion layers of 32",
        "sampler      4 steps, horizon 12",
        "room for     state 40, action 40, 32 embodiments",
        "tokenizer    backbone/tokenizer.json",
    ]
    assert "action_head.dit                     120     137,880  551.52 kB  float32" in lines
    start = lines.index(
        f"embodiment {DROID}: projector 24, horizon 12, video at [-3, 0], language language.language_instruction"
    )
    assert lines[start + 1 : start + 9] == [
        "          key                    dim  scaling     lowest  highest  remarks",
        "  video   exterior_image_1_left                                    any size",
        "  video   wrist_image_left                                         any size",
        "  state   eef_9d                   9  q99        -0.9999   0.9997",
        "  state   gripper_position         1  q99       0.001686    0.995",
        "  state   joint_position           7  q99         -2.499      2.5",
        "  action  eef_9d                   9  min_max    -0.6052        1  relative to eef_9d, xyz_rotation_6d",
        "  action  gripper_position         1  q99      9.615e-05   0.9951",
    ]


def test_a_folder_of_ours_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = make_checkpoint(tmp_path / "run", make_embodiment())
    result, lines = run(capsys, "inspect", path)
    assert result == 0
    assert "tokenizer    tokenizer.json" in lines
    start = lines.index(
        "embodiment new_embodiment: projector 1, horizon 16, 10 Hz, language human.task_description, trained here as "
        "'test_arm'"
    )
    assert lines[start + 2 :] == [
        "  video   front                                   48x32",
        "  state   arm        3  min_max      -1        1",
        "  state   gripper    1  min_max      -1        1",
        "  action  arm        3  min_max      -1        1",
        "  action  gripper    1  min_max      -1        1",
    ]


def test_the_same_is_there_for_machines(folder: Path, capsys: pytest.CaptureFixture[str]):
    _, lines = run(capsys, "inspect", folder, "--json")
    report = json.loads("\n".join(lines))
    statistics = json.loads((folder / "statistics.json").read_text())[LIBERO]["state"]["x"]
    assert report["model_type"] == "Gr00tN1d7"
    assert sum(part["num_parameters"] for part in report["parts"]) == 817_656
    assert [embodiment["tag"] for embodiment in report["embodiments"]] == [DROID, LIBERO]
    assert report["embodiments"][1]["keys"][2] == {
        "kind": "state",
        "key": "x",
        "dim": 1,
        "scaling": "q99",
        "form": "",
        "lowest": statistics["min"][0],
        "highest": statistics["max"][0],
        "num_constant": 0,
    }


@pytest.mark.parametrize("name", ["n1_7_tiny", "n1_7_tiny_variant", "n1_6_tiny"])
def test_published_folders_are_without_fault(
    fixtures_dir: ReferenceFiles, name: str, capsys: pytest.CaptureFixture[str]
):
    path = fixtures_dir / name
    assert run(capsys, "verify", "--full", path) == (0, [f"{path}: 0 faults, 0 warnings"])
    assert run(capsys, "verify", "--json", path) == (0, ["[]"])


def grow_config(content: dict[str, Any]) -> None:
    content["diffusion_model_cfg"]["num_layers"] = 10


def shrink_config(content: dict[str, Any]) -> None:
    content["diffusion_model_cfg"]["num_layers"] = 6


def set_value(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["action_head.vlln.bias"][3:5] = value

    return change


BLOCK, QUERY = "action_head.model.transformer_blocks", "attn1.to_q.bias"


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (
            "config.json",
            grow_config,
            f"fault: {BLOCK}.#.{QUERY}: 2 tensors ({BLOCK}.8.{QUERY} to {BLOCK}.9.{QUERY}) are missing",
        ),
        (
            "config.json",
            shrink_config,
            f"fault: {BLOCK}.#.{QUERY}: 2 tensors ({BLOCK}.6.{QUERY} to {BLOCK}.7.{QUERY}) are not ",
        ),
        (
            "config.json",
            lambda content: content.update(hidden_size=12),
            "fault: action_head.state_encoder.layer1.W: shape (32, 40, 24), config.json expects (32, 40, 12)",
        ),
        (
            "config.json",
            lambda content: content.update(model_type="gr00t_n2"),
            "fault: folder: {folder}: model_type is 'gr00t_n2', supported: gr00t_n1, gr00t_n1_5, Gr00tN1d6, Gr00tN1d7",
        ),
        (
            "weights",
            lambda weights: weights.pop("action_head.vlln.bias"),
            "fault: action_head.vlln.bias: is missing; the file is incomplete or of another model",
        ),
        (
            "weights",
            lambda weights: weights.update({"action_head.extra": torch.zeros(1)}),
            "warning: action_head.extra: is not part of the model that config.json describes",
        ),
        (
            "weights",
            lambda weights: weights.update({"action_head.vlln.bias": weights["action_head.vlln.bias"].bfloat16()}),
            "warning: weights: have several types (283 float32, 1 bfloat16); loading converts them to one",
        ),
        (
            "weights",
            lambda weights: weights.update({"action_head.vlln.bias": torch.zeros(64, dtype=torch.int8)}),
            "fault: action_head.vlln.bias: 1 tensors have type int8, expected floats",
        ),
        ("weights", set_value(math.nan), "fault: action_head.vlln.bias: 2 of 64 values are NaN or infinite"),
        ("weights", set_value(-math.inf), "fault: action_head.vlln.bias: 2 of 64 values are NaN or infinite"),
        (
            "statistics.json",
            lambda content: content.pop(LIBERO),
            f"warning: {LIBERO}: has no entry in statistics.json; it can be fine-tuned, not run",
        ),
        (
            "statistics.json",
            lambda content: content[LIBERO]["action"].pop("x"),
            f"fault: {LIBERO}: {{folder}}: statistics of '{LIBERO}': action.x is missing or damaged (KeyError('x'))",
        ),
        (
            "embodiment_id.json",
            lambda content: content.update(libero_sim=32),
            "fault: embodiment_id.json: 'libero_sim' has row 32, the model has rows 0 to 31",
        ),
        (
            "backbone/config.json",
            lambda content: content.update(image_token_id=353),
            "fault: tokenizer.json: 354 entries with image token 352, the model has room for 368 and expects 353; ",
        ),
    ],
)
def test_what_is_wrong_is_listed(
    folder: Path,
    file: str,
    change: Callable[[dict[str, Any]], object],
    expected: str,
    capsys: pytest.CaptureFixture[str],
):
    if file == "weights":
        edit_weights(folder, change)
    else:
        edit(folder / file, change)
    result, lines = run(capsys, "verify", "--full", folder)
    assert any(line.startswith(expected.format(folder=folder)) for line in lines)
    assert result == (1 if expected.startswith("fault") else 0)


def test_values_are_read_unless_it_shall_be_quick(folder: Path, capsys: pytest.CaptureFixture[str]):
    edit_weights(folder, set_value(math.nan))
    assert run(capsys, "verify", "--quick", folder)[0] == 0
    assert run(capsys, "verify", folder)[0] == 1


def test_every_damaged_shard_is_listed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    split = tmp_path / "split"
    run(capsys, "convert", folder, split, "--max-shard-bytes", 1_200_000)
    shards = sorted(split.glob("model-*.safetensors"))
    assert len(shards) == 3
    assert run(capsys, "verify", split) == (0, [f"{split}: 0 faults, 0 warnings"])

    def misplace(content: dict[str, Any]) -> None:
        content["weight_map"]["action_head.vlln.bias"] = shards[0].name
        content["weight_map"]["action_head.lost"] = shards[2].name
        content["weight_map"].pop("action_head.vlln.weight")
        content["metadata"]["total_size"] += 4

    index = "model.safetensors.index.json"
    intact = (split / index).read_text()
    edit(split / index, misplace)
    (split / "model-00009-of-00009.safetensors").touch()
    home = {name: shard.name for shard in shards for name in load_file(shard)}["action_head.vlln.bias"]
    result, lines = run(capsys, "verify", split)
    assert result == 1
    assert lines == [
        "warning: model-00009-of-00009.safetensors: belongs to no index and is not read; remove it",
        f"fault: {index}: action_head.vlln.bias is in {home}, not in {shards[0].name}; copy the files again",
        f"fault: {index}: action_head.lost is not in {shards[2].name}; copy that file again",
        f"warning: {home}: action_head.vlln.weight is not in {index}; other programs do not find it",
        f"warning: {index}: total_size is 3270628, the tensors have 3270624 bytes",
        f"{split}: 2 faults, 3 warnings",
    ]
    (split / index).write_text(intact)
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    result, lines = run(capsys, "verify", split)
    assert result == 1
    assert [line.split(":")[1].strip() for line in lines[:2]] == [shards[0].name, shards[1].name]


def test_a_copy_has_another_type_fewer_embodiments_and_no_output_layer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    edit_weights(folder, lambda weights: weights.update({OUTPUT: weights[EMBEDDING].clone()}))
    (folder / "optimizer.pt").write_text("large")
    (folder / "README.md").write_text("card")
    target = tmp_path / "half"
    arguments = ("convert", folder, target, "--dtype", "bf16", "--embodiment", "libero_panda")
    assert run(capsys, *arguments) == (0, [f"saved {target}"])
    before, after = load_file(folder / "model.safetensors"), load_file(target / "model.safetensors")
    assert after.keys() == before.keys() - {OUTPUT}
    assert all(torch.equal(weight, before[name].bfloat16()) for name, weight in after.items())
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert list(json.loads((target / "statistics.json").read_text())) == [LIBERO]
    processor = json.loads((target / "processor_config.json").read_text())["processor_kwargs"]
    assert list(processor["modality_configs"]) == [LIBERO]
    assert (target / "README.md").exists() and not (target / "optimizer.pt").exists()
    assert run(capsys, "verify", "--full", target)[0] == 0
    assert load_checkpoint(target, fps=20).embodiment == load_checkpoint(folder, embodiment=LIBERO, fps=20).embodiment
    back = tmp_path / "back"
    run(capsys, "convert", target, back, "--dtype", "fp32")
    weights = load_file(back / "model.safetensors")
    assert all(torch.equal(weight, before[name].bfloat16().float()) for name, weight in weights.items())


def test_the_form_of_other_programs_becomes_the_published_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    published = load_file(folder / "model.safetensors")

    def export(weights: dict[str, torch.Tensor]) -> None:
        weights[OUTPUT] = weights.pop(EMBEDDING)
        for name in [*weights]:
            weights[f"_groot_model.{name}"] = weights.pop(name)

    edit_weights(folder, export)
    run(capsys, "convert", folder, tmp_path / "plain")
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    assert weights.keys() == published.keys()
    assert all(torch.equal(weight, published[name]) for name, weight in weights.items())
    assert run(capsys, "verify", tmp_path / "plain")[0] == 0


def test_a_copy_of_ours_is_without_the_embodiment_that_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = load_checkpoint(folder, embodiment=DROID, fps=15)
    saved = save_checkpoint(tmp_path / "saved", found, load_model(found))
    run(capsys, "convert", saved, tmp_path / "droid", "--embodiment", DROID)
    assert load_checkpoint(tmp_path / "droid").embodiment == found.embodiment
    run(capsys, "convert", saved, tmp_path / "libero", "--embodiment", LIBERO)
    assert not (tmp_path / "libero" / "embodiment.json").exists()
    assert load_checkpoint(tmp_path / "libero", fps=20).embodiment.tag == LIBERO


def test_a_sparse_file_does_not_fill_the_disk(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = load_checkpoint(folder, embodiment=DROID, fps=15)
    saved = save_checkpoint(tmp_path / "saved", found, load_model(found))
    with open(saved / "tokenizer.json", "ab") as file:
        file.truncate(2**40)
    assert main(["convert", str(saved), str(tmp_path / "copy")]) == 2
    assert f"tokenizer.json: has {2**40} bytes (limit " in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_errors_take_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", str(folder), str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"gr00t_checkpoint: error: {tmp_path}: exists already; choose another folder or remove it\n"
    )
    assert main(["convert", str(folder), str(tmp_path / "x"), "--embodiment", "gr1"]) == 2
    assert "embodiment tag 'gr1' is unknown" in capsys.readouterr().err
    assert main(["inspect", "/no/where"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_embodiment_file_starts_from_a_published_tag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    result, lines = run(capsys, "embodiment", folder, DROID.upper(), "--fps", 15)
    assert result == 0
    assert lines[0] == f"# Embodiment of tag '{DROID}', read from {folder}."
    assert "  joint_position:" in lines and "    relative_to: joint_position" in lines
    assert not any("null" in line for line in lines)
    (tmp_path / "robot.yaml").write_text("\n".join(lines))
    written = load_embodiment(tmp_path / "robot.yaml")
    assert written == load_checkpoint(folder, embodiment=DROID, fps=15).embodiment
    assert load_checkpoint(folder, embodiment=written).embodiment == written


def test_an_embodiment_file_starts_from_a_data_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    embodiment = dataclasses.replace(
        make_embodiment(), state=rename(make_embodiment().state), action=rename(make_embodiment().action)
    )
    path = make_checkpoint(
        tmp_path / "run", dataclasses.replace(embodiment, video={"webcam": embodiment.video["front"]})
    )
    (path / "embodiment.json").unlink()
    result, lines = run(capsys, "embodiment", path, "NEW_EMBODIMENT", "--data-config", "so100")
    assert result == 0
    (tmp_path / "robot.yaml").write_text("\n".join(lines))
    written = load_embodiment(tmp_path / "robot.yaml")
    assert (written.tag, written.fps, written.state_keys) == ("new_embodiment", 10, ("single_arm", "gripper"))
    assert written == load_checkpoint(path, embodiment="new_embodiment", data_config="so100").embodiment


def rename(keys: Any) -> dict[str, Any]:
    return {"single_arm": keys["arm"], "gripper": keys["gripper"]}


@pytest.fixture
def release(request: pytest.FixtureRequest, spec_dir: ReferenceFiles, tmp_path: Path) -> Path:
    """Return a folder with the release's configuration and all its tensors; their values take no room on the disk."""
    content = json.loads((spec_dir / f"{request.param}_state_dict.json").read_text())
    tensors = content.get("tensors", content)
    config = variants()[request.param].config
    kind = family(config.model_type)
    write = {"config.json": kind.dump(config)[0]}
    if kind.processor:
        write["processor_config.json"] = dump_processor({}, kind.processor, kind.processor.released, {})
        write["statistics.json"] = {}
    else:
        (tmp_path / "experiment_cfg").mkdir()
        write["experiment_cfg/metadata.json"] = {}
    for name, described in write.items():
        (tmp_path / name).write_text(json.dumps(described))
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + 2 * math.prod(tensor["shape"])
        header[name] = {"dtype": "BF16", "shape": tensor["shape"], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return tmp_path


@pytest.mark.parametrize(
    ("release", "summary"),
    [
        ("n1_2b", "2,190,016,752 parameters, 4.38 GB, bfloat16, 1 file"),
        ("n1_5_3b", "2,724,163,520 parameters, 5.45 GB, bfloat16, 1 file"),
        ("n1_6_3b", "3,286,610,368 parameters, 6.57 GB, bfloat16, 1 file"),
        ("n1_7_3b", "3,455,180,928 parameters, 6.91 GB, bfloat16, 1 file"),
    ],
    indirect=["release"],
)
def test_a_release_is_shown_and_checked_by_its_headers_alone(
    release: Path, summary: str, capsys: pytest.CaptureFixture[str]
):
    before = bytes_read()
    _, lines = run(capsys, "inspect", release)
    assert f"weights      {summary}" in lines
    result, lines = run(capsys, "verify", "--quick", release)
    assert [line for line in lines if line.startswith("fault")] == []
    assert result == 0
    assert bytes_read() - before < 100e6  # of gigabytes


def bytes_read() -> int:
    """Return how much this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("release", ["n1_7_3b"], indirect=True)
def test_class_defaults_do_not_pass_for_the_release(release: Path, capsys: pytest.CaptureFixture[str]):
    """A config.json that lost its sizes describes a model of half the layers, which would load without a word."""

    def lose(content: dict[str, Any]) -> None:
        for name in ("select_layer", "diffusion_model_cfg", "vl_self_attention_cfg"):
            content.pop(name)

    edit(release / "config.json", lose)
    result, lines = run(capsys, "verify", "--quick", release)
    assert result == 1
    for name, count, last in (
        ("backbone.model.model.language_model.layers.#.mlp.up_proj.weight", 4, 15),
        ("action_head.model.transformer_blocks.#.attn1.to_q.weight", 16, 31),
        ("action_head.vl_self_attention.transformer_blocks.#.attn1.to_q.weight", 4, 3),
    ):
        text = f"to {name.replace('#', str(last))}) are not part of the model that config.json describes"
        assert any(line.startswith(f"fault: {name}: {count} tensors (") and line.endswith(text) for line in lines), name
