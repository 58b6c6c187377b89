# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reads what the reference processors of N1.6 and N1.7 computed, and makes the pipelines that must do the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as numpy_files
from safetensors.torch import load_file
from torch import Tensor

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.transforms.images import ImageProcessor
from gr00t_training.transforms.pipeline import ModelInputs, Pipeline
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.text import PromptFormat, PromptTokenizer
from gr00t_training.types import Observation
from gr00t_training.upstream import embodiment_from_modality


@dataclass(frozen=True)
class ProcessorReference:
    """One tiny checkpoint with the samples that the release put through it."""

    folder: Path
    options: ProcessorOptions
    modalities: Mapping[str, Any]  # embodiment tag -> entry of modality_configs
    meta: Mapping[str, Any]  # meta.json
    raw: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    batch: Mapping[str, Tensor]
    predictions: Tensor  # (samples, H, A)

    @property
    def num_samples(self) -> int:
        return len(self.meta["samples"])

    def with_borders(self) -> ProcessorReference:
        """Put borders around images: the code that made the fixtures did so whatever its option said."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, letter_box_transform=True))

    def observation(self, sample: int) -> Observation:
        state = {key: value.astype(np.float64) for key, value in self.part(sample, "state").items()}
        return Observation(self.part(sample, "video"), state, self.meta["samples"][sample]["instruction"])

    def actions(self, sample: int) -> dict[str, np.ndarray]:
        return {key: value.astype(np.float64) for key, value in self.part(sample, "action").items()}

    def part(self, sample: int, kind: str) -> dict[str, np.ndarray]:
        prefix = f"s{sample}.{kind}."
        return {key.removeprefix(prefix): value for key, value in self.raw.items() if key.startswith(prefix)}

    def results(self, sample: int, name: str) -> dict[str, np.ndarray]:
        prefix = f"s{sample}.{name}."
        return {key.removeprefix(prefix): value for key, value in self.expected.items() if key.startswith(prefix)}

    def pipeline(
        self,
        sample: int,
        images: ImageProcessor,
        prompt_format: PromptFormat,
        *,
        options: ProcessorOptions | None = None,
        num_states: int | None = 1,
        **changes: Any,
    ) -> Pipeline:
        """Return the pipeline of a sample's embodiment; `changes` are settings of the embodiment."""
        tag = self.meta["samples"][sample]["embodiment_tag"]
        lists = json.loads((self.folder / "statistics.json").read_text())[tag]
        embodiment = embodiment_from_modality(tag, self.modalities[tag], self.options, lists, fps=15)
        statistics = {
            kind: {key: KeyStatistics.from_mapping(values, key) for key, values in keys.items()}
            for kind, keys in lists.items()
        }
        tokenizer = PromptTokenizer.from_file(self.folder / "backbone" / "tokenizer.json", prompt_format)
        inputs = ModelInputs(
            images=images,
            image_token_id=tokenizer.image_token_id,
            vocab_size=tokenizer.vocab_size,
            state_dim=self.options.max_state_dim,
            num_states=num_states,
            action_dim=self.options.max_action_dim,
            action_horizon=self.options.max_action_horizon,
            num_projectors=32,
            rules=N1_6.rules(options or self.options),  # N1.7 has the same
        )
        projector = json.loads((self.folder / "embodiment_id.json").read_text())[tag]
        return Pipeline(dataclasses.replace(embodiment, **changes), statistics, inputs, tokenizer, projector)


def load_processor(folder: Path) -> ProcessorReference:
    """Read a tiny checkpoint's folder."""
    settings = json.loads((folder / "processor_config.json").read_text())["processor_kwargs"]
    known = {field.name for field in dataclasses.fields(ProcessorOptions)}
    return ProcessorReference(
        folder=folder,
        options=ProcessorOptions(**{key: value for key, value in settings.items() if key in known}),
        modalities=settings["modality_configs"],
        meta=json.loads((folder / "meta.json").read_text()),
        raw=numpy_files.load_file(folder / "raw_samples.safetensors"),
        expected=numpy_files.load_file(folder / "processor_expected.safetensors"),
        batch=load_file(folder / "inputs.safetensors"),
        predictions=load_file(folder / "expected.safetensors")["action_pred"],
    )
