# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reads what the reference releases computed, for the tests of all model families."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import numpy as numpy_files
from safetensors.torch import load_file
from torch import Tensor, nn

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, Normalization, Rotation, VectorKey, VideoKey
from gr00t_training.model.families import family
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.weight_names import assign_weights
from gr00t_training.types import Observation


def load_tiny(tiny: Path, attention: str = "sdpa") -> Gr00tModel:
    model_json = json.loads((tiny / "config.json").read_text())
    kind = family(model_json["model_type"])
    config = kind.parse(model_json, json.loads((tiny / kind.vlm_file).read_text()))
    with torch.device("meta"):
        model = Gr00tModel(config, attention=attention)
    assign_weights(model, load_file(tiny / "model.safetensors"), kind.names, "fixture")
    return model.eval()


def load_batch(tiny: Path, case: str) -> dict[str, Tensor]:
    tensors = load_file(tiny / "inputs.safetensors")
    return {key.removeprefix(f"{case}."): value for key, value in tensors.items() if key.startswith(f"{case}.")}


def load_packed(tiny: Path) -> dict[str, Tensor]:
    """Read the batch of N1.6 or N1.7 in the form that our pipeline makes."""
    tensors = load_file(tiny / "inputs.safetensors")
    if "image_grid_thw" in tensors:
        tensors["image_grid"] = tensors.pop("image_grid_thw")[:, 1:]
        return tensors
    tensors.pop("image_sizes")
    images = [tensors.pop(key) for key in sorted(tensors) if key.startswith("pixel_values.")]
    packed = [pack(image[0]) for image in images]
    tensors["pixel_values"] = torch.cat([patches for patches, _ in packed])
    tensors["image_grid"] = torch.tensor([grid for _, grid in packed])
    return tensors


def pack(image: Tensor, side: int = 14) -> tuple[Tensor, tuple[int, int]]:
    """Return the patches of an image `(3, H, W)` row by row, each as row, column, channel; and rows and columns."""
    rows, columns = image.shape[1] // side, image.shape[2] // side
    patches = image.reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0)
    return patches.reshape(rows * columns, side * side * 3), (rows, columns)


def one_sample(batch: Mapping[str, Tensor], index: int, num_images: Sequence[int]) -> dict[str, Tensor]:
    """Cut a sample out of a packed batch, without its padding; `num_images` is of every sample."""
    sizes = batch["image_grid"].prod(1).tolist()  # patches per image
    first = sum(num_images[:index])
    images = slice(first, first + num_images[index])
    patches = slice(sum(sizes[: images.start]), sum(sizes[: images.stop]))
    is_token = batch["attention_mask"][index].bool()
    cut = {key: batch[key][index : index + 1] for key in batch if key not in ("pixel_values", "image_grid")}
    cut |= {key: cut[key][:, is_token] for key in ("input_ids", "attention_mask")}
    return cut | {"pixel_values": batch["pixel_values"][patches], "image_grid": batch["image_grid"][images]}


def sampler_steps(model: Gr00tModel, batch: Mapping[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
    """Return what N1.6's or N1.7's sampler sees and makes, under the names of the reference's file."""
    head, num_samples = model.action_head, len(noise)
    encoded, decoded = record_calls(head.action_encoder), record_calls(head.action_decoder)
    timed, passed = record_calls(head.dit.timestep), record_calls(head.dit)
    blocks = [record_calls(block) for block in head.dit.blocks]
    found = {"action_pred": model.sample_actions(batch, noise)}
    bucket, code = timed[0]
    for k, ((actions, _), (_, velocity)) in enumerate(zip(encoded, decoded, strict=True)):
        found[f"denoise.{k}.actions_in"], found[f"denoise.{k}.velocity"] = actions, velocity
        found[f"denoise.{k}.timestep"] = bucket[k : k + 1].expand(num_samples)
        found[f"denoise.{k}.temb"] = code[k : k + 1].expand(num_samples, -1)
    found["denoise.0.action_features_before_pos"] = encoded[0][1]
    found["denoise.0.dit_out"] = passed[0][1]
    return found | {f"denoise.0.block.{i}": calls[0][1] for i, calls in enumerate(blocks)}


def training_values(
    model: Gr00tModel, batch: Mapping[str, Tensor], noise: Mapping[str, Tensor], drops_state: Tensor | None = None
) -> dict[str, Tensor]:
    """Return N1.6's or N1.7's loss and what leads to it, under the names of the reference's file."""
    head = model.action_head
    encoded, decoded, timed = (
        record_calls(module) for module in (head.action_encoder, head.action_decoder, head.dit.timestep)
    )
    loss = model.loss(batch, noise["train_noise"], noise["train_t"], drops_state)
    error = (decoded[0][1] - (batch["action"] - noise["train_noise"])) ** 2
    return {
        "train.loss": loss[None],
        "train.action_loss": error * batch["action_mask"],
        "train.noisy_trajectory": encoded[0][0],
        "train.t_discretized": timed[0][0],
    }


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value."""
    assert found.shape == expected.shape
    return float((found.detach() - expected).abs().max() / expected.abs().max())


def contains(written: Any, read: Any) -> bool:
    """Whether nothing that was read is lost or changed."""
    if isinstance(read, dict):
        return all(key in written and contains(written[key], value) for key, value in read.items())
    return written == read


def record(module: nn.Module, into: dict[str, Tensor], name: str) -> None:
    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        into[name] = output

    module.register_forward_hook(keep)


def record_calls(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return a list that gets the first input and the output of every call."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        calls.append((inputs[0], output))

    module.register_forward_hook(keep)
    return calls


def structure(names: list[str]) -> list[tuple[str, int]]:
    """Special tokens with their run lengths; runs of text count as one."""
    return [(name, 1 if name == "text" else len(list(run))) for name, run in groupby(names)]


@dataclass(frozen=True)
class Reference:
    """One data configuration of the release with its inputs and results."""

    embodiment: Embodiment
    statistics: dict[str, dict[str, KeyStatistics]]
    described: Mapping[str, Any]  # info.json
    raw: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]

    @property
    def projector(self) -> int:
        return self.described["embodiment_id"]

    def observation(self, mode: str) -> Observation:
        images = {key: self.raw[f"eval.video.{key}"] for key in self.embodiment.video}
        return Observation(images, self.vectors(mode, "state"), self.described["language"])

    def vectors(self, mode: str, kind: str) -> dict[str, np.ndarray]:
        return {key: self.raw[f"{mode}.{kind}.{key}"] for key in getattr(self.embodiment, kind)}


def load_reference(folder: Path, config: Mapping[str, Any]) -> Reference:
    """Read the folder of one data configuration; `config` is the release's own description of it."""
    described = json.loads((folder / "info.json").read_text())
    ((tag, metadata),) = json.loads((folder / "metadata.json").read_text()).items()
    modes, targets = {}, {}
    for transform in config["transforms"]:
        modes |= transform.get("normalization_modes", {})
        targets |= transform.get("target_rotations", {})
        if transform["name"] == "StateActionSinCosTransform":
            modes |= dict.fromkeys(transform["apply_to"], "sin_cos")

    def vectors(kind: str) -> dict[str, VectorKey]:
        keys = {}
        for full in described[f"{kind}_keys"]:
            name = full.split(".", 1)[1]
            modality = metadata["modalities"][kind][name]
            form = modality["rotation_type"]
            keys[name] = VectorKey(
                names=tuple(f"{name}_{i}" for i in range(modality["shape"][0])),
                normalization=Normalization(modes[full]) if full in modes else None,
                rotation=Rotation(form) if form else None,
                target_rotation=Rotation(targets[full]) if full in targets else None,
                is_absolute=modality["absolute"],
            )
        return keys

    video = {full.split(".", 1)[1]: VideoKey(height=120, width=160) for full in described["video_keys"]}
    embodiment = Embodiment(
        name=folder.name, tag=tag, fps=20, state=vectors("state"), action=vectors("action"), video=video
    )
    statistics = {
        kind: {name: KeyStatistics.from_mapping(lists, name) for name, lists in metadata["statistics"][kind].items()}
        for kind in ("state", "action")
    }
    raw = numpy_files.load_file(folder / "raw.safetensors")
    return Reference(embodiment, statistics, described, raw, numpy_files.load_file(folder / "expected.safetensors"))
