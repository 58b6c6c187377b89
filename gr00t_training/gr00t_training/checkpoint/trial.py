# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a checkpoint without its weights: transforms, prompt and every layer, with shapes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gr00t_training.checkpoint.description import Checkpoint
from gr00t_training.errors import CheckpointError, Gr00tError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import Gr00tModel, to_device
from gr00t_training.transforms.observation import resting_observation

_INSTRUCTION = "Pick up the red cube."


def shape_model(config: Gr00tConfig, *, attention: str = "sdpa") -> Gr00tModel:
    """Return a model without memory for its weights; `attention` as in `Gr00tModel`.

    Raises:
        CheckpointError: sizes of config.json that contradict each other.
    """
    try:
        with torch.device("meta"), _NoDraws():
            return Gr00tModel(config, attention=attention).eval()
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: {error}; its sizes contradict each other") from error


def try_out(checkpoint: Checkpoint, model: Gr00tModel) -> None:
    """Run a made-up observation through a model of `shape_model`.

    Raises:
        Gr00tError: the first inference would fail, with the reason.
    """
    head = checkpoint.config.action_head
    try:
        pipeline = checkpoint.pipeline()
        observation = resting_observation(checkpoint.embodiment, _INSTRUCTION)
        batch = to_device(pipeline.collate([pipeline.encode(observation)]), "meta")
        noise = torch.empty((1, head.action_horizon, head.action_dim), device="meta")
        with torch.inference_mode():
            action = model.sample_actions(batch, noise, 1)
        pipeline.decode(torch.zeros(action.shape[1:]), observation)
    except Gr00tError:
        raise
    except (ValueError, LookupError, TypeError, RuntimeError, ArithmeticError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{checkpoint.path}: the first inference fails: {reason}") from error


class _NoDraws(TorchFunctionMode):
    """Draw no initial values: nothing is drawn without memory, but PyTorch imports its compiler for it, in seconds."""

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return given["tensor"] if func is nn.init.normal_ else func(*args, **given)
