# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""From noise to actions along the velocity, also as the continuation of a chunk that is being carried out.

Time runs from 0 (noise) to 1 (actions).

Letters in shapes: B batch, H horizon, O overlapping steps, A action channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, int], Tensor]  # actions (B, H, A) and number of the step -> velocity (B, H, A)


@dataclass(frozen=True)
class Inpainting:
    """What is left of an earlier chunk, for the new one to continue.

    Without `guidance` the overlapping rows start from the earlier actions instead of noise and follow the velocity the
    less the sooner they are due (as N1.7 does). With it they start from noise and are drawn to the earlier actions
    (real-time chunking, arXiv 2506.07339). A model that was trained to be given frozen rows continues them by itself:
    all other rows start from noise (`is_prefix`, arXiv 2512.05964).
    """

    actions: Tensor  # (B, O, A) normalized, row i is due at step i of the new chunk
    frozen_steps: int  # first rows that will be carried out before the new chunk is there
    ramp_rate: float = 6.0  # how soon the rows behind follow the velocity; higher is sooner; not used with guidance
    guidance: float | None = None  # greatest weight of the pull to the earlier actions; 5 in the paper; None: no pull
    is_prefix: bool = False  # whether the frozen rows have the time of finished actions, as in training

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_steps <= self.overlap:
            raise ValueError(f"frozen_steps is {self.frozen_steps}, expected 0 to the {self.overlap} rows of actions")
        if not self.ramp_rate > 0:
            raise ValueError(f"ramp_rate is {self.ramp_rate}, expected a positive number")
        if self.guidance is not None and not self.guidance >= 0:
            raise ValueError(f"guidance is {self.guidance}, expected 0 or more, or None")
        if self.is_prefix and self.guidance is not None:
            raise ValueError(f"guidance is {self.guidance}, expected None for a model that continues the frozen rows")

    @property
    def overlap(self) -> int:
        """Steps that both chunks have."""
        return self.actions.shape[1]

    @property
    def started_rows(self) -> int:
        """First rows that start from the earlier actions instead of noise."""
        if self.guidance is not None:
            return 0
        return self.frozen_steps if self.is_prefix else self.overlap

    def prefix(self, horizon: int) -> Tensor:
        """Return which rows `(H,)` bool have the time of finished actions."""
        return (torch.arange(horizon) < self.frozen_steps) & self.is_prefix

    def strength(self, horizon: int) -> Tensor:
        """Return the share of the velocity `(H, 1)` float32 that each row follows: 0 frozen, then rising, 1 behind."""
        if self.is_prefix:
            return 1 - self.prefix(horizon).float()[:, None]
        return self.ramp(horizon)

    def ramp(self, horizon: int) -> Tensor:
        """Return `(H, 1)` float32, rising from 0 in the frozen rows to 1 behind the overlap."""
        ramp = torch.linspace(0, 1, self.overlap - self.frozen_steps + 2)[1:-1]
        shares = torch.ones(horizon)
        shares[: self.frozen_steps] = 0
        shares[self.frozen_steps : self.overlap] = (1 - torch.exp(-self.ramp_rate * ramp)) / (
            1 - math.exp(-self.ramp_rate)
        )
        return shares[:, None]

    def pull(self, horizon: int) -> Tensor:
        """Return how much each row `(H, 1)` float32 is to equal the earlier one: the paper's soft mask."""
        rows = torch.arange(self.frozen_steps, self.overlap)
        share = (self.overlap - rows) / (self.overlap - self.frozen_steps + 1)
        weights = torch.zeros(horizon)
        weights[: self.frozen_steps] = 1
        weights[self.frozen_steps : self.overlap] = share * torch.expm1(share) / (math.e - 1)
        return weights[:, None]


def integrate(velocity: Velocity, noise: Tensor, num_steps: int, inpainting: Inpainting | None = None) -> Tensor:
    """Follow the velocity from `noise` `(B, H, A)` in Euler steps; returns `(B, H, A)`.

    Args:
        velocity: of actions at the time `step / num_steps`.
        noise: standard normal.
        num_steps: of the integration.
        inpainting: an earlier chunk to continue; None: an independent chunk.

    Raises:
        ValueError: the earlier chunk does not fit the new one.
    """
    if inpainting is None:
        actions = noise
        for step in range(num_steps):
            actions = actions + velocity(actions, step) / num_steps
        return actions
    earlier = _fitted(inpainting, noise)
    if inpainting.guidance is not None:
        return _integrate_guided(velocity, noise, num_steps, inpainting, earlier, inpainting.guidance)
    actions = torch.cat([earlier[:, : inpainting.started_rows], noise[:, inpainting.started_rows :]], 1)
    strength = inpainting.strength(noise.shape[1]).to(noise)
    for step in range(num_steps):
        actions = actions + velocity(actions, step) * strength / num_steps
    return actions


def guidance_weight(time: float, limit: float) -> float:
    """Return the weight of the pull at a time in [0, 1), `limit` at most (arXiv 2506.07339, 2310.04432)."""
    if time == 0:
        return limit
    return min(limit, (time**2 + (1 - time) ** 2) / (time * (1 - time)))


def _integrate_guided(
    velocity: Velocity, noise: Tensor, num_steps: int, inpainting: Inpainting, earlier: Tensor, limit: float
) -> Tensor:
    """Add to the velocity the gradient of how well the actions that it leads to equal the earlier ones."""
    weights = inpainting.pull(noise.shape[1]).to(noise)
    actions = noise
    for step in range(num_steps):
        time = step / num_steps
        with torch.enable_grad():
            actions = actions.detach().requires_grad_()
            towards = velocity(actions, step)
            estimate = actions + (1 - time) * towards
            error = (weights * (earlier - estimate)).detach()
            (gradient,) = torch.autograd.grad(estimate, actions, error)
        actions = actions.detach() + (towards.detach() + guidance_weight(time, limit) * gradient) / num_steps
    return actions


def _fitted(inpainting: Inpainting, noise: Tensor) -> Tensor:
    """Return the earlier actions `(B, H, A)`, zero behind the overlap."""
    batch, horizon, channels = noise.shape
    found, overlap = tuple(inpainting.actions.shape), inpainting.overlap
    if found != (batch, overlap, channels) or overlap > horizon:
        raise ValueError(f"inpainting: actions of shape {found}, expected ({batch}, up to {horizon}, {channels})")
    return torch.nn.functional.pad(inpainting.actions.to(noise), (0, 0, 0, horizon - overlap))
