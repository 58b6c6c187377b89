# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests between the stages of a policy: what `Policy.stage` prepares, and how several become one batch.

Samples that are joined have prompts of one length and the same places of image tokens, so that none is padded: the
models attend to padding, and an answer would depend on the prompts beside it.

Letters in shapes: B samples, T prompt tokens, H horizon, A action channels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gr00t_training.policy.continuation import ContinuedBatch
from gr00t_training.policy.engine import Request
from gr00t_training.transforms.resampling import Size
from gr00t_training.types import Observation


@dataclass(frozen=True)
class Prompts:
    """Tokens of the samples of a request."""

    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T)
    key: Hashable | None  # requests with equal keys may be computed together; None: alone


@dataclass(frozen=True)
class StagedRequest:
    """A checked request with its inputs of the model; noise is drawn when it starts."""

    observations: Sequence[Observation]
    continued: ContinuedBatch | None
    images: Sequence[np.ndarray]  # (H, W, 3) uint8, sample by sample
    prompts: Prompts
    state: np.ndarray  # (B, rows, state_dim) float32, normalized
    seconds: float  # of the preparation

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.observations)

    @property
    def key(self) -> Hashable | None:
        """What requests must share to be computed together; None: this one is computed alone."""
        return None if self.is_guided else self.prompts.key

    @property
    def is_guided(self) -> bool:
        """Whether it needs the gradient of the model."""
        return self.continued is not None and self.continued.inpainting.guidance is not None


@dataclass(frozen=True)
class StartedBatch:
    """Requests that are being computed."""

    num_samples: Sequence[int]  # of each request
    await_rows: Callable[[], tuple[np.ndarray, float]]  # actions of all samples, and the time of the device

    def wait(self) -> tuple[list[np.ndarray], float]:
        """Return the normalized actions `(B, H, A)` of each request and the time of the device [s]; call it once.

        The time excludes that in which the device computed earlier batches.
        """
        rows, seconds = self.await_rows()
        ends = np.cumsum(self.num_samples)
        return [rows[end - count : end] for end, count in zip(ends, self.num_samples, strict=True)], seconds


def joint_key(input_ids: Tensor, mask: Tensor, sizes: Sequence[Size], image_token: int) -> Hashable | None:
    """Return what requests must share to be computed together; None: this one is computed alone.

    Args:
        input_ids: of the prompts `(B, T)`.
        mask: of the prompts `(B, T)`.
        sizes: of the images, sample by sample.
        image_token: id of the places of images.
    """
    places = input_ids.numpy() == image_token
    if not mask.numpy().all() or not (places == places[0]).all():
        return None
    cameras = len(sizes) // len(places)
    if list(sizes) != list(sizes[:cameras]) * len(places):
        return None
    return tuple(sizes[:cameras]), places[0].tobytes()


def join(requests: Sequence[StagedRequest], noises: Sequence[Tensor], size: int) -> Request:
    """Return requests with equal keys as one of the engine, padded to `size` samples with copies of the last one."""
    parts = [_start(request, noise.numpy()) for request, noise in zip(requests, noises, strict=True)]
    missing = size - sum(request.num_samples for request in requests)
    images = [image for request in requests for image in request.images]
    images += images[-(len(images) // (size - missing)) :] * missing
    return Request(
        images=images,
        input_ids=_filled([request.prompts.input_ids for request in requests], missing),
        attention_mask=_filled([request.prompts.attention_mask for request in requests], missing),
        state=_repeated([request.state for request in requests], missing),
        start=_repeated([part[0] for part in parts], missing),
        strength=_repeated([part[1] for part in parts], missing),
        prefix=_repeated([part[2] for part in parts], missing),
    )


def by_length(request: Request) -> list[tuple[np.ndarray, Request]]:
    """Return the samples of a request by the length of their prompts, without padding, and their places in it."""
    lengths = request.attention_mask.numpy().sum(1)
    if (lengths == lengths[0]).all():
        return [(np.arange(len(lengths)), request)]
    cameras, prefix = len(request.images) // len(lengths), request.prefix
    parts = []
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        part = Request(
            images=[image for i in places for image in request.images[i * cameras : (i + 1) * cameras]],
            input_ids=request.input_ids[places, -length:],
            attention_mask=request.attention_mask[places, -length:],
            state=request.state[places],
            start=request.start[places],
            strength=request.strength[places],
            prefix=None if prefix is None else prefix[places],
        )
        parts.append((places, part))
    return parts


def _start(request: StagedRequest, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start `(B, H, A)`, strength and prefix `(B, H)` of a request."""
    rows = noise.shape[:2]
    if request.continued is None:
        return noise, np.ones(rows, np.float32), np.zeros(rows, np.float32)
    first, shares = request.continued.given, request.continued.shares
    start = np.concatenate([first, noise[:, first.shape[1] :]], 1)
    return start, np.broadcast_to(shares.strength, rows), np.broadcast_to(shares.prefix, rows)


def _filled(parts: Sequence[Tensor], missing: int) -> Tensor:
    """NumPy keeps Python's lock over such small arrays; each PyTorch operation would give it away and wait for it."""
    return torch.from_numpy(_repeated([part.numpy() for part in parts], missing))


def _repeated(parts: Sequence[np.ndarray], missing: int) -> np.ndarray:
    if len(parts) == 1 and not missing:
        return parts[0]
    return np.concatenate([*parts, *[parts[-1][-1:]] * missing])
