# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One thing damaged at a time: loading or the first inference fails exactly where `verify` reports a fault."""

from __future__ import annotations

import json
import math
import os
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
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.checkpoint.conversion import convert_checkpoint
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.errors import CheckpointError, Gr00tError
from gr00t_training.policy.policy import Policy
from gr00t_training.transforms.observation import resting_observation

pytestmark = pytest.mark.slow

TAG = "libero_sim"
Edit = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(fixtures_dir: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a published folder of N1.7 with one embodiment and everything that running it needs."""
    source = fixtures_dir / "n1_7_tiny"
    folder = convert_checkpoint(source, tmp_path_factory.mktemp("tiny") / "n1_7", tags=[TAG])
    shutil.copyfile(source / "backbone" / "tokenizer.json", folder / "tokenizer.json")
    shutil.rmtree(folder / "backbone")
    (folder / "backbone").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(source / "backbone" / name, folder / "backbone" / name)
    return folder


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of ours, of N1."""
    return make_checkpoint(tmp_path_factory.mktemp("compact") / "n1", make_embodiment())


def put(name: str, *path: str | int, value: Any) -> Edit:
    """Set a value inside a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        part = content
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def drop(name: str, *path: str | int) -> Edit:
    """Remove a value inside a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        part = content
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        (folder / name).write_text(json.dumps(content))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        found = load_file(file)
        change(found)
        file.unlink()
        save_file(found, file)

    return edit


def header(change: Callable[[dict[str, Any]], object], tail: bytes = b"") -> Edit:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        described = json.loads(content[8 : 8 + length])
        change(described)
        text = json.dumps(described).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :] + tail)

    return edit


def rewrite(name: str, content: str | bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def replace_by(name: str, make: Callable[[Path], object]) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return edit


def fill(name: str, value: float) -> Edit:
    def change(found: dict[str, torch.Tensor]) -> None:
        found[name].view(-1)[1] = value

    return weights(change)


def overlap(described: dict[str, Any]) -> None:
    first, second = [name for name in described if name != "__metadata__"][:2]
    size = described[second]["data_offsets"][1] - described[second]["data_offsets"][0]
    start = described[first]["data_offsets"][0]
    described[second]["data_offsets"] = [start, start + size]


def move_to_parent(name: str) -> Edit:
    def edit(folder: Path) -> None:
        target = folder.parent / f"outside-{name.replace('/', '-')}"
        shutil.move(folder / name, target)
        (folder / name).symlink_to(target)

    return edit


def nest(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


BLOCK = "action_head.model.transformer_blocks.0.attn1.to_q.bias"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"
KWARGS, MODALITY = "processor_kwargs", ("processor_kwargs", "modality_configs", TAG)
DIT = "diffusion_model_cfg"
BACKBONE, PROCESSOR, STATISTICS = "backbone/config.json", "processor_config.json", "statistics.json"

DAMAGES: dict[str, Edit] = {
    # config.json
    "layers beyond any": put("config.json", DIT, "num_layers", value=10**9),
    "layers of a fraction": put("config.json", DIT, "num_layers", value=8.5),
    "more layers": put("config.json", DIT, "num_layers", value=10),
    "fewer layers": put("config.json", DIT, "num_layers", value=6),
    "width beyond any": put("config.json", "hidden_size", value=10**9),
    "width as a text": put("config.json", "hidden_size", value="24"),
    "another width": put("config.json", "hidden_size", value=12),
    "width of no number": put("config.json", "hidden_size", value=None),
    "section is a list": put("config.json", DIT, value=[1]),
    "section is missing": drop("config.json", DIT),
    "no model type": drop("config.json", "model_type"),
    "model type is a list": put("config.json", "model_type", value=["Gr00tN1d7"]),
    "another family": put("config.json", "model_type", value="Gr00tN1d6"),
    "no steps": put("config.json", "num_inference_timesteps", value=0),
    "endless steps": put("config.json", "num_inference_timesteps", value=10**12),
    "horizon too short": put("config.json", "action_horizon", value=4),
    "another backbone": put("config.json", "model_name", value="meta/llama"),
    "no heads": put("config.json", DIT, "num_attention_heads", value=0),
    "text every 0 blocks": put("config.json", "attend_text_every_n_blocks", value=0),
    "room for fewer channels": put("config.json", "max_state_dim", value=4),
    "no embodiments": put("config.json", "max_num_embodiments", value=1),
    "not JSON": rewrite("config.json", "{"),
    "a list": rewrite("config.json", "[]"),
    "deep": rewrite("config.json", nest(100_000)),
    "latin": rewrite("config.json", '{"é": 1}'.encode("latin-1")),
    "huge number": rewrite("config.json", '{"hidden_size": ' + "9" * 5000 + "}"),
    "duplicate key": rewrite("config.json", '{"model_type": "Gr00tN1d7", "model_type": "Gr00tN1d7"}'),
    "pointer of the config": rewrite("config.json", POINTER),
    "pipe": replace_by("config.json", os.mkfifo),
    "config is a folder": replace_by("config.json", lambda file: file.mkdir()),
    "link out of the folder": move_to_parent("config.json"),
    # backbone/config.json
    "patch": put(BACKBONE, "vision_config", "patch_size", value=14),
    "heads of the tower": put(BACKBONE, "vision_config", "num_heads", value=3),
    "merge": put(BACKBONE, "vision_config", "spatial_merge_size", value=4),
    "key heads": put(BACKBONE, "text_config", "num_key_value_heads", value=3),
    "other key heads": put(BACKBONE, "text_config", "num_key_value_heads", value=1),
    "vocabulary": put(BACKBONE, "text_config", "vocab_size", value=100),
    "image token": put(BACKBONE, "image_token_id", value=353),
    "sections": put(BACKBONE, "text_config", "rope_scaling", "mrope_section", value=[1, 1]),
    "theta": put(BACKBONE, "text_config", "rope_theta", value="5e6"),
    "deepstack": put(BACKBONE, "vision_config", "deepstack_visual_indexes", value=[0, 99]),
    "positions": put(BACKBONE, "vision_config", "num_position_embeddings", value=35),
    "tower is null": put(BACKBONE, "vision_config", value=None),
    # backbone/preprocessor_config.json
    "patch of the preprocessor": put("backbone/preprocessor_config.json", "patch_size", value=14),
    "giant images": put("backbone/preprocessor_config.json", "size", "shortest_edge", value=10**12),
    "limits the wrong way round": put("backbone/preprocessor_config.json", "size", "longest_edge", value=1),
    # processor_config.json
    "no processor": lambda folder: (folder / PROCESSOR).unlink(),
    "giant target": put(PROCESSOR, KWARGS, "image_target_size", value=[10**6, 10**6]),
    "target of nothing": put(PROCESSOR, KWARGS, "image_target_size", value=[0, 0]),
    "keys are not a list": put(PROCESSOR, *MODALITY, "state", "modality_keys", value="x"),
    "unknown state key": put(PROCESSOR, *MODALITY, "state", "modality_keys", value=["nothing"]),
    "ticks of texts": put(PROCESSOR, *MODALITY, "video", "delta_indices", value=["0"]),
    "ticks far away": put(PROCESSOR, *MODALITY, "video", "delta_indices", value=[-(10**9), 0]),
    "endless ticks": put(PROCESSOR, *MODALITY, "video", "delta_indices", value=list(range(-5000, 1))),
    "no language": drop(PROCESSOR, *MODALITY, "language"),
    "action configs of texts": put(PROCESSOR, *MODALITY, "action", "action_configs", value=["x"] * 7),
    "other room in the processor": put(PROCESSOR, KWARGS, "max_state_dim", value=50),
    "key with a path": put(PROCESSOR, *MODALITY, "video", "modality_keys", value=["../x"]),
    # statistics.json
    "no statistics": lambda folder: (folder / STATISTICS).unlink(),
    "statistics are a list": put(STATISTICS, TAG, value=[]),
    "statistics of no state": drop(STATISTICS, TAG, "state"),
    "statistics without a key": drop(STATISTICS, TAG, "action", "x"),
    "NaN": put(STATISTICS, TAG, "state", "x", "min", value=[math.nan]),
    "a text": put(STATISTICS, TAG, "state", "x", "max", value=["high"]),
    "two channels": put(STATISTICS, TAG, "state", "x", "q01", value=[0.0, 1.0]),
    "lower above upper": put(STATISTICS, TAG, "state", "x", "min", value=[1e9]),
    "negative deviation": put(STATISTICS, TAG, "action", "x", "std", value=[-1.0]),
    # embodiment_id.json
    "row beyond the tables": put("embodiment_id.json", TAG, value=32),
    "row is a text": put("embodiment_id.json", TAG, value="2"),
    # tokenizer.json
    "tokenizer is cut": lambda folder: os.truncate(folder / "tokenizer.json", 2000),
    "pointer of the tokenizer": rewrite("tokenizer.json", POINTER),
    "token beyond the vocabulary": put("tokenizer.json", "model", "vocab", "!", value=5000),
    "image token is missing": lambda folder: (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace("<|image_pad|>", "<|no_pad|>")
    ),
    "normalizer that expands": put(
        "tokenizer.json", "normalizer", value={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}
    ),
    "prefix that expands": put("tokenizer.json", "normalizer", value={"type": "Prepend", "prepend": "x" * 10**6}),
    "regex that backtracks": put(
        "tokenizer.json",
        "pre_tokenizer",
        value={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    ),
    "many added tokens": put(
        "tokenizer.json", "added_tokens", value=[{"id": i, "content": f"t{i}"} for i in range(9999)]
    ),
    "merges of nothing": put("tokenizer.json", "model", "merges", value=[["no", "such"]]),
    "another kind of model": put("tokenizer.json", "model", value={"type": "WordLevel", "vocab": {}, "unk_token": "x"}),
    "deep normalizer": rewrite("tokenizer.json", '{"normalizer":' + nest(5000) + "}"),
    # model.safetensors
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "pointer of the weights": rewrite("model.safetensors", POINTER),
    "cut weights": lambda folder: os.truncate(folder / "model.safetensors", 2_000_000),
    "a missing tensor": weights(lambda found: found.pop(BLOCK)),
    "another shape": weights(lambda found: found.update({BLOCK: torch.zeros(7)})),
    "whole numbers": weights(lambda found: found.update({BLOCK: found[BLOCK].to(torch.int8)})),
    "one NaN": fill(BLOCK, math.nan),
    "one infinity": fill(BLOCK, math.inf),
    "wide infinity": weights(
        lambda found: found.update({BLOCK: torch.full_like(found[BLOCK], 1e300, dtype=torch.float64)})
    ),
    "overlapping tensors": header(overlap),
    "bytes of no tensor": header(lambda described: described.pop(BLOCK)),
    "bytes behind the tensors": header(lambda described: None, b"hidden"),
    "tensor beyond the file": header(
        lambda d: d.update(x={"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]})
    ),
    "many dimensions": header(lambda d: d[BLOCK].update(shape=[1] * 1000 + [32])),
    "unknown type": header(lambda d: d[BLOCK].update(dtype="F8_E4M3")),
    "type is a list": header(lambda d: d[BLOCK].update(dtype=[])),
    "header beyond any": rewrite("model.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
    "deep header": rewrite("model.safetensors", (600_007).to_bytes(8, "little") + nest(100_000).encode() + b" " * 6),
    "weights are a pipe": replace_by("model.safetensors", os.mkfifo),
    "weights out of the folder": move_to_parent("model.safetensors"),
    # our own
    "newer format": rewrite("versions.json", '{"format": 99}'),
    "embodiment of another robot": rewrite("embodiment.json", "{}"),
}
HARMLESS: dict[str, Edit] = {
    "nothing": lambda folder: None,
    "unknown key": put("config.json", "some_new_option", value=[1, 2]),
    "unknown tensor": weights(lambda found: found.update({"action_head.extra": torch.zeros(3)})),
    "unused NaN": weights(lambda found: found.update({"backbone.model.lm_head.weight": torch.full((3,), math.nan)})),
    "another type": weights(lambda found: found.update({BLOCK: found[BLOCK].bfloat16()})),
    "a note": rewrite("README.md", "text"),
}


def runs(folder: Path, tag: str | None) -> bool:
    """Whether a checkpoint loads and answers; every refusal must be one of ours."""
    try:
        policy = Policy.from_checkpoint(folder, tag, device="cpu", denoising_steps=1, **({"fps": 20} if tag else {}))
        policy.infer(resting_observation(policy.embodiment, "pick up the cube"))
    except Gr00tError as error:
        message = str(error)
    else:
        return True
    assert message.isprintable()
    assert len(message) < 1500
    return False


def is_without_fault(folder: Path) -> bool:
    try:
        return not any(finding.is_fault for finding in audit_checkpoint(find_folder(folder)))
    except CheckpointError:  # of another kind altogether
        return False


@pytest.mark.parametrize("name", [*DAMAGES, *HARMLESS])
def test_loading_fails_where_verify_reports(name: str, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    {**DAMAGES, **HARMLESS}[name](folder)
    assert (runs(folder, TAG), is_without_fault(folder)) == (name in HARMLESS, name in HARMLESS)


SHARD_DAMAGES: dict[str, Edit] = {
    "index names a lost tensor": put("model.safetensors.index.json", "weight_map", "lost", value="SHARD"),
    "index names another file": put(
        "model.safetensors.index.json", "weight_map", "backbone.linear.bias", value="SHARD"
    ),
    "index names a file outside": put("model.safetensors.index.json", "weight_map", "lost", value="../SHARD"),
    "index is empty": put("model.safetensors.index.json", "weight_map", value={}),
    "index is a list": put("model.safetensors.index.json", "weight_map", value=[]),
    "a shard is missing": lambda folder: sorted(folder.glob("model-*.safetensors"))[1].unlink(),
    "a shard is another": lambda folder: shutil.copyfile(*sorted(folder.glob("model-*.safetensors"))[:2]),
    "a shard is a pointer": lambda folder: sorted(folder.glob("model-*.safetensors"))[0].write_text(POINTER),
    "size of the index is a text": put("model.safetensors.index.json", "metadata", value="large"),
}


@pytest.mark.parametrize("name", SHARD_DAMAGES)
def test_loading_fails_where_verify_reports_for_shards(name: str, compact: Path, tmp_path: Path) -> None:
    folder = convert_checkpoint(compact, tmp_path / "copy", max_shard_bytes=4_000_000)
    SHARD_DAMAGES[name](folder)
    index = folder / "model.safetensors.index.json"
    shard = sorted(path.name for path in folder.glob("model-*.safetensors"))[-1]
    index.write_text(index.read_text().replace("SHARD", shard))
    is_sound = name == "size of the index is a text"  # nothing reads it
    assert (runs(folder, None), is_without_fault(folder)) == (is_sound, is_sound)


VLM = "eagle_config.json"
COMPACT_DAMAGES: dict[str, Edit] = {
    "fewer key heads than the weights": put(VLM, "llm_config", "num_key_value_heads", value=2),
    "key heads that do not divide": put(VLM, "llm_config", "num_key_value_heads", value=3),
    "sizes of another file": put(VLM, "vision_config", "patch_size", value=7),
    "ratio of nothing": put(VLM, "downsample_ratio", value=0),
    "metadata is a list": put("experiment_cfg/metadata.json", "new_embodiment", value=[]),
    "metadata without statistics": drop("experiment_cfg/metadata.json", "new_embodiment", "statistics"),
    "embodiment without its keys": drop("embodiment.json", "state"),
    "embodiment with a longer horizon": put("embodiment.json", "action_horizon", value=17),
    "embodiment of another tag": put("embodiment.json", "tag", value="nobody"),
    "embodiment with history": put("embodiment.json", "video_history", value=[-1, 0]),
    "a channel more": put("embodiment.json", "state", "arm", "names", value=["a", "b", "c", "d"]),
    "embodiment is a bomb": rewrite("embodiment.json", "a: &a [1]\nb: [" + "*a, " * 300_000 + "]"),
}


@pytest.mark.parametrize("name", ["nothing", *COMPACT_DAMAGES])
def test_loading_fails_where_verify_reports_for_ours(name: str, compact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(compact, tmp_path / "copy")
    COMPACT_DAMAGES.get(name, lambda folder: None)(folder)
    assert (runs(folder, None), is_without_fault(folder)) == (name == "nothing", name == "nothing")


@pytest.mark.parametrize("name", ["embodiment.json", "tokenizer.json"])
def test_what_may_be_passed_instead_is_warned_of(name: str, compact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(compact, tmp_path / "copy")
    (folder / name).unlink()
    found = [finding for finding in audit_checkpoint(folder) if "not in the folder" in str(finding)]
    assert [(finding.is_fault, str(finding).split(":")[1].strip()) for finding in found] == [(False, name)]
