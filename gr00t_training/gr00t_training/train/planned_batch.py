# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Batches as a training step takes them: tensors, and the plan that their prompts and image sizes fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import check_batch
from gr00t_training.model.plan import HOST_KEYS, ContextPlan, make_plan, map_tensors, plan_tensors
from gr00t_training.transforms.pipeline import Pipeline


@dataclass(frozen=True)
class PlannedBatch:
    """A batch with the plan that its prompts and image sizes fix, on one device."""

    tensors: Mapping[str, Tensor]  # see `gr00t_training.model.gr00t`, without the keys of the plan
    plan: ContextPlan

    def pin_memory(self) -> PlannedBatch:
        """Return the batch in page-locked memory, from which copies need no wait; called by the data loader."""
        return self._mapped(lambda x: x.pin_memory())

    def to(self, device: torch.device) -> PlannedBatch:
        """Return the batch on a device; the copies are only queued."""
        return self._mapped(lambda x: x.to(device, non_blocking=True))

    def clone(self) -> PlannedBatch:
        """Return a copy that shares no memory."""
        return self._mapped(torch.clone)

    def layout(self) -> tuple[Any, ...]:
        """Return what two batches must share to be processed by the same graph."""
        shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in sorted(self.tensors.items()))
        return shapes, self.plan.layout()

    def copy_from(self, other: PlannedBatch) -> None:
        """Overwrite the tensors with those of a batch of the same layout, from any device."""
        for name, tensor in self.tensors.items():
            tensor.copy_(other.tensors[name], non_blocking=True)
        for mine, theirs in zip(plan_tensors(self.plan), plan_tensors(other.plan), strict=True):
            mine.copy_(theirs, non_blocking=True)

    def _mapped(self, function: Any) -> PlannedBatch:
        tensors = {name: function(x) for name, x in self.tensors.items()}
        return PlannedBatch(tensors, map_tensors(self.plan, function))


class BatchPlanner:
    """Joins samples to planned batches; works in the loader's processes, so that the trainer never waits for it.

    Padding is hidden, also where the releases attend to it: a robot asks alone and without padding. In batches of
    several tasks a short instruction nearly always has the same padding; a model that learned it so does not know it
    alone.
    """

    def __init__(self, pipeline: Pipeline, config: Gr00tConfig, dtype: torch.dtype) -> None:
        """Prepare.

        Args:
            pipeline: joins the samples.
            config: of the model.
            dtype: of the model's backbone; some releases round positions to it.
        """
        self._pipeline = pipeline
        self._config = config
        self._dtype = dtype

    def __call__(self, samples: Sequence[Mapping[str, Tensor]]) -> PlannedBatch:
        """Return the batch on the host.

        Raises:
            ValueError: it does not fit the model.
        """
        batch = self._pipeline.collate(samples)
        check_batch(self._config, batch)
        plan = make_plan(self._config, batch, torch.device("cpu"), self._dtype, hides_padding=True)
        return PlannedBatch({name: x for name, x in batch.items() if name not in HOST_KEYS}, plan)
