# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert observations (and, in training, actions) to the model's tensors, and predictions to the robot's units.

Loader and policy use the same pipeline, so that a policy sees what was trained on. The policy's engine calls the parts
of `encode` one by one: prompts are cached, and images are scaled on the device.

Letters in shapes: V cameras, T ticks of the images or of the state, W the model's state channels, H its action ticks,
A its action channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ConfigError, ObservationError
from gr00t_training.transforms.device_augmentation import draw_numbers
from gr00t_training.transforms.images import ImageDraw, ImageProcessor, draw_images
from gr00t_training.transforms.resampling import Size
from gr00t_training.transforms.rules import InputRules
from gr00t_training.transforms.state_action import VectorTransform
from gr00t_training.transforms.text import PromptTokenizer, formalize, pad_left
from gr00t_training.types import KeyKind, KeyRef, Observation

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
    rules: InputRules


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
            embodiment: keys, order, history and normalization.
            statistics: of the dataset that is or was trained on.
            inputs: of the model.
            tokenizer: of the model.
            projector: row of the model's embodiment-specific tables.

        Raises:
            ConfigError: embodiment, statistics and model do not fit each other.
            CheckpointError: the tokenizer belongs to another model.
        """
        _check_fit(embodiment, inputs, projector)
        if tokenizer.image_token_id != inputs.image_token_id or tokenizer.vocab_size > inputs.vocab_size:
            raise CheckpointError(
                f"tokenizer: {tokenizer.vocab_size} entries with image token {tokenizer.image_token_id}, the model "
                f"expects at most {inputs.vocab_size} with {inputs.image_token_id}; it belongs to another model"
            )
        self.embodiment = embodiment
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.projector = projector
        self.state = VectorTransform(
            KeyKind.STATE,
            embodiment.state,
            embodiment.state_keys,
            statistics["state"],
            inputs.state_dim,
            rules=inputs.rules.state,
        )
        self.action = VectorTransform(
            KeyKind.ACTION,
            embodiment.action,
            embodiment.action_keys,
            statistics["action"],
            inputs.action_dim,
            rules=inputs.rules.action,
            relative_statistics=statistics.get("relative_action"),
            horizon=embodiment.action_horizon,
            model_horizon=inputs.action_horizon,
        )
        self.takes_stored_images = False  # images may come from a cache, in the size of `ImageProcessor.stored_size`
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
            actions: key -> `(T, D)` targets in the robot's units, T the embodiment's horizon; None if predicting.
            rng: source of the image augmentation and the state's dropout; needed in training.
            training: whether images are augmented and states dropped.

        Raises:
            ObservationError: an input is missing, malformed or not finite.
        """
        if training and rng is None:
            raise ValueError("training draws random crops and colors; pass rng")
        draw = draw_images(rng) if training and rng is not None else None
        sample, prompt = self.encode_images(observation, draw)
        return sample | self.encode_vectors(observation, prompt, actions, rng if training else None)

    def encode_images(
        self, observation: Observation, draw: ImageDraw | None
    ) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Return the tensors of the images of one sample, and the ids of its prompt.

        Args:
            observation: one time step.
            draw: random choices for training; None: none.

        Raises:
            ObservationError: see `encode`.
        """
        images, processor = self.images(observation), self.inputs.images
        pixels, grid = processor.pixels(processor.frames(images, draw))
        counts = tuple(processor.num_tokens(*image.shape[:2]) for image in images)
        sample = {"pixel_values": pixels} if grid is None else {"pixel_values": pixels, "image_grid": grid}
        return sample, self.prompt(observation.instruction, counts)

    def encode_raw_images(
        self, observation: Observation, draw: ImageDraw | None, sizes: Sequence[Size]
    ) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Return the bytes of the images of one sample and its draw, for a device, and the ids of its prompt.

        Args:
            observation: one time step.
            draw: random choices for training; None: none.
            sizes: stored height and width of each image.

        Raises:
            ObservationError: see `encode`, and images of other sizes.
        """
        processor = self.inputs.images
        images = [processor.stored(image) for image in self.images(observation)]
        if [image.shape[:2] for image in images] != list(sizes):
            raise ObservationError(
                f"images of {[image.shape[:2] for image in images]} (height, width), expected {list(sizes)} as in "
                "meta/info.json; validate the dataset, or leave out --augment-on-gpu"
            )
        sample = {"images": torch.from_numpy(np.concatenate([image.reshape(-1) for image in images]))}
        if draw is not None:
            sample["draw"] = draw_numbers(draw)
        grid = processor.grids(sizes)
        if grid is not None:
            sample["image_grid"] = grid
        counts = tuple(processor.num_tokens(*size) for size in sizes)
        return sample, self.prompt(observation.instruction, counts)

    def encode_vectors(
        self,
        observation: Observation,
        prompt: Sequence[int],
        actions: Mapping[str, np.ndarray] | None,
        rng: np.random.Generator | None,
    ) -> dict[str, Tensor]:
        """Return the tensors of one sample except those of the images.

        Args:
            observation: one time step.
            prompt: its ids.
            actions: see `encode`.
            rng: source of the state's dropout; None: no state is dropped.

        Raises:
            ObservationError: see `encode`.
        """
        state, state_mask = self.vectors(observation)
        if rng is not None and rng.random() < self.inputs.rules.state_dropout:
            state = torch.zeros_like(state)
        sample = {
            "input_ids": torch.tensor(prompt),
            "state": state,
            "state_mask": state_mask,
            "embodiment_id": torch.tensor(self.projector),
        }
        if actions is not None:
            action, action_mask = self.action.pad(self._scaled(actions, observation))
            sample["action"], sample["action_mask"] = torch.from_numpy(action).float(), torch.from_numpy(action_mask)
        return sample

    def images(self, observation: Observation) -> list[np.ndarray]:
        """Return the images `(H, W, 3)` uint8 in the model's order: tick by tick, oldest first, camera by camera.

        Raises:
            ObservationError: a camera is missing, or its images have another shape or type.
        """
        _check_images(observation, self.embodiment, self.inputs.images if self.takes_stored_images else None)
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
        if self.inputs.rules.hides_state:
            state[:] = 0
        # NumPy keeps Python's lock over such small arrays; an operation of PyTorch would give it away and wait for it
        return torch.from_numpy(state.astype(np.float32)), torch.from_numpy(mask)

    def prompt(self, instruction: str, tokens_per_image: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of a prompt.

        Args:
            instruction: what the robot is to do; some families have a default for none.
            tokens_per_image: in the order of `images` (`ImageProcessor.num_tokens`).

        Raises:
            ObservationError: the instruction contains the token of an image.
        """
        asked = (instruction, tokens_per_image)
        ids = self._prompts.get(asked)
        if ids is None:
            rules = self.inputs.rules
            text = instruction or rules.default_instruction
            if rules.formalizes:
                text = formalize(text)
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

    def decode(self, action: Tensor | np.ndarray, observation: Observation) -> dict[str, np.ndarray]:
        """Return a prediction `(H, A)` as `{key: (T, D)}` float64 in the robot's units, T the embodiment's horizon.

        Args:
            action: of the model.
            observation: that it answers; relative actions count from its newest state.

        Raises:
            ObservationError: the state that actions count from is missing, or is not a rotation.
        """
        try:
            values = action.cpu().float().numpy() if isinstance(action, Tensor) else action
            return self.action.inverse(values.astype(np.float64), self._references(observation))
        except ValueError as error:  # names the key
            raise ObservationError(f"{error}; check the robot's message") from error

    def encode_actions(self, actions: Mapping[str, np.ndarray], observation: Observation) -> Tensor:
        """Return actions as the model would predict them at an observation, `(T, A)` float32.

        This is how what is left of an older chunk becomes the start of the next one: row 0 is due at the observation,
        and relative actions count from its newest state.

        Args:
            actions: key -> `(T, D)` in the robot's units, T at most the embodiment's horizon.
            observation: input of the model.

        Raises:
            ObservationError: as `decode`.
        """
        scaled = self._scaled(actions, observation)
        padded = np.zeros((len(scaled), self.action.width), np.float32)
        num = min(scaled.shape[-1], self.action.width)
        padded[:, :num] = scaled[:, :num]
        return torch.from_numpy(padded)

    def _scaled(self, actions: Mapping[str, np.ndarray], observation: Observation) -> np.ndarray:
        try:
            return self.action.forward(actions, self._references(observation))
        except ValueError as error:  # names the key
            raise ObservationError(f"{error}; check the rows") from error

    def _references(self, observation: Observation) -> dict[str, np.ndarray]:
        """Return the newest raw row `(D,)` of each state key that actions count from."""
        return {key: _input(observation.state, KeyKind.STATE, key)[-1] for key in self.action.reference_keys}


_RAGGED = ("pixel_values", "image_grid", "input_ids")


def _check_images(observation: Observation, embodiment: Embodiment, cached_by: ImageProcessor | None) -> None:
    num_ticks = len(embodiment.video_history)
    for key in embodiment.video_keys:
        images, video = _input(observation.images, KeyKind.VIDEO, key), embodiment.video[key]
        height, width = images.shape[1:3] if video.is_any_size and images.ndim == 4 else (video.height, video.width)
        expected = (num_ticks, height, width, 3)
        if cached_by and images.shape == (num_ticks, *cached_by.stored_size(height, width), 3):
            expected = images.shape
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
    num_rows = len(embodiment.state_history)
    for key in embodiment.state_keys:
        value = _input(observation.state, KeyKind.STATE, key)
        expected = (num_rows, embodiment.state[key].dim)
        if value.shape != expected:
            raise ObservationError(
                f"state.{key}: shape {value.shape}, embodiment '{embodiment.name}' expects {expected}"
            )
        if not np.isfinite(value).all():
            raise ObservationError(f"state.{key}: {value.tolist()} has values that are not finite; check the sensor")


def _check_fit(embodiment: Embodiment, inputs: ModelInputs, projector: int) -> None:
    name, horizon = embodiment.name, embodiment.action_horizon
    if horizon > inputs.action_horizon or (not inputs.rules.pads_actions and horizon != inputs.action_horizon):
        raise ConfigError(
            f"embodiment '{name}': action_horizon is {horizon}, the model's is "
            f"{'at most ' if inputs.rules.pads_actions else ''}{inputs.action_horizon}"
        )
    if not inputs.rules.takes_image_history and embodiment.video_history != (0,):
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


def _input(values: Mapping[str, np.ndarray], kind: KeyKind, key: str) -> np.ndarray:
    if key not in values:
        found = ", ".join(values) or "nothing"
        raise ObservationError(f"{KeyRef(kind, key)}: missing, found {found}; check the topic map")
    return np.asarray(values[key])
