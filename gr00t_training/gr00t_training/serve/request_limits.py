# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Limits of a request for actions, and of the state values in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.serve.wire import MAX_MESSAGE_BYTES, EncodedImages

MAX_STATE = 1e6  # magnitude in any unit, where the training statistics allow no larger one
STATE_MARGIN = 100.0  # times the largest magnitude in training, where that is more than `MAX_STATE`


@dataclass(frozen=True)
class RequestLimits:
    """Limits of a request for actions."""

    num_samples: int = 32
    image_bytes: int = MAX_MESSAGE_BYTES  # of all images, after decoding
    state: Mapping[str, np.ndarray] = field(default_factory=dict)  # key -> (D,) magnitudes; others `MAX_STATE`


def state_limits(statistics: Mapping[str, Mapping[str, KeyStatistics]] | None) -> dict[str, np.ndarray]:
    """Return the largest accepted magnitudes (D,) by state key."""
    known = {} if statistics is None else statistics["state"]
    return {
        key: np.maximum(MAX_STATE, STATE_MARGIN * np.maximum(np.abs(found.min), np.abs(found.max)))
        for key, found in known.items()
    }


def check_image_bytes(pictures: Mapping[str, np.ndarray | EncodedImages], limit: int) -> None:
    """Refuse image files that are larger after decoding than raw images could be."""
    found = sum(math.prod(images.shape) for images in pictures.values())
    if found > limit:
        raise ObservationError(f"video: images of {found} bytes (limit {limit}); send fewer or smaller images")


def check_state(key: str, values: np.ndarray, embodiment: Embodiment, limit: np.ndarray | float) -> None:
    """Refuse a state `(..., D)` with NaN or a magnitude above `limit`."""
    is_right = np.abs(values) <= limit  # NaN is not
    if not is_right.all():
        place = tuple(np.argwhere(~is_right)[0])
        vector, channel = embodiment.state[key], place[-1]
        raise ObservationError(
            f"state.{key}: '{vector.names[channel]}' is {values[place]:.4g} {vector.unit} "
            f"(limit {float(np.broadcast_to(limit, (vector.dim,))[channel]):.4g}); check the sensor and its unit"
        )
