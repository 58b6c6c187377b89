# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that answers observations with action chunks. Not thread safe: one caller at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model
from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment, Rotation, VectorKey, VideoKey
from gr00t_training.engine import Engine, Request
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.left_over import corrected, rows_at
from gr00t_training.model.config import N1_MODEL_TYPE
from gr00t_training.model.gr00t import Gr00tModel, to_device
from gr00t_training.model.inference import InferenceModel
from gr00t_training.model.sampler import Inpainting
from gr00t_training.rotations import identity, identity_pose
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.transforms.text import pad_left
from gr00t_training.types import ActionChunk, Continuation, Observation

N1_DENOISING_STEPS = 4  # of the release's scripts; its published file says 16


class Policy:
    """Model and transforms of one embodiment."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Gr00tModel,
        *,
        denoising_steps: int | None = None,
        seed: int | None = None,
        uses_graphs: bool | None = None,
    ) -> None:
        """Join a checkpoint and its weights.

        Args:
            checkpoint: embodiment, statistics and configuration.
            model: weights, on the device that is to compute; taken over, and not to be trained any more.
            denoising_steps: of the sampler; None: those of the release.
            seed: of the noise; None: drawn anew by every policy.
            uses_graphs: whether the model runs as a captured CUDA graph; None: on a GPU.

        Raises:
            ConfigError: fewer than one denoising step, or the parts do not fit each other.
            CheckpointError: see `Checkpoint.pipeline`.
        """
        self.denoising_steps = _released_steps(checkpoint) if denoising_steps is None else denoising_steps
        if self.denoising_steps < 1:
            raise ConfigError(f"denoising_steps is {denoising_steps}, expected at least 1")
        self.checkpoint = checkpoint
        self.pipeline = checkpoint.pipeline()
        self._model = model
        inference = InferenceModel(model, checkpoint.projector, self.denoising_steps)
        self._engine = Engine(inference, self.pipeline.inputs.images, uses_graphs=uses_graphs)
        # noise is drawn on the CPU, so that a seed means the same on every device
        self._noise = torch.Generator()
        self._seed = self._noise.seed() if seed is None else seed
        self.reset()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        embodiment: Embodiment | str | None = None,
        *,
        device: str = "auto",
        denoising_steps: int | None = None,
        seed: int | None = None,
        dtype: torch.dtype | None = None,
        attention: str = "sdpa",
        tokenizer: str | Path | None = None,
        data_config: str | None = None,
        fps: int | None = None,
        uses_graphs: bool | None = None,
    ) -> Policy:
        """Load a checkpoint.

        Args:
            path: folder of the checkpoint, or its name on the hub.
            embodiment: the robot at hand, held against the stored one; or an embodiment tag of the checkpoint.
            device: "cpu", "cuda", "cuda:1", or "auto": a GPU if there is one.
            denoising_steps: see `__init__`.
            seed: see `__init__`.
            dtype: of model and computation; None: bfloat16 on a GPU, float32 on the CPU.
            attention: kernel: sdpa, eager or flash.
            tokenizer: tokenizer.json or its folder, used when the checkpoint has none.
            data_config: published choice of keys and scaling, with an embodiment tag of N1 or N1.5 that has several.
            fps: tick rate [Hz], with an embodiment tag of N1.6 or N1.7, whose files do not tell it.
            uses_graphs: see `__init__`.

        Raises:
            CheckpointError: the folder is incomplete, damaged or of another embodiment.
            ConfigError: the device is not there, or an option is wrong.
        """
        place = choose_device(device)
        if dtype is None:
            dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        checkpoint = load_checkpoint(path, embodiment=embodiment, tokenizer=tokenizer, data_config=data_config, fps=fps)
        if isinstance(embodiment, Embodiment):
            _check_described(checkpoint)
        model = load_model(checkpoint, device=place, dtype=dtype, attention=attention)
        return cls(checkpoint, model, denoising_steps=denoising_steps, seed=seed, uses_graphs=uses_graphs)

    @property
    def embodiment(self) -> Embodiment:
        """The robot that the policy is for."""
        return self.checkpoint.embodiment

    @property
    def statistics(self) -> Statistics:
        """What the model scales with; a policy server tells its clients a digest of it."""
        return self.checkpoint.statistics

    @property
    def state_statistics(self) -> Mapping[str, KeyStatistics]:
        """What training saw of the state, by key."""
        return self.statistics["state"]

    def reset(self) -> None:
        """Start the noise from its seed again, so that an episode can be repeated exactly."""
        self._noise.manual_seed(self._seed)

    def warm_up(self, instruction: str = "") -> None:
        """Run one inference on a made-up observation, so that the first real one is not slow; noise is not used up.

        Args:
            instruction: that the policy will be given; a prompt of another length is prepared anew when it comes.
        """
        state = self._noise.get_state()
        self.infer(_resting_observation(self.embodiment, instruction))
        self._noise.set_state(state)

    def infer(self, observation: Observation, continuation: Continuation | None = None) -> ActionChunk:
        """Answer one observation.

        Args:
            observation: what the robot sees, feels and is told.
            continuation: the chunk that it carries out now, for the answer to agree with.

        Raises:
            ObservationError: an input is missing, malformed or not finite; names key, found and expected.
        """
        return self.infer_batch([observation], [continuation])[0]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        continuations: Sequence[Continuation | None] | None = None,
        *,
        noise: np.ndarray | None = None,
    ) -> list[ActionChunk]:
        """Answer several observations at once.

        With N1, N1.5 and N1.7, observations with instructions of different length influence each other: the model
        attends to the padding of shorter prompts, in the release too.

        Args:
            observations: with cameras of equal sizes.
            continuations: one per observation; all with the same number of steps, or all None.
            noise: `(B, H, A)` start of the sampler, to compare with other implementations; None: drawn.

        Raises:
            ObservationError: as `infer`.
            ValueError: continuations differ in their steps, or noise has another shape.
        """
        started_s = time.perf_counter()
        horizon, channels = self.checkpoint.config.action_head.action_horizon, self.pipeline.inputs.action_dim
        shape = (len(observations), horizon, channels)
        if noise is None:
            start = torch.randn(shape, generator=self._noise, dtype=torch.float32)
        elif noise.shape == shape:
            start = torch.from_numpy(noise.astype(np.float32))
        else:
            raise ValueError(f"noise: shape {noise.shape}, expected {shape}")
        lefts = self._left_overs(observations, continuations)
        inpainting = self._inpainting(observations, continuations, lefts)
        if inpainting is not None and inpainting.guidance is not None:
            batch = self.pipeline.collate([self.pipeline.encode(observation) for observation in observations])
            prepared_s = time.perf_counter()
            actions = self._infer_guided(batch, start, inpainting)
        else:
            request = self._request(observations, start, inpainting)
            prepared_s = time.perf_counter()
            actions = torch.from_numpy(self._engine.run(request))
        decoded = [
            self.pipeline.decode(action, observation) for action, observation in zip(actions, observations, strict=True)
        ]
        if inpainting is not None:
            decoded = self._agreeing(observations, decoded, lefts, inpainting)
        timings_s = {"preprocess": prepared_s - started_s, "infer": time.perf_counter() - prepared_s}
        return [
            ActionChunk(rows, observation.stamp_ns, self.embodiment.step_ns, timings_s)
            for rows, observation in zip(decoded, observations, strict=True)
        ]

    def _request(
        self, observations: Sequence[Observation], noise: torch.Tensor, inpainting: Inpainting | None
    ) -> Request:
        images, rows = [], []
        for observation in observations:
            own = self.pipeline.images(observation)
            tokens = tuple(self.pipeline.inputs.images.num_tokens(*image.shape[:2]) for image in own)
            rows.append(self.pipeline.prompt(observation.instruction, tokens))
            images += own
        input_ids, attention_mask = pad_left(rows, self.pipeline.tokenizer.pad_id)
        start, strength = noise, torch.ones(noise.shape[1])
        if inpainting is not None:
            start = torch.cat([inpainting.actions, noise[:, inpainting.overlap :]], 1)
            strength = inpainting.strength(noise.shape[1])[:, 0]
        state = torch.stack([self.pipeline.vectors(observation)[0] for observation in observations])
        return Request(images, input_ids, attention_mask, state.numpy(), start.numpy(), strength.numpy())

    def _infer_guided(
        self, batch: dict[str, torch.Tensor], noise: torch.Tensor, inpainting: Inpainting
    ) -> torch.Tensor:
        """Sample with the layers that autograd can follow."""
        device = next(self._model.parameters()).device
        return self._model.sample_actions(
            to_device(batch, device), noise.to(device), self.denoising_steps, inpainting=inpainting
        ).cpu()

    def _left_overs(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None
    ) -> list[dict[str, np.ndarray]]:
        """Return what is left of the chunks to continue, in the robot's units; empty when there are none."""
        given = [continuation for continuation in continuations or () if continuation is not None]
        if given and len(given) != len(observations):
            raise ValueError(f"{len(given)} continuations for {len(observations)} observations, expected one for each")
        return [self._left_over(*pair) for pair in zip(observations, given, strict=False)]

    def _inpainting(
        self,
        observations: Sequence[Observation],
        continuations: Sequence[Continuation | None] | None,
        lefts: Sequence[dict[str, np.ndarray]],
    ) -> Inpainting | None:
        """Return the left-overs as the model sees them: relative actions are counted from the new state."""
        if not lefts:
            return None
        given = [continuation for continuation in continuations or () if continuation is not None]
        parts = [self.pipeline.encode_actions(*pair) for pair in zip(lefts, observations, strict=True)]
        options = {(len(part), c.frozen_steps, c.ramp_rate, c.guidance) for part, c in zip(parts, given, strict=True)}
        if len(options) > 1:
            raise ValueError(f"continuations of one batch differ in steps or options: {sorted(map(str, options))}")
        overlap, frozen_steps, ramp_rate, guidance = next(iter(options))
        if overlap == 0:  # nothing is left to agree with
            return None
        return Inpainting(torch.stack(parts), min(frozen_steps, overlap), ramp_rate, guidance)

    def _left_over(self, observation: Observation, continuation: Continuation) -> dict[str, np.ndarray]:
        """Return the rows of the earlier chunk from the observation on, key -> `(O, D)`."""
        chunk, horizon = continuation.chunk, self.embodiment.action_horizon
        first = (observation.stamp_ns - chunk.start_ns) / chunk.step_ns
        wanted = horizon if continuation.overlap_steps is None else min(continuation.overlap_steps, horizon)
        rows = first + np.arange(wanted)
        rows = rows[rows <= chunk.horizon - 1]
        keys = self.embodiment.action
        return {key: rows_at(keys[key], chunk.actions[key], rows) for key in self.embodiment.action_keys}

    def _agreeing(
        self,
        observations: Sequence[Observation],
        decoded: Sequence[dict[str, np.ndarray]],
        lefts: Sequence[dict[str, np.ndarray]],
        inpainting: Inpainting,
    ) -> list[dict[str, np.ndarray]]:
        """Return new actions, in the robot's units, that continue what is left even beyond the model's range."""
        horizon, keys = self.embodiment.action_horizon, self.embodiment.action
        kept = 1 - inpainting.strength(horizon) if inpainting.guidance is None else inpainting.pull(horizon)
        weights = kept[: inpainting.overlap, 0].double().numpy()
        told = [self.pipeline.decode(*pair) for pair in zip(inpainting.actions, observations, strict=True)]
        return [
            {key: corrected(keys[key], rows, was_told[key], left[key], weights) for key, rows in new.items()}
            for new, was_told, left in zip(decoded, told, lefts, strict=True)
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


def _check_described(checkpoint: Checkpoint) -> None:
    """Hold the robot's embodiment against what a published metadata.json says of its tag (N1, N1.5).

    Such a folder has no embodiment.json to compare with. It tells width, rotation form and kind of each key, size and
    rate of each camera; N1.6 and N1.7 are compared where the folder is read.

    Raises:
        CheckpointError: they contradict each other; names each item.
    """
    embodiment = checkpoint.embodiment
    told: Mapping[str, Any] = checkpoint.metadata.get(embodiment.tag, {}).get("modalities") or {}
    if checkpoint.options is not None or not told:
        return
    facts: list[tuple[str, Any, Any]] = []  # place, found, expected
    for kind in ("state", "action", "video"):
        keys, known = getattr(embodiment, f"{kind}_keys"), told.get(kind, {})
        if not set(keys) <= set(known):
            facts.append((f"{kind} keys", ", ".join(known) or "none", ", ".join(keys)))
        for key in [key for key in keys if key in known]:
            told_of = _described_video if kind == "video" else _described_vector
            facts += told_of(f"{kind}.{key}", known[key], getattr(embodiment, kind)[key], embodiment.fps)
    items = [f"{place}: found {found}, expected {expected}" for place, found, expected in facts if found != expected]
    if items:
        raise CheckpointError(
            f"{checkpoint.path}: was trained for another embodiment than '{embodiment.name}' (found: the "
            f"checkpoint's, expected: the one asked for): {'; '.join(items)}"
        )


def _described_vector(place: str, told: Mapping[str, Any], key: VectorKey, _: int) -> list[tuple[str, Any, Any]]:
    form = key.rotation.value if key.rotation else "none"
    return [
        (f"{place} channels", *told.get("shape", [key.dim])[:1], key.dim),
        (f"{place}.is_absolute", told.get("absolute", key.is_absolute), key.is_absolute),
        (f"{place}.rotation", told.get("rotation_type") or "none", form),
    ]


def _described_video(place: str, told: Mapping[str, Any], video: VideoKey, fps: int) -> list[tuple[str, Any, Any]]:
    size = (video.width, video.height)
    found = size if video.is_any_size else tuple(told.get("resolution", size))
    return [
        (place, "{}x{}".format(*found), f"{video.width}x{video.height}"),
        (f"{place} fps", round(told.get("fps", fps)), fps),
    ]


def _released_steps(checkpoint: Checkpoint) -> int:
    config = checkpoint.config
    return N1_DENOISING_STEPS if config.model_type == N1_MODEL_TYPE else config.action_head.num_steps


_ANY_SIZE = (256, 256)  # height and width [px] where the embodiment takes any


def _resting_observation(embodiment: Embodiment, instruction: str) -> Observation:
    # a state key that poses are counted from is a pose, whether the embodiment says so of the state or not
    poses = {key.relative_to: key.pose for key in embodiment.action.values() if key.relative_to and key.pose}

    def rest(name: str, key: VectorKey) -> np.ndarray:
        pose = key.pose or poses.get(name)
        if pose:
            return identity_pose(pose)
        return np.zeros(key.dim) if key.rotation is None else identity(Rotation(key.rotation))

    images, state = {}, {}
    for key in embodiment.video_keys:
        video = embodiment.video[key]
        height, width = _ANY_SIZE if video.is_any_size else (video.height, video.width)
        images[key] = np.zeros((len(embodiment.video_history), height, width, 3), np.uint8)
    for key in embodiment.state_keys:
        state[key] = np.tile(rest(key, embodiment.state[key]), (len(embodiment.state_history), 1))
    return Observation(images, state, instruction)
