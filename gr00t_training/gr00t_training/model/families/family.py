# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the library decides by the release of a model; one object per release.

Nothing else asks which release a checkpoint is of: it asks the family, or a setting of the checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.weight_names import NameTable
from gr00t_training.transforms.images import ImageProcessor
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.rules import InputRules
from gr00t_training.transforms.text import PromptFormat


@dataclass(frozen=True)
class Variant:
    """A model that can be made from scratch."""

    config: Gr00tConfig
    projectors: Mapping[str, int]  # embodiment tag -> row of the embodiment-specific tables
    tokenizer: str | None = None  # folder under `tokenizers/` that holds its tokenizer.json; None: not shipped


@dataclass(frozen=True, kw_only=True)
class ProcessorFormat:
    """Form of `processor_config.json`."""

    processor_class: str
    defaults: ProcessorOptions  # of the release's constructor, where a file has no value
    options: tuple[str, ...]  # that the constructor knows, in the order of the file
    released: ProcessorOptions  # of the published base checkpoint
    extra: Mapping[str, Any] = field(default_factory=dict)  # options without effect that the constructor knows too


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """All checkpoints of one release; `config.json` names it by `model_type`."""

    release: Gr00tConfig  # of the published base checkpoint; holds `model_type`
    projectors: Mapping[str, int]  # embodiment tag -> row, where the folder has no embodiment_id.json
    variants: Mapping[str, Variant]  # models that can be made from scratch, by name
    tag_names: Mapping[str, str] = field(default_factory=dict)  # public name -> embodiment tag, where they differ
    # config.json and the content of `vlm_file` (None: those of the release) to a configuration, and back
    parse: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Gr00tConfig]
    dump: Callable[[Gr00tConfig], tuple[dict[str, Any], dict[str, Any]]]
    vlm_file: str  # sizes of the vision-language model in a checkpoint's folder; published folders have none
    omits_released_sizes: bool = False  # `vlm_file` is not written where its sizes are those of the release
    names: NameTable  # of the weights
    prompt: PromptFormat
    # None: the folder describes embodiments in metadata.json, scaling by the name of a data configuration
    processor: ProcessorFormat | None = None
    # configuration, options and backbone/preprocessor_config.json of a checkpoint to its image transforms;
    # raises CheckpointError or ConfigError where they contradict each other
    images: Callable[[Gr00tConfig, ProcessorOptions | None, Mapping[str, Any]], ImageProcessor]
    rules: Callable[[ProcessorOptions | None], InputRules]  # from the options of a checkpoint
    finetuned_state_dropout: float | None = None  # of the release's fine-tuning; None: that of the base checkpoint
    denoising_steps: int | None = None  # of the release's scripts; None: as in config.json
    wire: str  # form of the messages of the release's clients: a value of `gr00t_training.serve.wire.Wire`

    @property
    def name(self) -> str:
        """Name for messages and reports."""
        return self.prompt.model

    @property
    def model_type(self) -> str:
        """Name of the family in `config.json`."""
        return self.release.model_type

    @property
    def released_options(self) -> ProcessorOptions | None:
        """Options of the transforms of the published base checkpoint; None: the family has no options."""
        return self.processor.released if self.processor else None
