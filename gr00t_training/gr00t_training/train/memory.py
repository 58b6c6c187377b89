# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Estimate the GPU memory of a run before it starts, from sizes alone; no weights are read.

What is kept for each weight follows from the settings. Activations are counted per token and layer, in bytes per
channel of width and of hidden width; these and the rest were fitted to `bench/train.py` on an H200: all four families
with compiled blocks in a CUDA graph, batches of 8 and 32. Adapters, 4 bits, several processes and other GPUs were not
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gr00t_training.checkpoint.trial import shape_model
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.dit import Attends, attends
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.adapters import choose_trained
from gr00t_training.train.settings import Optimizer, Quantization, TrainerSettings

GIB = 2**30
_NF4_BYTES = 0.5 + 4 / 64  # a weight, and its share of the scale of a block
_WORK_BYTES = 0.9 * GIB  # libraries' workspaces, rounding of the allocator, buffers of a step
# Bytes per token and layer that a block keeps for the backward pass: of each channel of width, and of hidden width.
_PLAIN, _GATED, _DROPPING = (15, 4), (15, 8), (24, 6)
_UNCOMPILED = 1.2  # times as many activations
_UNGRAPHED_BYTES = 2  # per trained weight
_ADAPTED = 1.2  # times as many activations of a block with adapters


@dataclass(frozen=True)
class SampleSize:
    """How large the samples of a run are."""

    num_patches: int  # of all images of a sample
    num_tokens: int  # of the prompt, those of images included

    @classmethod
    def of(cls, sample: Mapping[str, Tensor], config: Gr00tConfig) -> SampleSize:
        """Measure an encoded sample."""
        pixels, vision = sample["pixel_values"], config.backbone.vision
        per_row = 1 if config.backbone.is_packed else vision.grid**2
        return cls(len(pixels) * per_row, sample["input_ids"].shape[-1])


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one GPU at its peak [bytes]."""

    weights: float
    gradients: float
    optimizer: float  # moments
    averages: float  # running averages of weights
    activations: float
    other: float

    @property
    def total_gib(self) -> float:
        """Sum [GiB]."""
        return sum(vars(self).values()) / GIB

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in vars(self).items() if value >= 0.05 * GIB)
        return f"about {self.total_gib:.1f} GiB ({parts})"


def estimate_memory(
    config: Gr00tConfig, settings: TrainerSettings, size: SampleSize, *, num_projectors: int = 1, num_processes: int = 1
) -> MemoryEstimate:
    """Estimate the peak of a run on GPUs.

    Args:
        config: of the model.
        settings: of the run.
        size: of its largest samples.
        num_projectors: embodiments that train, each with its own row of the tables.
        num_processes: that share a batch.

    Raises:
        ConfigError: the settings do not fit the model, or a library that they need is missing.
    """
    model = shape_model(config)
    adapters = choose_trained(model, settings)
    model.action_head.keep_rows(range(num_projectors))
    trained = sum(x.numel() for x in model.parameters() if x.requires_grad)
    is_split = settings.parallel == "fsdp" and num_processes > 1
    share = 1 / num_processes if is_split else 1.0
    moments = 2 if settings.optimizer is Optimizer.ADAMW8BIT else 8
    count = math.ceil(settings.batch_size / settings.accumulate / num_processes)
    kept = count * _activations(model, config, size, settings, adapters is not None)
    if not settings.compile_blocks:
        kept *= _UNCOMPILED
    frozen = _frozen_bytes(model, settings)
    copies = 2 * trained if settings.bf16 else 0  # of weights, which the backward pass needs
    if is_split:  # they are put together
        copies = (2 if settings.bf16 else 4) * trained + frozen
    work = _WORK_BYTES + count * _passing(config, size) + (0 if settings.fits_graph else _UNGRAPHED_BYTES * trained)
    return MemoryEstimate(
        weights=share * (4 * trained + frozen) + copies,
        gradients=share * 4 * trained,
        optimizer=share * moments * trained,
        averages=share * (4 * trained if settings.ema_decay else 0),
        activations=kept if settings.bf16 else 2 * kept,
        other=work,
    )


def _frozen_bytes(model: Gr00tModel, settings: TrainerSettings) -> float:
    small = 2 if settings.bf16 else 4
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    total = 0.0
    for name, x in model.named_parameters():
        if x.requires_grad:
            continue
        is_backbone, is_linear = name.startswith("backbone."), name in linear
        if is_backbone and is_linear and settings.quantize_base is Quantization.NF4:
            total += _NF4_BYTES * x.numel()
        else:
            total += (small if is_backbone or is_linear else 4) * x.numel()
    return total


def _activations(
    model: Gr00tModel, config: Gr00tConfig, size: SampleSize, settings: TrainerSettings, is_adapted: bool
) -> float:
    """Return what the backward pass needs of one sample [bytes]."""
    backbone, head = config.backbone, config.action_head
    vision, language, dit = backbone.vision, backbone.language, head.dit
    first = _first_trained_layer(model)
    sees = _trains(model.backbone.vision) or _trains(model.backbone.connector)
    num_language = backbone.num_kept_layers - (0 if sees else first)
    tokens = head.num_future_tokens + head.action_horizon + 1
    # tokens, width, hidden width, layers, bytes per channel
    blocks = [
        (size.num_patches, vision.hidden_size, vision.intermediate_size, vision.num_layers if sees else 0, _PLAIN),
        (size.num_tokens, language.hidden_size, language.intermediate_size, num_language, _GATED),
        (tokens, dit.width, 4 * dit.width, dit.num_layers, _DROPPING),
    ]
    if head.refiner:
        width = config.feature_dim
        blocks.append((size.num_tokens, width, 4 * width, head.refiner.num_layers, _DROPPING))
    num_cross = sum(attends(dit, i) is not Attends.ITSELF for i in range(dit.num_layers))
    keys_values = num_cross * size.num_tokens * 2 * dit.width * 2
    factor, kept, largest = _ADAPTED if is_adapted else 1.0, 0.0, 0.0
    for count, width, hidden, layers, rate in blocks:
        block_bytes = factor * _block_bytes(count, width, hidden, rate)
        if settings.checkpoint_activations and not (settings.fits_graph and rate is _DROPPING):
            kept += layers * count * width * 4  # inputs of the blocks; one block is whole at a time
            largest = max(largest, block_bytes if layers else 0.0)
        else:
            kept += layers * block_bytes
    return keys_values + kept + largest


def _block_bytes(count: int, width: int, hidden: int, rate: tuple[int, int]) -> float:
    return count * (rate[0] * width + rate[1] * hidden)


def _passing(config: Gr00tConfig, size: SampleSize) -> float:
    """Return what a block of the backbone needs for one sample while it runs [bytes]."""
    vision, language = config.backbone.vision, config.backbone.language
    return max(
        _block_bytes(size.num_patches, vision.hidden_size, vision.intermediate_size, (8, 4)),
        _block_bytes(size.num_tokens, language.hidden_size, language.intermediate_size, (8, 8)),
    )


def _first_trained_layer(model: Gr00tModel) -> int:
    """Return the first language layer that the backward pass reaches, if images are not trained."""
    language = model.backbone.language
    if _trains(language.embed_tokens):
        return 0
    return next((i for i, layer in enumerate(language.layers) if _trains(layer)), len(language.layers))


def _trains(module: nn.Module) -> bool:
    return any(x.requires_grad for x in module.parameters())
