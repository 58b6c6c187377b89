# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Observation (and, in training, actions) to the model's tensors, and predictions back to the robot's units.

Loader and policy use the same pipeline, so that a policy sees what was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ConfigError, ObservationError
from gr00t_training.transforms.images import draw_images, to_model_size, to_pixels
from gr00t_training.transforms.state_action import VectorTransform
from gr00t_training.transforms.text import PromptTokenizer, pad_left
from gr00t_training.types import Observation

DEFAULT_INSTRUCTION = "Perform the default behavior."  # of the release, when there is no instruction
Statistics = Mapping[str, Mapping[str, KeyStatistics]]  # "state" and "action" -> key -> statistics


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What a model expects of its inputs."""

    image_size: int  # side of the square image [px]
    num_image_tokens: int  # of the prompt, per image
    image_token_id: int
    vocab_size: int
    state_dim: int  # channels after padding
    action_dim: int  # channels after padding
    action_horizon: int  # ticks
    num_projectors: int  # rows of the embodiment-specific tables
    pixel_dtype: torch.dtype = torch.bfloat16  # that pixels are rounded to


class Pipeline:
    """The transforms of one embodiment for one model."""

    def __init__(
        self,
        embodiment: Embodiment,
        statistics: Statistics,
        inputs: ModelInputs,
        tokenizer: PromptTokenizer,
        projector: int,
    ) -> None:
        """Prepare the transforms.

        Args:
            embodiment: keys, order and normalisation.
            statistics: of the dataset that is or was trained on.
            inputs: of the model.
            tokenizer: of the model.
            projector: row of the model's embodiment-specific tables.

        Raises:
            ConfigError: embodiment, statistics and model do not fit each other.
            CheckpointError: the tokenizer is of another model.
        """
        if embodiment.action_horizon != inputs.action_horizon:
            raise ConfigError(
                f"embodiment '{embodiment.name}': action_horizon is {embodiment.action_horizon}, "
                f"the model's is {inputs.action_horizon}"
            )
        if not 0 <= projector < inputs.num_projectors:
            raise ConfigError(
                f"embodiment '{embodiment.name}': projector {projector}, the model has rows "
                f"0..{inputs.num_projectors - 1}"
            )
        if tokenizer.image_token_id != inputs.image_token_id or tokenizer.vocab_size > inputs.vocab_size:
            raise CheckpointError(
                f"tokenizer: {tokenizer.vocab_size} entries with image token {tokenizer.image_token_id}, the model "
                f"expects at most {inputs.vocab_size} with {inputs.image_token_id}; it is of another model"
            )
        self.embodiment = embodiment
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.projector = projector
        self.state = VectorTransform(
            "state", embodiment.state, embodiment.state_keys, statistics["state"], inputs.state_dim
        )
        self.action = VectorTransform(
            "action", embodiment.action, embodiment.action_keys, statistics["action"], inputs.action_dim
        )

    def encode(
        self,
        observation: Observation,
        actions: Mapping[str, np.ndarray] | None = None,
        rng: np.random.Generator | None = None,
        training: bool = False,
    ) -> dict[str, Tensor]:
        """Return the tensors of one sample, for `collate`.

        Args:
            observation: one time step.
            actions: key -> `(H, D)` targets in the robot's units; None when predicting.
            rng: source of the image augmentation; needed in training.
            training: whether images are augmented.

        Raises:
            ObservationError: an input is missing, malformed or not finite.
        """
        check_observation(observation, self.embodiment)
        if training and rng is None:
            raise ValueError("training draws random crops and colours; pass rng")
        draw = draw_images(rng) if training and rng is not None else None
        images = [observation.images[key][0] for key in self.embodiment.video_keys]
        frames = to_model_size(images, self.inputs.image_size, draw)
        text = observation.instruction or DEFAULT_INSTRUCTION
        try:
            state, state_mask = self.state.pad(self.state.forward(observation.state))
        except ValueError as error:  # names the key
            raise ObservationError(f"{error}; check the robot's message") from error
        sample = {
            "pixel_values": to_pixels(frames, self.inputs.pixel_dtype),
            "input_ids": torch.tensor(self.tokenizer.encode(text, len(images), self.inputs.num_image_tokens)),
            "state": torch.from_numpy(state).float(),
            "state_mask": torch.from_numpy(state_mask),
            "embodiment_id": torch.tensor(self.projector),
        }
        if actions is not None:
            action, action_mask = self.action.pad(self.action.forward(actions))
            sample["action"] = torch.from_numpy(action).float()
            sample["action_mask"] = torch.from_numpy(action_mask)
        return sample

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Join samples to a batch (`gr00t_training.model.gr00t`): images one after another, ids padded on the left."""
        batch = {key: torch.stack([s[key] for s in samples]) for key in samples[0] if key not in _RAGGED}
        batch["pixel_values"] = torch.cat([sample["pixel_values"] for sample in samples])
        rows = [sample["input_ids"].tolist() for sample in samples]
        batch["input_ids"], batch["attention_mask"] = pad_left(rows, self.tokenizer.pad_id)
        return batch

    def decode(self, action: Tensor) -> dict[str, np.ndarray]:
        """Return a prediction `(H, A)` as `{key: (H, D)}` float64 in the robot's units."""
        return self.action.inverse(action.double().cpu().numpy())


_RAGGED = ("pixel_values", "input_ids")


def check_observation(observation: Observation, embodiment: Embodiment) -> None:
    """Hold an observation against the embodiment.

    Raises:
        ObservationError: a key that the model uses is missing, has another shape or type, or is not finite.
    """
    for key in embodiment.video_keys:
        image, video = _input(observation.images, "video", key), embodiment.video[key]
        expected = (1, video.height, video.width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise ObservationError(
                f"video.{key}: {image.dtype} {image.shape}, embodiment '{embodiment.name}' expects uint8 {expected}; "
                "resize in the topic map or record again"
            )
    for key in embodiment.state_keys:
        value = _input(observation.state, "state", key)
        expected = (1, embodiment.state[key].dim)
        if value.shape != expected:
            raise ObservationError(
                f"state.{key}: shape {value.shape}, embodiment '{embodiment.name}' expects {expected}"
            )
        if not np.isfinite(value).all():
            raise ObservationError(f"state.{key}: {value.tolist()} has values that are not finite; check the sensor")


def _input(values: Mapping[str, np.ndarray], kind: str, key: str) -> np.ndarray:
    if key not in values:
        raise ObservationError(f"{kind}.{key}: missing, found {', '.join(values) or 'nothing'}; check the topic map")
    return np.asarray(values[key])
