# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Loss and action errors on held-out episodes, comparable between the steps of a run.

Samples, noise and times are the same at every validation, images are not augmented, and no state is hidden. The run
draws the same random numbers with and without it. Weights are those that a checkpoint would have: averages if the run
keeps them. The model runs as it is, uncompiled and without a graph, so the memory of the run is reused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.data.mixture import Mixture
from gr00t_training.train.data.samples import Source
from gr00t_training.train.planned_batch import BatchPlanner, PlannedBatch
from gr00t_training.train.step import uncompiled
from gr00t_training.types import Observation

# Samples computed at once. A training batch of several processes would be too much for one of them, and a size that
# depends on their number would change the draws.
LARGEST_BATCH = 16


@dataclass(frozen=True)
class ActionError:
    """Errors of the predicted actions of one key, means over samples, ticks and channels."""

    mse: float  # [unit squared]
    mae: float  # [unit]
    unit: str  # of the key; a pose has angles or rotations, too


@dataclass(frozen=True)
class ValidationResult:
    """What one validation found."""

    step: int
    loss: float
    errors: Mapping[str, ActionError]  # by action key, `embodiment/key` where sources differ

    def figures(self) -> dict[str, float]:
        """Return all figures under the names that trackers show."""
        found = {"validation/loss": self.loss}
        for key, error in self.errors.items():
            found |= {f"validation/mse/{key}": error.mse, f"validation/mae/{key}": error.mae}
        return found

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        errors = ", ".join(f"{key} {error.mae:.4g} {error.unit}" for key, error in self.errors.items())
        return f"step {self.step}: validation loss {self.loss:.4f}, mean absolute errors {errors}"


@dataclass(frozen=True)
class _Sample:
    """What the actions of one sample are compared with."""

    source: Source
    observation: Observation  # without images
    actions: Mapping[str, np.ndarray]  # key -> (T, D), rows of the episode only


class Validation:
    """The held-out samples of a run."""

    def __init__(
        self, sources: Sequence[Source], *, num_samples: int, batch_size: int, seed: int, denoising_steps: int
    ) -> None:
        """Choose the samples: evenly spread rows, from each source as many as its share in the run.

        Args:
            sources: held-out episodes only.
            num_samples: of all sources; fewer if there are not as many.
            batch_size: samples computed at once, at most `LARGEST_BATCH`.
            seed: of noise and times.
            denoising_steps: of the sampler.
        """
        self.sources = tuple(sources)
        self._batch_size = min(batch_size, LARGEST_BATCH)
        self._seed = seed
        self._denoising_steps = denoising_steps
        mixture = Mixture([len(source) for source in sources], [source.weight for source in sources])
        self._chosen = [
            (source, row)
            for source, count in zip(sources, mixture.counts(num_samples), strict=True)
            for row in spread(len(source), count)
        ]
        self._batches: list[tuple[PlannedBatch, list[_Sample]]] = []  # made at the first validation

    @property
    def num_samples(self) -> int:
        """Samples that are compared."""
        return len(self._chosen)

    def run(
        self,
        model: Gr00tModel,
        step: int,
        *,
        autocast: torch.dtype | None = None,
        averages: Sequence[tuple[Tensor, Tensor]] = (),
        together: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> ValidationResult | None:
        """Validate the model; afterwards it, the averages and the random numbers are as before.

        Args:
            model: on the device that computes.
            step: that it was trained to.
            autocast: type in which float32 parts compute; None: unchanged.
            averages: trained weights, each with the average to be taken instead of it.
            together: makes weights whole that are split over processes, while it is entered.
            should_stop: called before every batch; if it is true, the validation ends without a result.
        """
        if not self._batches:
            self._batches = list(self._load(model))
        device, was_training = next(model.parameters()).device, model.training
        with _same_draws(self._seed, device), _exchanged(averages), uncompiled(), torch.no_grad(), together():
            model.eval()
            try:
                return self._measure(model, step, device, autocast, should_stop)
            finally:
                model.train(was_training)

    def _measure(
        self,
        model: Gr00tModel,
        step: int,
        device: torch.device,
        autocast: torch.dtype | None,
        should_stop: Callable[[], bool],
    ) -> ValidationResult | None:
        losses, sums = [], _Sums(self.sources)
        for batch, samples in self._batches:
            if should_stop():
                return None
            on_device = batch.to(device)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None, cache_enabled=False):
                loss, actions = model.loss_and_actions(on_device.tensors, on_device.plan, self._denoising_steps)
            losses.append(float(loss) * len(samples))
            for sample, predicted in zip(samples, actions.float().cpu(), strict=True):
                sums.add(sample, sample.source.pipeline.decode(predicted, sample.observation))
        return ValidationResult(step, math.fsum(losses) / self.num_samples, sums.errors())

    def _load(self, model: Gr00tModel) -> Iterator[tuple[PlannedBatch, list[_Sample]]]:
        dtype = model.backbone.language.embed_tokens.weight.dtype
        planner = BatchPlanner(self.sources[0].pipeline, model.config, dtype)
        for first in range(0, self.num_samples, self._batch_size):
            tensors, samples = [], []
            for source, number in self._chosen[first : first + self._batch_size]:
                observation, actions = source.recorded(number)
                tensors.append(source.pipeline.encode(observation, actions))
                episode, row = source.step(number)
                num_rows = source.dataset.episode(episode).length - row  # behind them the last row is repeated
                inside = {key: values[:num_rows] for key, values in actions.items()}
                samples.append(_Sample(source, dataclasses.replace(observation, images={}), inside))
            yield planner(tensors), samples


class _Sums:
    """Sums of squared and absolute errors."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._is_one = len({source.pipeline.embodiment.name for source in sources}) == 1
        self._found: dict[str, tuple[np.ndarray, str]] = {}  # squares, absolute errors, values

    def add(self, sample: _Sample, predicted: Mapping[str, np.ndarray]) -> None:
        embodiment = sample.source.pipeline.embodiment
        for key, truth in sample.actions.items():
            name = key if self._is_one else f"{embodiment.name}/{key}"
            error = predicted[key][: len(truth)] - truth
            sums, unit = self._found.get(name, (np.zeros(3), embodiment.action[key].unit))
            added = np.array([np.square(error).sum(), np.abs(error).sum(), error.size])
            self._found[name] = sums + added, unit

    def errors(self) -> dict[str, ActionError]:
        return {
            name: ActionError(float(squares / count), float(absolute / count), unit)
            for name, ((squares, absolute, count), unit) in self._found.items()
        }


def spread(size: int, count: int) -> list[int]:
    """Return `count` evenly spread numbers below `size`, all of them if there are fewer."""
    count = min(count, size)
    return [(2 * i + 1) * size // (2 * count) for i in range(count)]


@contextlib.contextmanager
def _same_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Draw the numbers of a seed; afterwards the generators continue as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def _exchanged(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Exchange the values of tensors, which keep their memory: captured graphs read it."""
    _exchange(pairs)
    try:
        yield
    finally:
        _exchange(pairs)


@torch.no_grad()
def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for first, second in pairs:
        kept = first.clone()
        first.copy_(second)
        second.copy_(kept)
