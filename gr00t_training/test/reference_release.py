# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reads what the reference release computed, for the tests of both model families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import numpy as numpy_files
from safetensors.torch import load_file
from torch import Tensor, nn

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment, Normalization, Rotation, VectorKey, VideoKey
from gr00t_training.model.gr00t import Gr00tModel, family
from gr00t_training.model.weights import assign_weights
from gr00t_training.types import Observation


def load_tiny(tiny: Path, attention: str = "sdpa") -> Gr00tModel:
    model_json = json.loads((tiny / "config.json").read_text())
    kind = family(model_json["model_type"])
    config = kind.parse(model_json, json.loads((tiny / "eagle_config.json").read_text()))
    with torch.device("meta"):
        model = kind.model(config, attention=attention)
    assign_weights(model, load_file(tiny / "model.safetensors"), kind.names, "fixture")
    return model.eval()


def load_batch(tiny: Path, case: str) -> dict[str, Tensor]:
    tensors = load_file(tiny / "inputs.safetensors")
    return {key.removeprefix(f"{case}."): value for key, value in tensors.items() if key.startswith(f"{case}.")}


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
