# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking: the next chunk continues the one that the robot carries out.

The rows that remain of the earlier chunk are encoded as the model's own actions, counted from the new state, and the
sampler starts from them. A model can express values within the range of its statistics only. Relative actions have a
narrow range in every row, so remaining rows may be outside. The robot still executes them: the next chunk takes
its frozen rows unchanged, and what the model could not express fades over the rows that follow.

A model that was trained to be given the frozen rows (`rtc_max_delay`) takes them as they are, and no ramp or pull is
needed. More frozen rows than in training are continued as by any other model.

Letters in shapes: B samples, H horizon, O rows that remain, A action channels of the model, D channels of a key.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gr00t_training.embodiment import Embodiment, Interpolation, Rotation, VectorKey
from gr00t_training.model.sampler import Inpainting
from gr00t_training.rotations import WIDTHS, from_matrix, identity_pose, to_absolute, to_matrix, to_relative
from gr00t_training.transforms.pipeline import Pipeline
from gr00t_training.types import Continuation, Observation

Actions = Mapping[str, np.ndarray]  # key -> (rows, D), the robot's units


@dataclass(frozen=True)
class ContinuedBatch:
    """What the new chunks of a batch continue."""

    embodiment: Embodiment
    inpainting: Inpainting  # the remaining rows as the model's actions
    shares: Shares  # of the rows of the new chunks
    remaining: Sequence[Actions]  # of each sample, (O, D)
    expressed: Sequence[Actions]  # what the model can express of them, (O, D)

    @property
    def given(self) -> np.ndarray:
        """First rows of the sampler's start `(B, R, A)` float32, where noise follows."""
        return self.inpainting.actions.numpy()[:, : self.inpainting.started_rows]

    def blend(self, chunks: Sequence[Actions]) -> list[dict[str, np.ndarray]]:
        """Return new chunks `(H, D)` that continue the remaining rows even where the model cannot express them."""
        keys, weights = self.embodiment.action, self.shares.kept
        return [
            {key: corrected(keys[key], rows, expressed[key], remaining[key], weights) for key, rows in new.items()}
            for new, expressed, remaining in zip(chunks, self.expressed, self.remaining, strict=True)
        ]


@dataclass(frozen=True)
class Shares:
    """Numbers of `Inpainting` for each row, which depend on its steps and options only."""

    strength: np.ndarray  # (H,) float32 share of the velocity that a row follows
    prefix: np.ndarray  # (H,) float32, 1 at rows that are given as the model was trained
    kept: np.ndarray  # (O,) float64 share of what the model cannot express that is added to a row


def continue_chunks(
    pipeline: Pipeline,
    observations: Sequence[Observation],
    continuations: Sequence[Continuation | None] | None,
    *,
    horizon: int,
    trained_delay: int = 0,
) -> ContinuedBatch | None:
    """Prepare the new chunks of a batch to continue earlier ones; None if nothing remains to continue.

    Args:
        pipeline: encodes the remaining rows as actions of the model, relative ones from the new state.
        observations: that are answered.
        continuations: one per observation; all None, or all with the same number of steps and the same options.
        horizon: rows of the model's chunks.
        trained_delay: most frozen rows that the model was trained to be given; 0: it was not.

    Raises:
        ValueError: continuations are missing, or differ in steps or options.
        ObservationError: the state that relative actions count from is missing, or is not a rotation.
    """
    given = [continuation for continuation in continuations or () if continuation is not None]
    if not given:
        return None
    if len(given) != len(observations):
        raise ValueError(f"{len(given)} continuations for {len(observations)} observations, expected one for each")
    pairs = list(zip(observations, given, strict=True))
    remaining = [remaining_rows(pipeline.embodiment, *pair) for pair in pairs]
    # NumPy keeps Python's lock over such small arrays; each PyTorch operation would give it away and wait for it
    parts = [pipeline.encode_actions(*pair).numpy() for pair in zip(remaining, observations, strict=True)]
    options = {(len(part), c.frozen_steps, c.ramp_rate, c.guidance) for part, c in zip(parts, given, strict=True)}
    if len(options) > 1:
        raise ValueError(f"continuations of one batch differ in steps or options: {sorted(map(str, options))}")
    overlap, frozen_steps, ramp_rate, guidance = next(iter(options))
    if overlap == 0:
        return None
    frozen_steps = min(frozen_steps, overlap)
    is_prefix = 0 < frozen_steps <= trained_delay
    guidance = None if is_prefix else guidance
    actions = torch.from_numpy(np.stack(parts))
    inpainting = Inpainting(actions, frozen_steps, ramp_rate, guidance, is_prefix=is_prefix)
    shares = _shares(overlap, frozen_steps, ramp_rate, guidance, is_prefix, horizon)
    expressed = [pipeline.decode(*pair) for pair in zip(parts, observations, strict=True)]
    return ContinuedBatch(pipeline.embodiment, inpainting, shares, remaining, expressed)


@functools.lru_cache(maxsize=256)  # a robot asks for the same few again and again
def _shares(
    overlap: int, frozen_steps: int, ramp_rate: float, guidance: float | None, is_prefix: bool, horizon: int
) -> Shares:
    given = Inpainting(torch.empty(1, overlap, 1), frozen_steps, ramp_rate, guidance, is_prefix=is_prefix)
    kept = 1 - given.ramp(horizon) if guidance is None else given.pull(horizon)
    strength, prefix = given.strength(horizon)[:, 0], given.prefix(horizon).float()
    return Shares(strength.numpy(), prefix.numpy(), kept[:overlap, 0].double().numpy())


def remaining_rows(
    embodiment: Embodiment, observation: Observation, continuation: Continuation
) -> dict[str, np.ndarray]:
    """Return the rows of the earlier chunk from the observation on, key -> `(O, D)`."""
    chunk, horizon = continuation.chunk, embodiment.action_horizon
    first = (observation.stamp_ns - chunk.start_ns) / chunk.step_ns
    wanted = horizon if continuation.overlap_steps is None else min(continuation.overlap_steps, horizon)
    if first >= 0 and first.is_integer():
        return {key: chunk.actions[key][int(first) : int(first) + wanted] for key in embodiment.action_keys}
    rows = first + np.arange(wanted)
    rows = rows[rows <= chunk.horizon - 1]
    return {key: rows_at(embodiment.action[key], chunk.actions[key], rows) for key in embodiment.action_keys}


def rows_at(key: VectorKey, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return actions `(H, D)` at fractional rows `(O,)`: interpolated, or the nearest row of a key with steps."""
    last = len(actions) - 1
    if key.interpolation is Interpolation.STEP:
        return actions[np.clip(np.round(rows).astype(int), 0, last)]
    low = np.clip(np.floor(rows).astype(int), 0, last)
    high = np.minimum(low + 1, last)
    return _moved(key, actions[low], actions[low], actions[high], np.clip(rows - low, 0, 1))


def corrected(
    key: VectorKey, new: np.ndarray, expressed: np.ndarray, remaining: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return a key's new rows `(H, D)`, with what the model could not express added to the first `O`.

    Args:
        key: of the action.
        new: rows of the model.
        expressed: what the model can express of `remaining`, `(O, D)`.
        remaining: rows of the earlier chunk, `(O, D)`.
        weights: share of the difference to add `(O,)`; where it is 1 the earlier row itself is taken.
    """
    overlap = len(remaining)
    is_frozen = weights == 1
    # a key with steps has no values between
    shares = is_frozen.astype(float) if key.interpolation is Interpolation.STEP else weights
    moved = _moved(key, new[:overlap], expressed, remaining, shares)
    return np.concatenate([np.where(is_frozen[:, None], remaining, moved), new[overlap:]])


def _moved(key: VectorKey, base: np.ndarray, first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return `base` `(O, D)` moved by shares `(O,)` of the way from `first` to `second`."""
    shares = shares[:, None]
    if key.pose is not None:
        still = identity_pose(key.pose)
        return to_absolute(still + shares * (to_relative(second, first, key.pose) - still), base, key.pose)
    form = _rotation(key)
    if form is None:
        return base + shares * (second - first)
    way = np.swapaxes(to_matrix(first, form), -1, -2) @ to_matrix(second, form)
    turn = to_matrix(shares * from_matrix(way, Rotation.AXIS_ANGLE), Rotation.AXIS_ANGLE)
    return from_matrix(to_matrix(base, form) @ turn, form)


def _rotation(key: VectorKey) -> Rotation | None:
    if key.rotation is None and key.interpolation is Interpolation.SLERP and key.dim == WIDTHS[Rotation.QUATERNION]:
        return Rotation.QUATERNION
    return key.rotation
