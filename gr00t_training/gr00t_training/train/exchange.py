# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What several processes exchange in a training step: random numbers, weights of their losses, gradients.

Each process computes its rows of the batch. Noise, times, delays and hidden states are drawn for the whole batch by all
processes from the same state, and each takes its rows: the losses are those of one process with the same batch. Dropout
has numbers of its own in each process and step.

Gradients are summed in buckets while the backward pass still computes, in the order in which they became ready in the
first step. DistributedDataParallel does the same, but it measures times and replaces its buckets in ways that a CUDA
graph cannot record; here all is recorded with the rest of the step.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.planned_batch import PlannedBatch

BUCKET_BYTES = 32 * 2**20  # enough for the full speed of NVLink, little enough to begin early
_SMALLEST_WEIGHT = 1e-6  # of a loss without any channel


class Exchange:
    """Exchange between the processes that train one model."""

    def __init__(self, model: Gr00tModel, loss: Callable[..., Tensor], seed: int, *, is_split: bool) -> None:
        """Prepare.

        Args:
            model: the same in all processes.
            loss: computes like `model.planned_loss`.
            seed: of the random numbers, the same in all processes.
            is_split: whether the weights are split over the processes; their gradients are then averaged by the
                backward pass itself.
        """
        self.loss = loss
        self.is_split = is_split
        self._model = model
        self._seed = seed
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        device = next(model.parameters()).device
        self._device = device
        # on a GPU: of the whole batch's numbers, as the default generator in a process alone
        self.generator = torch.Generator(device).manual_seed(seed) if device.type == "cuda" else None
        self._gradients = None if is_split else GradientSum([x for x in model.parameters() if x.requires_grad])
        self._own_seeds: Iterator[int] = iter(())

    def keep_gradients(self) -> None:
        """Let gradients stay in their memory, for an optimizer that is no part of the graphs which compute them."""
        if self._gradients is not None:
            self._gradients.is_in_place = True

    def start(self, step: int) -> None:
        """Begin the step of that number, the same in all processes."""
        self._own_seeds = (
            int(np.random.SeedSequence([self._seed, step, self._rank, part]).generate_state(1)[0])
            for part in itertools.count()
        )
        if self._device.type == "cuda":
            torch.cuda.manual_seed(next(self._own_seeds))  # a graph reads seed and offset when it is replayed

    def times(self, count: int, device: torch.device) -> Tensor:
        """Draw the flow-matching times of `count` rows of this process."""
        return self._rows(self._model.action_head.sample_time(count * self._size, device), count)

    def draw(self, parts: Sequence[PlannedBatch], times: Sequence[Tensor | None]) -> list[dict[str, Tensor | None]]:
        """Draw what the losses of the parts take, in the order of a process alone.

        Args:
            parts: rows of this process.
            times: that were drawn before; None or nothing: not.
        """
        head, found = self._model.action_head, []
        for part, time in itertools.zip_longest(parts, times):
            actions = part.tensors["action"]
            count, total = len(actions), len(actions) * self._size
            options = {"device": self._device, "generator": self.generator}
            noise = torch.randn((total, *actions.shape[1:]), dtype=self._model.dtype, **options)
            time = self.times(count, self._device) if time is None else time
            drawn = {"delay": head.draw_delay(total, **options), "drops_state": head.draw_drops(total, **options)}
            rows = {name: None if x is None else self._rows(x, count) for name, x in drawn.items()}
            found.append({"noise": self._rows(noise, count), "time": time, **rows})
        return found

    def shares(self, parts: Sequence[PlannedBatch], draws: Sequence[dict[str, Tensor | None]]) -> Tensor:
        """Return for each part the factor `(K,)` of its loss, so that the losses of all processes add up to their mean.

        The mean is over channels, as in one process: a process whose rows have more of them counts more.
        """
        own = []
        for part, drawn in zip(parts, draws, strict=True):
            mask = part.tensors["action_mask"]
            if drawn["delay"] is not None:
                is_free = torch.arange(mask.shape[1], device=mask.device) >= drawn["delay"][:, None]
                mask = mask * is_free[..., None]
            own.append(mask.sum().float().clamp(min=_SMALLEST_WEIGHT))
        weights = torch.stack(own)
        total = weights.clone()
        distributed.all_reduce(total)
        # gradients of split weights are divided by the number of processes
        return weights / total * (self._size if self.is_split else 1)

    @contextlib.contextmanager
    def own_numbers(self) -> Iterator[None]:
        """Give dropout numbers of this process; on a GPU it has them anyway."""
        if self._device.type == "cuda":
            yield
            return
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(next(self._own_seeds))
        try:
            yield
        finally:
            torch.set_rng_state(state)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Put split weights together for computations other than the loss, which all processes then make."""
        if not self.is_split:
            yield
            return
        from torch.distributed.fsdp import FSDPModule

        module: Any = self.loss
        module.unshard()  # units are put together when they compute, and stay so until a backward pass
        try:
            yield
        finally:
            for unit in module.modules():
                if isinstance(unit, FSDPModule):
                    unit.reshard()

    def expect_gradients(self, is_last: bool) -> None:
        """Announce a backward pass; gradients are exchanged in the last one of a step."""
        if self._gradients is not None and is_last:
            self._gradients.start()

    def finish(self, loss: Tensor) -> Tensor:
        """Wait, on the device, until the gradients are those of the whole batch; return its loss."""
        if self._gradients is not None:
            self._gradients.finish()
        total = loss.clone()
        distributed.all_reduce(total)
        return total / self._size if self.is_split else total

    def agreed(self, layout: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the layouts of all processes' batches as numbers; waits for the other processes, not for a GPU.

        Processes that take the same steps with it make and replay their graphs together.
        """
        digest = hashlib.blake2b(repr(layout).encode(), digest_size=7).digest()
        own = torch.tensor([int.from_bytes(digest, "big")])
        found = [torch.empty_like(own) for _ in range(self._size)]
        distributed.all_gather(found, own)
        return tuple(int(x) for x in found)

    def _rows(self, whole: Tensor, count: int) -> Tensor:
        return whole[self._rank * count : (self._rank + 1) * count]


class GradientSum:
    """Sums the gradients of parameters over all processes, during the backward pass."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._place = {parameter: i for i, parameter in enumerate(self._parameters)}
        self._buckets: list[list[int]] = []  # parameters; empty: the order is not known yet
        self._ready: list[int] = []  # in the first step: parameters in the order of their gradients
        self._missing: list[int] = []  # gradients of each bucket
        self._next = 0  # bucket; all processes send them in the same order
        self._pending: list[tuple[distributed.Work | None, list[Tensor], tuple[Tensor, ...]]] = []
        self._is_active = False
        self.is_in_place = False  # gradients stay where they are; otherwise they become parts of the buckets
        self._bucket_of: dict[int, int] = {}
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def start(self) -> None:
        """Begin; the gradients of the next backward pass are complete."""
        self._is_active, self._next = True, 0
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """End; waits on the device, not on the host."""
        self._is_active = False
        if not self._buckets:
            self._choose_buckets()
        for bucket in self._buckets[self._next :]:
            self._send(bucket)
        for work, gradients, sums in self._pending:
            if work is not None:
                work.wait()
            if self.is_in_place:
                torch._foreach_copy_(gradients, sums)  # type: ignore[reportPrivateImportUsage]
        self._pending.clear()

    def _on_gradient(self, parameter: Tensor) -> None:
        if not self._is_active:
            return
        place = self._place[parameter]
        if not self._buckets:
            self._ready.append(place)
            return
        assert place in self._bucket_of, "a parameter without gradient in the first step has one now"
        self._missing[self._bucket_of[place]] -= 1
        while self._next < len(self._buckets) and not self._missing[self._next]:
            self._send(self._buckets[self._next])
            self._next += 1

    def _choose_buckets(self) -> None:
        """Choose the buckets from the order of the main process; the same in all."""
        orders: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(orders, self._ready)
        order = list(dict.fromkeys(itertools.chain(*orders)))
        size, dtype = BUCKET_BYTES, None
        for place in order:
            parameter = self._parameters[place]
            if size >= BUCKET_BYTES or parameter.dtype != dtype:
                self._buckets.append([])
                size, dtype = 0, parameter.dtype
            self._buckets[-1].append(place)
            size += parameter.numel() * parameter.element_size()
        self._bucket_of = {place: i for i, bucket in enumerate(self._buckets) for place in bucket}

    def _send(self, bucket: Sequence[int]) -> None:
        parameters = [self._parameters[place] for place in bucket]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        sums = tuple(
            part.view_as(x) for part, x in zip(flat.split([x.numel() for x in parameters]), parameters, strict=True)
        )
        if not self.is_in_place:
            for parameter, part in zip(parameters, sums, strict=True):
                parameter.grad = part
            gradients = []
        self._pending.append((distributed.all_reduce(flat, async_op=True), gradients, sums))
