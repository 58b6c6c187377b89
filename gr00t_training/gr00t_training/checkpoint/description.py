# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Describe a checkpoint: everything except its weights, and the transforms that belong to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gr00t_training.checkpoint.fit import check_fit
from gr00t_training.checkpoint.tokenizer import find_tokenizer
from gr00t_training.checkpoint.widening import with_projectors, with_room, with_rows
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.families import ModelFamily, family, variants
from gr00t_training.transforms.images import ImageProcessor
from gr00t_training.transforms.pipeline import ModelInputs, Pipeline, Statistics
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.text import PromptTokenizer, shipped_tokenizer
from gr00t_training.upstream import options_for

_ONE_SCALING = "N1.6 and N1.7 have min_max or q99 for all embodiments: choose one"


class TrainedEmbodiment(NamedTuple):
    """An embodiment with the statistics of its data."""

    embodiment: Embodiment
    statistics: Statistics


@dataclass(frozen=True)
class Checkpoint:
    """Everything in a checkpoint except its weights."""

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
    stored_config: Gr00tConfig | None = None  # of the weights at `path`; None: `config`
    fresh_rows: tuple[int, ...] = ()  # of the embodiment-specific tables, for embodiments that `path` does not know
    others: tuple[TrainedEmbodiment, ...] = ()  # embodiments that were trained together with this one

    @property
    def family(self) -> ModelFamily:
        """Model family (release)."""
        return family(self.config.model_type)

    @property
    def denoising_steps(self) -> int:
        """Steps of the sampler: those of the release's scripts."""
        return self.family.denoising_steps or self.config.action_head.num_steps

    @property
    def is_widened(self) -> bool:
        """Whether the model has channels or embodiments that the weights at `path` do not have."""
        return bool(self.fresh_rows) or self.stored_config not in (None, self.config)

    @property
    def trained(self) -> tuple[TrainedEmbodiment, ...]:
        """This embodiment and those that were trained together with it."""
        return (TrainedEmbodiment(self.embodiment, self.statistics), *self.others)

    def of(self, tag: str) -> Checkpoint:
        """Return the same checkpoint with another of its trained embodiments; KeyError if there is none."""
        found = {trained.embodiment.tag: trained for trained in self.trained}
        chosen = found.pop(tag)
        return dataclasses.replace(self, **chosen._asdict(), others=tuple(found.values()))

    @property
    def projector(self) -> int:
        """Row of the embodiment-specific tables.

        Raises:
            CheckpointError: unknown tag.
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
            images=self._images(),
            image_token_id=backbone.image_token_id,
            vocab_size=backbone.language.vocab_size,
            state_dim=head.state_dim,
            num_states=head.state_history,
            action_dim=head.action_dim,
            action_horizon=head.action_horizon,
            num_projectors=head.num_embodiments,
            rules=self.family.rules(self.options),
        )
        tokenizer = PromptTokenizer.from_file(self.tokenizer, self.family.prompt)
        return Pipeline(self.embodiment, self.statistics, inputs, tokenizer, self.projector)

    def _images(self) -> ImageProcessor:
        try:
            return self.family.images(self.config, self.options, self.preprocessor)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path or 'model'}: {error}") from error


def new_checkpoint(
    variant: str,
    embodiment: Embodiment,
    statistics: Statistics,
    *,
    tokenizer: str | Path | None = None,
    others: Sequence[TrainedEmbodiment] = (),
) -> Checkpoint:
    """Describe a model to train from scratch; make its weights with `Gr00tModel(checkpoint.config)`.

    Args:
        variant: name in `gr00t_training.model.families.variants`.
        embodiment: to train for; its action horizon becomes the model's.
        statistics: of the dataset.
        tokenizer: tokenizer.json or its folder; needed by variants that ship none.
        others: embodiments to train together with this one.

    Raises:
        ConfigError: no such variant, it cannot be made large enough, or the embodiments do not fit one model.
        CheckpointError: no tokenizer.
    """
    known = variants()
    if variant not in known:
        raise ConfigError(f"model variant '{variant}' is unknown, expected one of {', '.join(known)}")
    chosen = known[variant]
    if tokenizer is None and chosen.tokenizer:
        tokenizer = shipped_tokenizer(chosen.tokenizer)
    together = [TrainedEmbodiment(embodiment, statistics), *others]
    embodiments = [trained.embodiment for trained in together]
    tags = [trained.embodiment.tag for trained in together]
    options = family(chosen.config.model_type).released_options
    horizon = common_horizon(embodiments, is_padded=options is not None)
    projectors = with_projectors(chosen.projectors, tags, chosen.config.action_head.num_embodiments)
    try:
        config = with_rows(with_room(chosen.config, embodiments, horizon), projectors)
    except ValueError as error:
        raise ConfigError(f"model variant '{variant}': {error}") from error
    if options:
        head = config.action_head
        options = dataclasses.replace(
            common_options([trained.embodiment for trained in together], options),
            max_state_dim=head.state_dim,
            max_action_dim=head.action_dim,
            max_action_horizon=head.action_horizon,
        )
        for trained in together:
            check_fit(None, config, options, *trained)
    found = find_tokenizer(None, tokenizer, family(config.model_type).prompt)
    return Checkpoint(config, embodiment, statistics, found, projectors, options=options, others=tuple(together[1:]))


def common_horizon(embodiments: Sequence[Embodiment], *, is_padded: bool) -> int:
    """Return the action horizon of a model for several embodiments.

    Args:
        embodiments: to train together.
        is_padded: whether the model pads shorter ones (N1.6, N1.7).

    Raises:
        ConfigError: they differ and are not padded.
    """
    horizons = {embodiment.name: embodiment.action_horizon for embodiment in embodiments}
    if not is_padded and len(set(horizons.values())) > 1:
        found = ", ".join(f"{horizon} of '{name}'" for name, horizon in horizons.items())
        raise ConfigError(f"action_horizon is {found}; N1 and N1.5 have one for all embodiments: choose it")
    return max(horizons.values())


def common_options(embodiments: Sequence[Embodiment], base: ProcessorOptions) -> ProcessorOptions:
    """Return `base` with the options that must hold for all the embodiments (`options_for`).

    Raises:
        ConfigError: embodiments contradict each other or themselves.
    """
    options = base
    for embodiment in embodiments:
        options = options_for(embodiment, options)
    for embodiment in embodiments:
        if options_for(embodiment, options) != options:
            raise ConfigError(
                f"embodiments '{embodiment.name}' and '{embodiments[-1].name}' scale state and actions in different "
                f"ways; {_ONE_SCALING}"
            )
    return options
