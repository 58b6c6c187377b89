# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""AdamW and the schedule of the learning rate, as in the recipe of the N1 release."""

from __future__ import annotations

import math
from typing import Any

import torch

from gr00t_training.errors import ConfigError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.quantize import bitsandbytes
from gr00t_training.train.settings import Optimizer, TrainerSettings
from gr00t_training.train.sharding import split_state

EPSILON = 1e-8  # of AdamW


def check_optimizer(model: Gr00tModel, settings: TrainerSettings) -> None:
    """Check that there is something to optimize, and what does it.

    Raises:
        ConfigError: nothing trains, or the library of the optimizer is not installed.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("no part of the model is trained; switch on one of the tune options")
    if settings.optimizer is Optimizer.ADAMW8BIT:
        bitsandbytes("optimizer")


def make_optimizer(model: Gr00tModel, settings: TrainerSettings) -> torch.optim.Optimizer:
    """Return AdamW over the parameters that train: decayed ones, then those that weight decay spares.

    Raises:
        ConfigError: nothing trains, or the library of the optimizer is not installed.
    """
    check_optimizer(model, settings)
    spared = model.undecayed_names()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if name not in spared], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trained.items() if name in spared], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer is Optimizer.ADAMW8BIT:
        library: Any = bitsandbytes("optimizer")
        return library.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=betas, eps=EPSILON)
    if next(iter(trained.values())).device.type == "cpu":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=EPSILON)
    rate = torch.tensor(settings.learning_rate, device=next(iter(trained.values())).device)  # changes inside a graph
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=EPSILON, fused=True, capturable=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, also of one on another kind of device.

    Raises:
        Exception: any, where the state is damaged or of other parameters.
    """
    own_keys = ("lr", "fused", "capturable", "foreach")
    kept = [{name: group[name] for name in own_keys if name in group} for group in optimizer.param_groups]
    groups = [{**group, **own} for group, own in zip(state["param_groups"], kept, strict=True)]
    state = {**state, "param_groups": groups}
    is_plain = isinstance(optimizer, torch.optim.AdamW)  # only its moments are split over processes
    optimizer.load_state_dict(split_state(state, optimizer) if is_plain else state)
    for group, own in zip(optimizer.param_groups, kept, strict=True):
        group.update(own)


def schedule(step: int, max_steps: int, warmup_ratio: float) -> float:
    """Return the share of the learning rate at `step`: a line up from zero, then half a cosine down to zero."""
    warmup = math.ceil(max_steps * warmup_ratio)
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, max_steps - warmup)))
