# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Observation (and, in training, actions) to the model's tensors, and predictions back to the robot's units.

Loader and policy use the same pipeline, so that a policy sees what was trained on. A policy in a hurry takes the parts
of `encode` one by one: the prompt comes from a cache then, and images are scaled on the device.

Letters in shapes: V cameras, T ticks of the images or of the state, W the model's state channels, H its action ticks,
A its action channels.
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
from gr00t_training.transforms.images import ImageProcessor, draw_images
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.state_action import VectorTransform
from gr00t_training.transforms.text import PromptTokenizer, formalize, pad_left
from gr00t_training.types import Observation

DEFAULT_INSTRUCTION = "Perform the default behavior."  # of N1 and N1.5, when there is no instruction
SMALLEST_IMAGE_PX = 28  # side; less than one patch of N1.6 after merging
CACHED_PROMPTS = 256  # a robot has a few, a dataset as many as tasks
Statistics = Mapping[str, Mapping[str, KeyStatistics]]  # "state", "action", "relative_action" -> key -> statistics


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What a model expects of its inputs."""

    images: ImageProcessor
    image_token_id: int
    vocab_size: int
    state_dim: int  # channels after padding
    num_states: int | None = 1  # rows of the state; None: any
    action_dim: int  # channels after padding
    action_horizon: int  # ticks after padding
    num_projectors: int  # rows of the embodiment-specific tables
    options: ProcessorOptions | None = None  # of N1.6 and N1.7; None: the rules of N1 and N1.5


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
            embodiment: keys, order, history and normalisation.
            statistics: of the dataset that is or was trained on.
            inputs: of the model.
            tokenizer: of the model.
            projector: row of the model's embodiment-specific tables.

        Raises:
            ConfigError: embodiment, statistics and model do not fit each other.
            CheckpointError: the tokenizer is of another model.
        """
        _check_fit(embodiment, inputs, projector)
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
            "state",
            embodiment.state,
            embodiment.state_keys,
            statistics["state"],
            inputs.state_dim,
            options=inputs.options,
        )
        self.action = VectorTransform(
            "action",
            embodiment.action,
            embodiment.action_keys,
            statistics["action"],
            inputs.action_dim,
            options=inputs.options,
            relative_statistics=statistics.get("relative_action"),
            horizon=embodiment.action_horizon,
            model_horizon=inputs.action_horizon,
        )
        self._prompts: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}

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
            actions: key -> `(T, D)` targets in the robot's units, T the embodiment's horizon; None when predicting.
            rng: source of the image augmentation and the state's dropout; needed in training.
            training: whether images are augmented and states dropped.

        Raises:
            ObservationError: an input is missing, malformed or not finite.
        """
        if training and rng is None:
            raise ValueError("training draws random crops and colours; pass rng")
        images = self.images(observation)
        state, state_mask = self.vectors(observation)
        processor, options = self.inputs.images, self.inputs.options
        draw = draw_images(rng) if training and rng is not None else None
        pixels, grid = processor.pixels(processor.frames(images, draw))
        if training and rng is not None and options and rng.random() < options.state_dropout_prob:
            state = torch.zeros_like(state)
        counts = tuple(processor.num_tokens(*image.shape[:2]) for image in images)
        sample = {
            "pixel_values": pixels,
            "input_ids": torch.tensor(self.prompt(observation.instruction, counts)),
            "state": state,
            "state_mask": state_mask,
            "embodiment_id": torch.tensor(self.projector),
        }
        if grid is not None:
            sample["image_grid"] = grid
        if actions is not None:
            action, action_mask = self.action.pad(self._scaled(actions, observation))
            sample["action"], sample["action_mask"] = torch.from_numpy(action).float(), torch.from_numpy(action_mask)
        return sample

    def images(self, observation: Observation) -> list[np.ndarray]:
        """Return the images `(H, W, 3)` uint8 in the model's order: tick by tick, oldest first, camera by camera.

        Raises:
            ObservationError: a camera is missing, or its images have another shape or type.
        """
        _check_images(observation, self.embodiment)
        ticks = range(len(self.embodiment.video_history))
        return [observation.images[key][tick] for tick in ticks for key in self.embodiment.video_keys]

    def vectors(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return the state `(T, W)` float32 and which of its channels are real `(T, W)` bool.

        Raises:
            ObservationError: a key is missing, or has another shape or values that are not finite.
        """
        _check_state(observation, self.embodiment)
        try:
            state, mask = self.state.pad(self.state.forward(observation.state))
        except ValueError as error:  # names the key
            raise ObservationError(f"{error}; check the robot's message") from error
        if self.inputs.options and self.inputs.options.exclude_state:
            state[:] = 0
        return torch.from_numpy(state).float(), torch.from_numpy(mask)

    def prompt(self, instruction: str, tokens_per_image: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of a prompt.

        Args:
            instruction: what the robot is to do; N1 and N1.5 have a default for none.
            tokens_per_image: in the order of `images` (`ImageProcessor.num_tokens`).

        Raises:
            ObservationError: the instruction contains a token that stands for an image.
        """
        asked = (instruction, tokens_per_image)
        ids = self._prompts.get(asked)
        if ids is None:
            options = self.inputs.options
            if options is None:
                text = instruction or DEFAULT_INSTRUCTION
            else:
                text = formalize(instruction) if options.formalize_language else instruction
            if len(self._prompts) == CACHED_PROMPTS:
                self._prompts.clear()
            ids = self._prompts[asked] = tuple(self.tokenizer.encode(text, tokens_per_image))
        return ids

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Join samples to a batch (`gr00t_training.model.gr00t`): images one after another, ids padded on the left.

        Samples may be those of other embodiments, made by pipelines of the same model.
        """
        batch = {key: torch.stack([s[key] for s in samples]) for key in samples[0] if key not in _RAGGED}
        for key in ("pixel_values", "image_grid"):
            if key in samples[0]:
                batch[key] = torch.cat([sample[key] for sample in samples])
        rows = [sample["input_ids"].tolist() for sample in samples]
        batch["input_ids"], batch["attention_mask"] = pad_left(rows, self.tokenizer.pad_id)
        return batch

    def decode(self, action: Tensor, observation: Observation) -> dict[str, np.ndarray]:
        """Return a prediction `(H, A)` as `{key: (T, D)}` float64 in the robot's units, T the embodiment's horizon.

        Args:
            action: of the model.
            observation: that it answers; relative actions count from its newest state.

        Raises:
            ObservationError: the state that actions count from is missing, or is no rotation.
        """
        try:
            return self.action.inverse(action.double().cpu().numpy(), self._references(observation))
        except ValueError as error:  # names the key
            raise ObservationError(f"{error}; check the robot's message") from error

    def encode_actions(self, actions: Mapping[str, np.ndarray], observation: Observation) -> Tensor:
        """Return actions as the model would predict them at an observation, `(T, A)` float32.

        This is how what is left of an older chunk becomes the start of the next one: row 0 is due at the observation,
        and relative actions are counted anew from its newest state.

        Args:
            actions: key -> `(T, D)` in the robot's units, T at most the embodiment's horizon.
            observation: that the model is asked about.

        Raises:
            ObservationError: as `decode`.
        """
        scaled = self._scaled(actions, observation)
        padded, _ = self.action.pad(scaled)
        return torch.from_numpy(padded[: len(scaled)]).float()

    def _scaled(self, actions: Mapping[str, np.ndarray], observation: Observation) -> np.ndarray:
        try:
            return self.action.forward(actions, self._references(observation))
        except ValueError as error:  # names the key
            raise ObservationError(f"{error}; check the rows") from error

    def _references(self, observation: Observation) -> dict[str, np.ndarray]:
        """Return the newest raw row `(D,)` of each state key that actions count from."""
        return {key: _input(observation.state, "state", key)[-1] for key in self.action.reference_keys}


_RAGGED = ("pixel_values", "image_grid", "input_ids")


def check_observation(observation: Observation, embodiment: Embodiment) -> None:
    """Hold an observation against the embodiment.

    Raises:
        ObservationError: a key that the model uses is missing, has another shape or type, or is not finite.
    """
    _check_images(observation, embodiment)
    _check_state(observation, embodiment)


def _check_images(observation: Observation, embodiment: Embodiment) -> None:
    num_ticks = len(embodiment.video_history)
    for key in embodiment.video_keys:
        images, video = _input(observation.images, "video", key), embodiment.video[key]
        height, width = images.shape[1:3] if video.is_any_size and images.ndim == 4 else (video.height, video.width)
        expected = (num_ticks, height, width, 3)
        if images.shape != expected or images.dtype != np.uint8:
            wanted = f"({num_ticks}, any height, any width, 3)" if video.is_any_size else expected
            raise ObservationError(
                f"video.{key}: {images.dtype} {images.shape}, embodiment '{embodiment.name}' expects uint8 {wanted}; "
                "resize in the topic map or record again"
            )
        if video.is_any_size and min(height, width) < SMALLEST_IMAGE_PX:
            raise ObservationError(
                f"video.{key}: images of {width}x{height}, expected sides of at least {SMALLEST_IMAGE_PX} px"
            )


def _check_state(observation: Observation, embodiment: Embodiment) -> None:
    for key in embodiment.state_keys:
        value = _input(observation.state, "state", key)
        expected = (len(embodiment.state_history), embodiment.state[key].dim)
        if value.shape != expected:
            raise ObservationError(
                f"state.{key}: shape {value.shape}, embodiment '{embodiment.name}' expects {expected}"
            )
        if not np.isfinite(value).all():
            raise ObservationError(f"state.{key}: {value.tolist()} has values that are not finite; check the sensor")


def _check_fit(embodiment: Embodiment, inputs: ModelInputs, projector: int) -> None:
    name, horizon = embodiment.name, embodiment.action_horizon
    if horizon > inputs.action_horizon or (inputs.options is None and horizon != inputs.action_horizon):
        raise ConfigError(
            f"embodiment '{name}': action_horizon is {horizon}, the model's is "
            f"{'at most ' if inputs.options else ''}{inputs.action_horizon}"
        )
    if inputs.options is None and embodiment.video_history != (0,):
        raise ConfigError(
            f"embodiment '{name}': video_history is {list(embodiment.video_history)}, the model sees the newest "
            "images only; leave it out"
        )
    if inputs.num_states is not None and len(embodiment.state_history) != inputs.num_states:
        raise ConfigError(
            f"embodiment '{name}': state_history is {list(embodiment.state_history)}, the model takes "
            f"{inputs.num_states} rows of the state"
        )
    for key in embodiment.action_keys:
        reference = embodiment.action[key].relative_to
        if reference is not None and reference not in embodiment.state_keys:
            raise ConfigError(
                f"embodiment '{name}': action.{key} counts from state.{reference}, which the model does not use "
                f"({', '.join(embodiment.state_keys)}); add it to model.state"
            )
    if not 0 <= projector < inputs.num_projectors:
        raise ConfigError(
            f"embodiment '{name}': projector {projector}, the model has rows 0..{inputs.num_projectors - 1}"
        )


def _input(values: Mapping[str, np.ndarray], kind: str, key: str) -> np.ndarray:
    if key not in values:
        raise ObservationError(f"{kind}.{key}: missing, found {', '.join(values) or 'nothing'}; check the topic map")
    return np.asarray(values[key])
