# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the measured state of a robot with the training data of a policy: the last check before it moves.

It finds what embodiment and topic map cannot show: a driver that publishes degrees but documents radians.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError

# By unit: smallest range of a channel, for one that hardly moved in training; 1 in other units.
_LEAST_REACH = {"rad": math.pi, "deg": 180.0}
# By unit: units that are often published by mistake, and their factor to the right one.
_MISTAKEN = {"rad": (("degrees", math.pi / 180),), "m": (("millimeters", 0.001), ("centimeters", 0.01))}
MAX_LISTED = 4  # channels


def statistics_fingerprint(statistics: Mapping[str, Mapping[str, KeyStatistics]]) -> str:
    """Return a short hash of the statistics that a model scales with, kind -> key -> statistics.

    The embodiment's fingerprint does not cover them: it is stored in datasets, which have other statistics.
    """
    content = {kind: {key: values.to_mapping() for key, values in keys.items()} for kind, keys in statistics.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def describe_statistics(statistics: Mapping[str, Mapping[str, KeyStatistics]]) -> dict[str, Any]:
    """Return what a policy server reports of its statistics, as plain types: fingerprint, and those of the state."""
    return {
        "statistics_fingerprint": statistics_fingerprint(statistics),
        "state_statistics": {key: values.to_mapping() for key, values in statistics["state"].items()},
    }


@dataclass(frozen=True)
class _Bounds:
    low: np.ndarray  # (D,) smallest value in training
    high: np.ndarray  # (D,) largest
    reach: np.ndarray  # (D,) size of one range


class StateRange:
    """Range of the state in the training data of a policy."""

    def __init__(
        self,
        embodiment: Embodiment,
        statistics: Mapping[str, KeyStatistics],
        max_ranges: float,
        *,
        endless: Collection[str] = (),
    ) -> None:
        """Take the statistics of the state keys that the model uses.

        A channel is out of range if it is below the minimum or above the maximum of training by more than `max_ranges`
        times its range. So a value that occurred in training is always accepted. The range is the distance between the
        1st and the 99th percentile, which a single spike does not widen. It is at least the larger magnitude of the
        two, so that a channel that was constant at a large count may move, and at least pi (rad), 180 (deg) or 1, so
        that a joint that hardly moved in training may be anywhere within one turn. With 3 ranges, a joint in radians
        may be 9.4 rad outside the training data: no normal pose is that far, but a value in degrees usually is.

        Args:
            embodiment: names and units of the channels.
            statistics: by state key; keys without statistics are not checked.
            max_ranges: number of ranges outside the training data that are accepted.
            endless: keys of continuous joints, whose values have no limit; not checked.

        Raises:
            CheckpointError: statistics have another width than the embodiment's key.
        """
        self._embodiment, self._max_ranges = embodiment, max_ranges
        self._bounds: dict[str, _Bounds] = {}
        for key in embodiment.state_keys:
            found, vector = statistics.get(key), embodiment.state[key]
            if found is None or key in endless:
                continue
            if found.min.shape != (vector.dim,):
                raise CheckpointError(
                    f"statistics of state.{key} have shape {found.min.shape}, embodiment '{embodiment.name}' expects "
                    f"({vector.dim},); take the statistics of its dataset"
                )
            parts = (found.q99 - found.q01, np.abs(found.q01), np.abs(found.q99))
            reach = np.maximum(np.max(parts, axis=0), _LEAST_REACH.get(vector.unit, 1.0))
            self._bounds[key] = _Bounds(found.min, found.max, reach)

    @property
    def keys(self) -> frozenset[str]:
        """State keys that are checked."""
        return frozenset(self._bounds)

    def channels_out_of_range(self, state: Mapping[str, np.ndarray]) -> list[str]:
        """Return each channel that is far outside the training data, with its value, range and the likely cause.

        Args:
            state: newest measured values (D,) by key; missing keys are not checked.
        """
        items = []
        for key in [key for key in self._bounds if key in state]:
            bounds, value = self._bounds[key], state[key]
            excess = np.maximum(bounds.low - value, value - bounds.high)
            items += [
                self._describe(key, channel, value)
                for channel in np.flatnonzero(excess > self._max_ranges * bounds.reach)
            ]
        if len(items) > MAX_LISTED:
            items = [*items[:MAX_LISTED], f"and {len(items) - MAX_LISTED} more channels"]
        return items

    def _describe(self, key: str, channel: np.intp, value: np.ndarray) -> str:
        vector, bounds, found = self._embodiment.state[key], self._bounds[key], float(value[channel])
        low, high, reach = (float(part[channel]) for part in (bounds.low, bounds.high, bounds.reach))
        for name, factor in _MISTAKEN.get(vector.unit, ()):
            if low - reach <= found * factor <= high + reach:
                cause = f"these may be {name}: check 'unit' in the topic map"
                break
        else:
            cause = "check unit and order of the channels in the topic map"
        return (
            f"state.{key}: '{vector.names[channel]}' is {found:.4g} {vector.unit}, in training it was {low:.4g} to "
            f"{high:.4g}; {cause}"
        )
