# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: forward, backward, clipping and AdamW, plain or as one CUDA graph per batch layout.

A step of a GR00T model launches thousands of small kernels; on a fast GPU the host cannot issue them in time. The graph
issues them at once. Nothing in a step waits for the device: loss and gradient norm stay there until they are logged. A
value that is not finite is found there: it skips the update and is reported by `check`.

The plain step is the reference that tests compare the graph with.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from gr00t_training.errors import Gr00tError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.exchange import Exchange
from gr00t_training.train.planned_batch import PlannedBatch
from gr00t_training.train.sharding import is_split

PLAIN_STEPS = 2  # of a layout before its graph is captured: a rare layout does not repay the capture
MAX_GRAPHS = 12  # layouts with a graph; others take plain steps
WARM_UP_PASSES = 3  # before a capture: kernels are chosen and compiled


class TrainStep:
    """Steps of one model and optimizer, on the model's device."""

    def __init__(
        self,
        model: Gr00tModel,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float,
        autocast: torch.dtype | None = None,
        ema_decay: float = 0.0,
        exchange: Exchange | None = None,
        images: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: in training mode.
            optimizer: over its trained parameters. On a GPU a fused AdamW, whose learning rates are tensors, or one
                that cannot be part of a graph.
            max_grad_norm: gradients are scaled down to this norm.
            autocast: type in which float32 parts compute; None: unchanged.
            ema_decay: decay of the running averages of the trained weights; 0: none are kept.
            exchange: with the other processes that train the model; None: there are none.
            images: makes pixels of images that come as bytes (`DeviceImages`); None: they come as pixels.
        """
        self.model = model
        self.optimizer = optimizer
        self.device = next(model.parameters()).device
        self._max_grad_norm = max_grad_norm
        self._is_fused = self.device.type == "cuda" and isinstance(optimizer, torch.optim.AdamW)
        self._autocast = autocast
        self._exchange = exchange
        self._images = images
        if exchange and not isinstance(optimizer, torch.optim.AdamW):
            exchange.keep_gradients()
        self._parameters: list[Tensor] = [x for x in model.parameters() if x.requires_grad]
        self.averages = [parameter.detach().clone() for parameter in self._parameters] if ema_decay else []
        self._average = get_ema_multi_avg_fn(ema_decay)
        self._first_fault = torch.zeros(3, device=self.device)  # number of the step, loss, norm; 0: none
        self._count = torch.zeros((), device=self.device)

    def __call__(self, parts: Sequence[PlannedBatch]) -> Tensor:
        """Make a step; return loss and gradient norm before clipping, `(2,)` float32 on the device.

        Args:
            parts: of the step's samples, all of one size; their gradients are averaged. On any device.
        """
        # an optimizer outside of graphs finds the gradients of all of them in one place
        is_kept = self.device.type == "cuda" and not self._is_fused
        self.optimizer.zero_grad(set_to_none=not is_kept)
        return self.update(self.forward_backward([part.to(self.device) for part in parts]))

    def forward_backward(self, parts: Sequence[PlannedBatch], times: Sequence[Tensor | None] = ()) -> Tensor:
        """Add the mean gradients of the parts to those of the parameters; return the mean loss.

        Args:
            parts: on the device.
            times: `(B,)` flow-matching times of each part; None or nothing: drawn.
        """
        exchange, losses = self._exchange, []
        compute: Any = self.model.planned_loss
        draws: Sequence[Any] = [{"time": time} for _, time in itertools.zip_longest(parts, times)]
        shares: Sequence[Any] = [None] * len(parts)
        if exchange:
            compute, draws = exchange.loss, exchange.draw(parts, times)
            shares = exchange.shares(parts, draws).unbind()
        for number, (part, drawn, share) in enumerate(zip(parts, draws, shares, strict=True), 1):
            tensors = self._images(part.tensors) if self._images else part.tensors
            with self._casting(), exchange.own_numbers() if exchange else contextlib.nullcontext():
                loss = compute(tensors, part.plan, **drawn) / len(parts)
            if exchange:
                loss = loss * share
                exchange.expect_gradients(is_last=number == len(parts))
            loss.backward()
            losses.append(loss.detach())
        mean = torch.stack(losses).sum()
        return exchange.finish(mean) if exchange else mean

    def update(self, loss: Tensor) -> Tensor:
        """Clip the gradients and update the weights, unless loss or norm is not finite; see `__call__`."""
        found, is_fault = self.clip(loss)
        self.change_weights(is_fault)
        return found

    def clip(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip the gradients, and note a fault; return the result of `__call__` and whether there is a fault."""
        is_fused = self._is_fused
        norm = self._norm() if is_fused else torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        norm = norm.full_tensor() if is_split(norm) else norm  # type: ignore[attr-defined]
        found = torch.stack([loss.float(), norm.float()])
        is_fault = ~torch.isfinite(found).all()
        self._count += 1
        is_first = is_fault & (self._first_fault[0] == 0)
        fault = torch.stack([self._count, found[0], found[1]])
        self._first_fault.copy_(torch.where(is_first, fault, self._first_fault))
        if is_fused:
            # the kernel divides by the scale itself, which saves a pass over all gradients
            scale = (norm + 1e-6).div(self._max_grad_norm).clamp(min=1.0)
            self.optimizer.grad_scale, self.optimizer.found_inf = scale, is_fault.float()  # type: ignore[attr-defined]
        return found, is_fault

    def change_weights(self, is_fault: Tensor) -> None:
        """Make the optimizer's step with clipped gradients, unless there is a fault, and follow it by the averages."""
        # another optimizer on a GPU cannot skip it without waiting; then nothing is saved either
        if self.device.type == "cuda" or not is_fault:
            self.optimizer.step()
        if self.averages:
            self._average(self.averages, self._parameters, 0)

    def check(self, step: int) -> None:
        """Wait for the device and report the first fault of the steps so far, of which `step` is the last.

        Raises:
            Gr00tError: loss or gradient norm was not finite; weights and optimizer are those before that step or, on
                a GPU, of steps after it.
        """
        number, loss, norm = self._first_fault.tolist()
        if not number:
            return
        where = step - int(self._count.item()) + int(number)
        name, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
        raise Gr00tError(
            f"step {where}: {name} is {value}; lower learning_rate or check the dataset with gr00t_dataset validate, "
            "then resume from the last checkpoint"
        )

    def restart_averages(self) -> None:
        """Set the running averages to the weights, which another checkpoint's replaced."""
        for average, parameter in zip(self.averages, self._parameters, strict=False):
            average.copy_(parameter.detach())

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of all groups, without waiting for the device."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def _norm(self) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients, foreach=True)

    def _casting(self) -> contextlib.AbstractContextManager[Any]:
        if self._autocast is None:
            return contextlib.nullcontext()
        # a cast that is cached would outlive the graph that it was made in
        return torch.autocast(self.device.type, dtype=self._autocast, cache_enabled=False)


@dataclass
class _Captured:
    """A graph with its inputs and outputs."""

    graph: torch.cuda.CUDAGraph
    parts: list[PlannedBatch]
    times: list[Tensor]
    found: Tensor
    is_fault: Tensor


class GraphedStep(TrainStep):
    """Steps that replay one CUDA graph for each frequent layout of a batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graphs: dict[tuple[Any, ...], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()  # graphs run one after another and share their memory

    def __call__(self, parts: Sequence[PlannedBatch]) -> Tensor:
        layout = tuple(part.layout() for part in parts)
        if self._exchange:
            layout = self._exchange.agreed(layout)
        captured = self._graphs.get(layout)
        if captured is None:
            self._seen[layout] += 1
            if self._seen[layout] <= PLAIN_STEPS or len(self._graphs) == MAX_GRAPHS:
                return super().__call__(parts)
            captured = self._graphs[layout] = self._capture(parts)
        for mine, part in zip(captured.parts, parts, strict=True):
            mine.copy_from(part)
        for mine in captured.times:
            draw = self._exchange.times if self._exchange else self.model.action_head.sample_time
            mine.copy_(draw(len(mine), torch.device("cpu")), non_blocking=True)
        captured.graph.replay()
        if not self._is_fused:
            self.change_weights(captured.is_fault)
        return captured.found.clone()  # the next graph may write there

    @property
    def num_graphs(self) -> int:
        """Layouts that have a graph."""
        return len(self._graphs)

    def _capture(self, parts: Sequence[PlannedBatch]) -> _Captured:
        # warming up must not change what the run draws
        random_state = torch.cuda.get_rng_state(self.device)
        shared = self._exchange.generator if self._exchange else None
        shared_state = shared.get_state() if shared else None
        inputs = [part.to(self.device).clone() for part in parts]
        times = [torch.zeros(len(part.tensors["state"]), device=self.device) for part in inputs]
        self._warm_up(inputs, times)
        graph = torch.cuda.CUDAGraph()
        if shared:
            graph.register_generator_state(shared)  # type: ignore[attr-defined]
        # the loader's thread that pins memory may call CUDA meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            if not self._is_fused:
                self.optimizer.zero_grad(set_to_none=False)
            found, is_fault = self.clip(self.forward_backward(inputs, times))
            if self._is_fused:
                self.change_weights(is_fault)
        if self._is_fused:
            self.optimizer.zero_grad(set_to_none=True)  # gradients live in the graph; the next one takes their memory
        torch.cuda.set_rng_state(random_state, self.device)
        if shared and shared_state is not None:
            shared.set_state(shared_state)
        return _Captured(graph, inputs, times, found, is_fault)

    def _warm_up(self, parts: Sequence[PlannedBatch], times: Sequence[Tensor]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_PASSES):
                self.optimizer.zero_grad(set_to_none=self._is_fused)
                self.forward_backward(parts, times)
            self.optimizer.zero_grad(set_to_none=self._is_fused)
        torch.cuda.current_stream().wait_stream(stream)


def change_blocks(
    model: Gr00tModel, *, compiles: bool = False, recomputes: bool = False, is_graphed: bool = True
) -> None:
    """Change how the repeated blocks of the model run.

    Blocks of one kind share their compiled code. What cannot be compiled on this machine runs uncompiled, with a
    warning of PyTorch.

    Args:
        model: changed in place.
        compiles: compile the blocks one by one; the whole model at once would take minutes.
        recomputes: compute activations again in the backward pass, to save memory.
        is_graphed: for a step in a CUDA graph, which cannot repeat random numbers: blocks with dropout, those of the
            action head, keep their activations.
    """
    if compiles:
        torch._dynamo.config.suppress_errors = True
    for block in model.blocks():
        draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in block.modules())
        if recomputes and not (draws and is_graphed):
            forward = torch.compile(block.forward, dynamic=False) if compiles else block.forward
            block.forward = functools.partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=draws)
        elif compiles:
            block.compile(dynamic=False)


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run compiled blocks as they are: compiling them for one pass takes longer than it saves."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # since PyTorch 2.6
    return set_stance("force_eager") if set_stance else contextlib.nullcontext()
