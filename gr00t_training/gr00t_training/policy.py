# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that answers observations with action chunks. Not thread safe: one caller at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model
from gr00t_training.embodiment import Embodiment, Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.rotations import identity
from gr00t_training.types import ActionChunk, Observation

DEFAULT_DENOISING_STEPS = 4  # of the release's scripts; its published file says 16


class Policy:
    """Model and transforms of one embodiment."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Gr00tModel,
        *,
        denoising_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Join a checkpoint and its weights.

        Args:
            checkpoint: embodiment, statistics and configuration.
            model: weights, on the device that is to compute; put into evaluation mode.
            denoising_steps: of the sampler; None: 4.
            seed: of the noise; None: drawn anew by every policy.

        Raises:
            ConfigError: fewer than one denoising step, or the parts do not fit each other.
            CheckpointError: see `Checkpoint.pipeline`.
        """
        self.denoising_steps = DEFAULT_DENOISING_STEPS if denoising_steps is None else denoising_steps
        if self.denoising_steps < 1:
            raise ConfigError(f"denoising_steps is {denoising_steps}, expected at least 1")
        self.checkpoint = checkpoint
        self.model = model.eval()
        self.pipeline = checkpoint.pipeline()
        self._device = next(model.parameters()).device
        # noise is drawn on the CPU, so that a seed means the same on every device
        self._noise = torch.Generator()
        self._seed = self._noise.seed() if seed is None else seed
        self.reset()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        embodiment: Embodiment | None = None,
        device: str = "auto",
        denoising_steps: int | None = None,
        seed: int | None = None,
        dtype: torch.dtype | None = None,
        attention: str = "sdpa",
        tokenizer: str | Path | None = None,
    ) -> Policy:
        """Load a checkpoint.

        Args:
            path: folder of the checkpoint.
            embodiment: the robot at hand; held against the stored one. Needed for published folders.
            device: "cpu", "cuda", "cuda:1", or "auto": a GPU if there is one.
            denoising_steps: see `__init__`.
            seed: see `__init__`.
            dtype: of model and computation; None: bfloat16 on a GPU, float32 on the CPU.
            attention: kernel: sdpa, eager or flash.
            tokenizer: tokenizer.json or its folder, used when the checkpoint has none.

        Raises:
            CheckpointError: the folder is incomplete, damaged or of another embodiment.
            ConfigError: the device is not there, or an option is wrong.
        """
        place = choose_device(device)
        if dtype is None:
            dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        checkpoint = load_checkpoint(path, embodiment=embodiment, tokenizer=tokenizer)
        model = load_model(checkpoint, device=place, dtype=dtype, attention=attention)
        return cls(checkpoint, model, denoising_steps=denoising_steps, seed=seed)

    @property
    def embodiment(self) -> Embodiment:
        """The robot that the policy is for."""
        return self.checkpoint.embodiment

    def reset(self) -> None:
        """Start the noise from its seed again, so that an episode can be repeated exactly."""
        self._noise.manual_seed(self._seed)

    def warm_up(self) -> None:
        """Run one inference on a made-up observation, so that the first real one is not slow; noise is not used up."""
        state = self._noise.get_state()
        self.infer(_resting_observation(self.embodiment))
        self._noise.set_state(state)

    def infer(self, observation: Observation) -> ActionChunk:
        """Answer one observation.

        Raises:
            ObservationError: an input is missing, malformed or not finite; names key, found and expected.
        """
        return self.infer_batch([observation])[0]

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Answer several observations at once.

        Observations with instructions of different length influence each other a little: the action head attends to
        the padding of shorter prompts, in the released model too.

        Raises:
            ObservationError: as `infer`.
        """
        batch = self.pipeline.collate([self.pipeline.encode(observation) for observation in observations])
        self.model.check_batch(batch)
        head = self.checkpoint.config.action_head
        noise = torch.randn(
            (len(observations), head.action_horizon, head.action_dim), generator=self._noise, dtype=torch.float32
        )
        actions = self.model.sample_actions(
            {key: value.to(self._device) for key, value in batch.items()},
            noise.to(self._device),
            self.denoising_steps,
        ).cpu()
        step_ns = self.embodiment.step_ns
        return [
            ActionChunk(self.pipeline.decode(action), observation.stamp_ns, step_ns)
            for action, observation in zip(actions, observations, strict=True)
        ]


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" takes a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no CUDA GPU found, or PyTorch is built without CUDA")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}': not available ({str(error).splitlines()[0]}); use auto or cpu") from error
    return device


def _resting_observation(embodiment: Embodiment) -> Observation:
    def rest(key: VectorKey) -> np.ndarray:
        return np.zeros(key.dim) if key.rotation is None else identity(Rotation(key.rotation))

    return Observation(
        images={
            key: np.zeros((1, embodiment.video[key].height, embodiment.video[key].width, 3), np.uint8)
            for key in embodiment.video_keys
        },
        state={key: rest(embodiment.state[key])[None] for key in embodiment.state_keys},
        instruction="",
    )
