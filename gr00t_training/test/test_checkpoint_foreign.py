# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders that are not our checkpoints: recognized by name, with the way out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from gr00t_training.cli.checkpoint import main

ADAPTER = json.dumps({"base_model_name_or_path": "some/base"})
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})

CASES: dict[str, tuple[dict[str, str], str]] = {
    "adapter": ({"adapter_config.json": ADAPTER, "adapter_model.safetensors": ""}, r"adapter \(LoRA\) of some/base"),
    "adapter without a base": ({"adapter_config.json": "{}"}, r"adapter \(LoRA\) of the model that it was trained on"),
    "pickle of the hub": ({"config.json": "{}", "pytorch_model.bin": ""}, "pickled weights.*torch.load"),
    "pickles in shards": ({"pytorch_model.bin.index.json": "{}", "pytorch_model-1-of-2.bin": ""}, "pickled weights"),
    "other pickles": ({"config.json": "{}", "last.ckpt": ""}, r"pickled weights.*\(last\.ckpt\)"),
    "DeepSpeed": ({"latest": "", "global_step10/mp_rank_00_model_states.pt": ""}, r"DeepSpeed.*zero_to_fp32\.py"),
    "DeepSpeed's script": ({"zero_to_fp32.py": "", "config.json": "{}"}, "DeepSpeed"),
    "inside DeepSpeed": ({"mp_rank_00_model_states.pt": ""}, "DeepSpeed"),
    "FSDP": ({"pytorch_model_fsdp_0/__0_0.distcp": ""}, "FSDP.*accelerate merge-weights"),
    "DCP": ({".metadata": "", "__0_0.distcp": ""}, "FSDP"),
    "shards without index": ({"config.json": "{}", "model-00001-of-00002.safetensors": ""}, "shards without"),
    "missing shard": (
        {
            "config.json": '{"model_type": "gr00t_n1"}',
            "experiment_cfg/metadata.json": "{}",
            "model.safetensors.index.json": INDEX,
        },
        "2 of 2 weight files are missing|00001-of-00002.safetensors: missing",
    ),
    "other name": ({"policy.safetensors": ""}, "safetensors files of other names.*rename"),
    "TensorRT": ({"dit.engine": ""}, "TensorRT engines"),
    "ONNX": ({"dit.onnx": "", "dit.onnx.data": ""}, "ONNX export"),
    "GGUF": ({"model.gguf": ""}, "GGUF"),
    "JAX": ({"_CHECKPOINT_METADATA": ""}, "JAX or TensorFlow"),
    "optimizer": (
        {"optimizer.pt": "", "scheduler.pt": "", "rng_state.pth": ""},
        "state of an optimizer, but no weights",
    ),
    "run of the trainer": (
        {f"checkpoint-{n}/{name}": "{}" for n in (500, 1000) for name in ("config.json", "model.safetensors")},
        r"sub-folders: checkpoint-500, checkpoint-1000; choose one, as in .*/checkpoint-1000 *$",
    ),
    "dataset": ({"meta/info.json": "{}", "data/x.parquet": ""}, r"is a dataset \(meta/info\.json\)"),
    "bag": ({"metadata.yaml": "", "a_0.mcap": ""}, "found a bag"),
    "cache": ({"refs/main": "x", "blobs/x": "", "snapshots/x/README.md": ""}, "hub's cache"),
    "archive": ({"checkpoint.tar": ""}, "an archive"),
    "nothing": ({}, r"has no config\.json, is not a checkpoint"),
    "pointer": ({"config.json": POINTER, "model.safetensors": POINTER}, "Git LFS pointer.*git lfs pull"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
def test_other_folders_are_named_with_the_way_out(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, message = CASES[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
    assert main([command, str(folder), *([str(tmp_path / "out")] if command == "convert" else [])]) in (1, 2)
    printed = capsys.readouterr()
    words = (printed.err or printed.out).replace("\n", " ")
    assert re.search(message, words), words
    assert len(printed.err.splitlines()) <= 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "is a file, expected the folder of a checkpoint; pass its folder"),
        ("dit.onnx", r"is a file \(an ONNX export\), expected the folder"),
        ("last.ckpt", r"is a file \(pickled weights"),
    ],
)
def test_a_file_is_named(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).touch()
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert re.search(message, capsys.readouterr().err)
