# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says beside its weights, and the transforms that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.files import PREPROCESSOR_FILE
from gr00t_training.checkpoint.fit import check_fit
from gr00t_training.checkpoint.processor import released_options
from gr00t_training.checkpoint.tokenizer import find_tokenizer
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.config import (
    N1_5_MODEL_TYPE,
    N1_6_MODEL_TYPE,
    N1_7_MODEL_TYPE,
    N1_MODEL_TYPE,
    VARIANTS,
    Gr00tConfig,
    with_horizon,
)
from gr00t_training.model.gr00t import family
from gr00t_training.published import options_for
from gr00t_training.transforms.images import EagleImages, ImageProcessor, QwenImages, SquareImages
from gr00t_training.transforms.pipeline import ModelInputs, Pipeline, Statistics
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.text import (
    N1_5_PROMPT,
    N1_6_PROMPT,
    N1_7_PROMPT,
    N1_PROMPT,
    PromptFormat,
    PromptTokenizer,
    shipped_tokenizer,
)

PROMPTS: Mapping[str, PromptFormat] = {
    N1_MODEL_TYPE: N1_PROMPT,
    N1_5_MODEL_TYPE: N1_5_PROMPT,
    N1_6_MODEL_TYPE: N1_6_PROMPT,
    N1_7_MODEL_TYPE: N1_7_PROMPT,
}


@dataclass(frozen=True)
class Checkpoint:
    """Everything of a checkpoint but its weights."""

    config: Gr00tConfig
    embodiment: Embodiment
    statistics: Statistics  # of the embodiment
    tokenizer: Path  # a tokenizer.json
    projectors: Mapping[str, int]  # embodiment tag -> row of the model's embodiment-specific tables
    metadata: Mapping[str, Any] = field(default_factory=dict)  # metadata.json or statistics.json as read, all tags
    versions: Mapping[str, Any] = field(default_factory=dict)  # that wrote the folder
    path: Path | None = None  # folder that holds the weights; None: not trained yet
    options: ProcessorOptions | None = None  # of the transforms of N1.6 and N1.7
    processor: Mapping[str, Any] = field(default_factory=dict)  # processor_config.json as read, all embodiment tags
    preprocessor: Mapping[str, Any] = field(default_factory=dict)  # backbone/preprocessor_config.json as read

    @property
    def projector(self) -> int:
        """Row of the embodiment-specific tables.

        Raises:
            CheckpointError: the model knows no such tag.
        """
        tag = self.embodiment.tag
        if tag not in self.projectors:
            raise CheckpointError(
                f"{self.path or 'model'}: no projector for embodiment tag '{tag}' of '{self.embodiment.name}', "
                f"known tags: {', '.join(self.projectors)}; set the embodiment's tag to one of them"
            )
        return self.projectors[tag]

    def pipeline(self) -> Pipeline:
        """Make the transforms that belong to the model.

        Raises:
            ConfigError: embodiment, statistics and model do not fit each other.
            CheckpointError: no projector for the embodiment, or a tokenizer of another model.
        """
        backbone, head = self.config.backbone, self.config.action_head
        inputs = ModelInputs(
            images=image_processor(self.config, self.options, self.preprocessor, self.path),
            image_token_id=backbone.image_token_id,
            vocab_size=backbone.language.vocab_size,
            state_dim=head.state_dim,
            num_states=head.state_history,
            action_dim=head.action_dim,
            action_horizon=head.action_horizon,
            num_projectors=head.num_embodiments,
            options=self.options,
        )
        tokenizer = PromptTokenizer.from_file(self.tokenizer, PROMPTS[self.config.model_type])
        return Pipeline(self.embodiment, self.statistics, inputs, tokenizer, self.projector)


def image_processor(
    config: Gr00tConfig,
    options: ProcessorOptions | None,
    preprocessor: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> ImageProcessor:
    """Return the image transforms of a model.

    Args:
        config: of the model.
        options: of the transforms of N1.6 and N1.7; None for N1 and N1.5.
        preprocessor: backbone/preprocessor_config.json of N1.7; None: limits of the release.
        path: names the checkpoint in errors.

    Raises:
        CheckpointError: limits that contradict each other.
        ConfigError: options that contradict each other.
    """
    if options is None:
        tokens = config.backbone.num_image_tokens
        return SquareImages(config.image_size, family(config.model_type).pixel_dtype, tokens=tokens)
    if config.model_type == N1_6_MODEL_TYPE:
        return EagleImages(options)
    return QwenImages(options, **_pixel_limits(preprocessor or {}, path))


def new_checkpoint(
    variant: str, embodiment: Embodiment, statistics: Statistics, *, tokenizer: str | Path | None = None
) -> Checkpoint:
    """Describe a model to train from scratch; make its weights with `Gr00tModel(checkpoint.config)`.

    Args:
        variant: name in `gr00t_training.model.config.VARIANTS`.
        embodiment: to train for; its action horizon becomes the model's.
        statistics: of the dataset.
        tokenizer: tokenizer.json or its folder; needed by variants that ship none.

    Raises:
        ConfigError: no such variant.
        CheckpointError: no tokenizer.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"model variant '{variant}' is unknown, expected one of {', '.join(VARIANTS)}")
    chosen = VARIANTS[variant]
    if tokenizer is None and chosen.tokenizer:
        tokenizer = shipped_tokenizer(chosen.tokenizer)
    config = with_horizon(chosen.config, embodiment.action_horizon)
    options = released_options(config.model_type)
    if options:
        head = config.action_head
        options = dataclasses.replace(
            options_for(embodiment, options),
            max_state_dim=head.state_dim,
            max_action_dim=head.action_dim,
            max_action_horizon=head.action_horizon,
        )
        check_fit(None, config, options, embodiment, statistics)
    found = find_tokenizer(None, tokenizer, PROMPTS[config.model_type])
    return Checkpoint(config, embodiment, statistics, found, chosen.projectors, options=options)


def _pixel_limits(preprocessor: Mapping[str, Any], path: Path | None) -> dict[str, int]:
    """Return the smallest and largest image [px] that the vision-language model's own image processor makes."""
    limits = {}
    for name, key in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        found = preprocessor.get(name, (preprocessor.get("size") or {}).get(key))  # the first: of older tools
        if found is None:
            continue
        if type(found) is not int or found < 1:
            raise CheckpointError(f"{path}/{PREPROCESSOR_FILE}: {name} is {found!r}, expected a number of pixels")
        limits[name] = found
    return limits
