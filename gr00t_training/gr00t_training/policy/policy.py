# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Answer observations with action chunks from a checkpoint. Not thread-safe: one caller at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model
from gr00t_training.checkpoint.description import TrainedEmbodiment
from gr00t_training.checkpoint.metadata_fit import check_metadata_fit
from gr00t_training.checkpoint.reading import load_to_fine_tune
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.fast.inference import InferenceModel
from gr00t_training.model.gr00t import Gr00tModel, to_device
from gr00t_training.model.sampler import Inpainting
from gr00t_training.policy.continuation import continue_chunks
from gr00t_training.policy.device import choose_device
from gr00t_training.policy.engine import Engine
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.policy.stages import Prompts, StagedRequest, StartedBatch, by_length, join, joint_key
from gr00t_training.transforms.observation import resting_observation
from gr00t_training.transforms.pipeline import CACHED_PROMPTS, Statistics
from gr00t_training.transforms.resampling import Size
from gr00t_training.transforms.text import pad_left
from gr00t_training.types import ActionChunk, Continuation, Observation

logger = logging.getLogger(__name__)

TIMED_RUNS = 3  # of a size of batches; the fastest counts, since the first one uploads its graph


class Policy(PolicyLike):
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
            model: weights on the device that computes; the policy owns them, do not train them afterwards.
            denoising_steps: of the sampler; None: those of the release.
            seed: of the noise; None: a random one.
            uses_graphs: whether the model runs as a captured CUDA graph; None: on a GPU.

        Raises:
            ConfigError: fewer than one denoising step, or the parts do not fit each other.
            CheckpointError: see `Checkpoint.pipeline`.
        """
        self.denoising_steps = checkpoint.denoising_steps if denoising_steps is None else denoising_steps
        if self.denoising_steps < 1:
            raise ConfigError(f"denoising_steps is {denoising_steps}, expected at least 1")
        self.checkpoint = checkpoint
        self.embodiment = checkpoint.embodiment
        self.pipeline = checkpoint.pipeline()
        self._model = model
        self._prompts: dict[tuple, Prompts] = {}
        self._trained_delay = checkpoint.config.action_head.rtc_max_delay
        self._has_warned = False
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
            embodiment: of the robot, compared with the stored one; or an embodiment tag of the checkpoint.
            device: "cpu", "cuda", "cuda:1", or "auto": a GPU if there is one.
            denoising_steps: see `__init__`.
            seed: see `__init__`.
            dtype: of model and computation; None: bfloat16 on a GPU, float32 on the CPU.
            attention: kernel: sdpa, eager or flash.
            tokenizer: tokenizer.json or its folder, used when the checkpoint has none.
            data_config: published choice of keys and scaling, with an embodiment tag of N1 or N1.5 that has several.
            fps: tick rate [Hz], with an embodiment tag of N1.6 or N1.7, whose files do not contain it.
            uses_graphs: see `__init__`.

        Raises:
            CheckpointError: the folder is incomplete, damaged or of another embodiment.
            ConfigError: the device is not available, or an option is wrong.
        """
        place = choose_device(device)
        if dtype is None:
            dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        checkpoint = load_checkpoint(path, embodiment=embodiment, tokenizer=tokenizer, data_config=data_config, fps=fps)
        if isinstance(embodiment, Embodiment):
            check_metadata_fit(checkpoint)
        model = load_model(checkpoint, device=place, dtype=dtype, attention=attention)
        return cls(checkpoint, model, denoising_steps=denoising_steps, seed=seed, uses_graphs=uses_graphs)

    def before_training(self, base: str | Path, *, tokenizer: str | Path | None = None) -> Policy:
        """Return the policy that training starts from: weights of `base`, embodiment and statistics of this one.

        Args:
            base: checkpoint, as for `from_checkpoint`; its embodiments do not matter.
            tokenizer: as for `from_checkpoint`.

        Raises:
            CheckpointError: the folder is incomplete or damaged.
            ConfigError: the embodiment does not fit the model.
        """
        trained = TrainedEmbodiment(self.embodiment, self.statistics)
        checkpoint = load_to_fine_tune(base, [trained], tokenizer=tokenizer)
        torch.manual_seed(self._seed)  # of weights that `base` does not have
        like = next(self._model.parameters())
        model = load_model(checkpoint, device=like.device, dtype=like.dtype)
        return Policy(checkpoint, model, denoising_steps=self.denoising_steps, seed=self._seed)

    @property
    def statistics(self) -> Statistics:
        """Statistics that the model scales with; a policy server reports a digest of them to its clients."""
        return self.checkpoint.statistics

    @property
    def state_statistics(self) -> Mapping[str, KeyStatistics]:
        """Statistics of the state in training, by key."""
        return self.statistics["state"]

    @property
    def overlaps(self) -> bool:
        """Whether `start` returns while the batch is computed."""
        return self._engine.model.device.type == "cuda"

    @property
    def noise_state(self) -> Tensor:
        """State of the noise generator; a server with several clients keeps one per client."""
        return self._noise.get_state()

    @noise_state.setter
    def noise_state(self, state: Tensor) -> None:
        self._noise.set_state(state)

    def reset(self, seed: int | None = None) -> None:
        """Start the noise from its seed again, or from another one, so that an episode can be repeated exactly."""
        self._noise.manual_seed(self._seed if seed is None else seed)

    def warm_up(self, instruction: str | None = "") -> None:
        """Run one inference on a made-up observation, so that the first real one is not slow; the noise stays the same.

        Args:
            instruction: of the first real observation; a prompt of another length is prepared when it is used. None:
                not known yet; then only device and libraries are prepared.
        """
        state = self.noise_state
        observation = resting_observation(self.embodiment, instruction or "")
        if instruction is None:
            self._engine.try_out(join([self.stage([observation])], [torch.zeros(self._noise_shape(1))], 1))
        else:
            self.infer(observation)
        self.noise_state = state

    def infer_batch(
        self,
        observations: Sequence[Observation],
        continuations: Sequence[Continuation | None] | None = None,
        *,
        noise: np.ndarray | None = None,
    ) -> list[ActionChunk]:
        """Answer several observations at once.

        Each answer is that of the observation alone. Instructions of different length are computed one length after
        another: models attend to the padding of shorter prompts, as the releases do.

        Args:
            observations: with cameras of equal sizes.
            continuations: one per observation; all with the same number of steps, or all None.
            noise: `(B, H, A)` start of the sampler, to compare with other implementations; None: drawn.

        Raises:
            ObservationError: as `infer`.
            ValueError: continuations differ in their steps, or noise has another shape.
        """
        start = None if noise is None else self._given_noise(noise, len(observations))
        staged = self.stage(observations, continuations)
        started_s = time.perf_counter()
        drawn = self.draw_noise(staged.num_samples) if start is None else start
        (rows,), _ = self.start([staged], [drawn]).wait()
        return self.finish(staged, rows, infer_s=time.perf_counter() - started_s)

    def stage(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> StagedRequest:
        """Check and prepare a request; thread-safe, unlike everything else.

        Raises:
            ObservationError, ValueError: as `infer_batch`.
        """
        started_s = time.perf_counter()
        horizon = self.checkpoint.config.action_head.action_horizon
        continued = continue_chunks(
            self.pipeline, observations, continuations, horizon=horizon, trained_delay=self._trained_delay
        )
        if continued is not None:
            self._warn_of_delay(continued.inpainting)
        own = [self.pipeline.images(observation) for observation in observations]
        asked = tuple(
            (observation.instruction, tuple(image.shape[:2] for image in images))
            for observation, images in zip(observations, own, strict=True)
        )
        state = np.stack([self.pipeline.vectors(observation)[0].numpy() for observation in observations])
        return StagedRequest(
            observations,
            continued,
            [image for images in own for image in images],
            self._prompts_of(asked),
            state,
            seconds=time.perf_counter() - started_s,
        )

    def draw_noise(self, num_samples: int) -> Tensor:
        """Return the start of the sampler for the next request `(B, H, A)`."""
        return torch.randn(self._noise_shape(num_samples), generator=self._noise, dtype=torch.float32)

    def start(
        self, requests: Sequence[StagedRequest], noises: Sequence[Tensor], size: int | None = None
    ) -> StartedBatch:
        """Start to compute requests with equal keys, or a single one; at most two batches run at a time.

        Args:
            requests: staged ones.
            noises: start of the sampler of each, `(B, H, A)`.
            size: samples to compute, at least those of the requests; None: as many. On a GPU each size is a graph.
        """
        counts = [request.num_samples for request in requests]
        first = requests[0]
        if first.is_guided and first.continued is not None:
            batch = self.pipeline.collate([self.pipeline.encode(observation) for observation in first.observations])
            started_s = time.perf_counter()
            actions = self._infer_guided(batch, noises[0], first.continued.inpainting).numpy()
            seconds = time.perf_counter() - started_s
            return StartedBatch(counts, lambda: (actions, seconds))
        request = join(requests, noises, sum(counts) if size is None else size)
        parts = by_length(request)
        if len(parts) == 1:
            return StartedBatch(counts, self._engine.start(request).wait)
        rows, total_s = np.empty(request.start.shape, np.float32), 0.0
        for places, part in parts:
            rows[places], seconds = self._engine.start(part).wait()
            total_s += seconds
        return StartedBatch(counts, lambda: (rows, total_s))

    def finish(self, request: StagedRequest, rows: np.ndarray, *, infer_s: float = 0.0) -> list[ActionChunk]:
        """Return the chunks of a request in the robot's units; thread-safe.

        Args:
            request: staged one.
            rows: normalized actions `(B, H, A)` of `StartedBatch.wait`.
            infer_s: time of the computation, for `ActionChunk.timings_s`.

        Raises:
            CheckpointError: the model predicts NaN or infinity.
        """
        started_s, observations = time.perf_counter(), request.observations
        decoded = [
            self.pipeline.decode(action, observation) for action, observation in zip(rows, observations, strict=True)
        ]
        if request.continued is not None:
            decoded = request.continued.blend(decoded)
        _check_finite(decoded)
        timings_s = {"preprocess": request.seconds, "infer": infer_s + time.perf_counter() - started_s}
        return [
            ActionChunk(rows, observation.stamp_ns, self.embodiment.step_ns, timings_s)
            for rows, observation in zip(decoded, observations, strict=True)
        ]

    def prepare_batches(self, instruction: str, sizes: Sequence[int]) -> dict[int, float]:
        """Build what batches of these sizes need, for prompts of the instruction's length; return their times [s].

        The noise stays the same.
        """
        times_s, noise_state = {}, self.noise_state
        request = self.stage([resting_observation(self.embodiment, instruction)])
        for size in sizes:
            noises = [self.draw_noise(1)]
            self._engine.build(join([request], noises, size))
            times_s[size] = min(self.start([request], noises, size).wait()[1] for _ in range(TIMED_RUNS))
        self.noise_state = noise_state
        return times_s

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        storages = [weight.untyped_storage() for weight in self._model.parameters()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def device_memory(self) -> Mapping[str, int]:
        """Return bytes of the GPU: "used" by all programs, "total", and "tensors" of this one; empty on the CPU."""
        device = self._engine.model.device
        if device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(device)
        return {"used": total - free, "total": total, "tensors": torch.cuda.memory_allocated(device)}

    def _prompts_of(self, asked: tuple[tuple[str, tuple[Size, ...]], ...]) -> Prompts:
        """Return the tokens of samples, each with an instruction and the sizes of its images."""
        found = self._prompts.get(asked)
        if found is None:
            pipeline, inputs = self.pipeline, self.pipeline.inputs
            rows = [
                pipeline.prompt(text, tuple(inputs.images.num_tokens(*size) for size in sizes)) for text, sizes in asked
            ]
            input_ids, mask = pad_left(rows, pipeline.tokenizer.pad_id)
            images = [size for _, sizes in asked for size in sizes]
            found = Prompts(input_ids, mask, joint_key(input_ids, mask, images, inputs.image_token_id))
            if len(self._prompts) >= CACHED_PROMPTS:
                self._prompts.clear()
            self._prompts[asked] = found
        return found

    def _noise_shape(self, num_samples: int) -> tuple[int, int, int]:
        return num_samples, self.checkpoint.config.action_head.action_horizon, self.pipeline.inputs.action_dim

    def _given_noise(self, given: np.ndarray, num_samples: int) -> Tensor:
        shape = self._noise_shape(num_samples)
        if given.shape != shape:
            raise ValueError(f"noise: shape {given.shape}, expected {shape}")
        return torch.from_numpy(given.astype(np.float32))

    def _warn_of_delay(self, inpainting: Inpainting) -> None:
        """Log once that chunks arrive later than in training; then they are continued as without that training."""
        if self._trained_delay and inpainting.frozen_steps > self._trained_delay and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d rows are frozen while the model computes, it was trained for up to %d (rtc_max_delay); continuing "
                "without that training; fine-tune with a larger --rtc-max-delay or make inference faster",
                inpainting.frozen_steps,
                self._trained_delay,
            )

    def _infer_guided(self, batch: dict[str, Tensor], noise: Tensor, inpainting: Inpainting) -> Tensor:
        """Sample with the layers that autograd can follow."""
        device = next(self._model.parameters()).device
        return self._model.sample_actions(
            to_device(batch, device), noise.to(device), self.denoising_steps, inpainting, hides_padding=True
        ).cpu()


def _check_finite(decoded: Sequence[Mapping[str, np.ndarray]]) -> None:
    for rows in decoded:
        for key, values in rows.items():
            if not np.isfinite(values).all():
                raise CheckpointError(
                    f"action.{key}: the model predicts NaN or infinity; check it with gr00t_checkpoint verify"
                )
