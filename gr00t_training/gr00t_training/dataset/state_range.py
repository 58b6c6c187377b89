# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hold a robot's measured state against what a policy was trained on: the last look before it moves.

Embodiment and topic map agree by then, and still a driver may publish degrees where its documentation says radians.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError

# By unit: least reach of a joint that its statistics say nothing about; in other units 1.
_LEAST_REACH = {"rad": math.pi, "deg": 180.0}
# By unit: what is published instead by mistake, and what that is multiplied with.
_MISTAKEN = {"rad": (("degrees", math.pi / 180),), "m": (("millimetres", 0.001), ("centimetres", 0.01))}
MAX_TOLD = 4  # channels


def statistics_fingerprint(statistics: Mapping[str, Mapping[str, KeyStatistics]]) -> str:
    """Return a short hash of the statistics that a model scales with, kind -> key -> statistics.

    The embodiment's fingerprint does not cover them: it is stored in datasets, which have statistics of their own.
    """
    content = {kind: {key: values.to_mapping() for key, values in keys.items()} for kind, keys in statistics.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def describe_statistics(statistics: Mapping[str, Mapping[str, KeyStatistics]]) -> dict[str, Any]:
    """Return what a policy server tells of its statistics, as plain types: the fingerprint, and those of the state."""
    return {
        "statistics_fingerprint": statistics_fingerprint(statistics),
        "state_statistics": {key: values.to_mapping() for key, values in statistics["state"].items()},
    }


@dataclass(frozen=True)
class _Bounds:
    low: np.ndarray  # (D,) smallest value in training
    high: np.ndarray  # (D,) largest
    reach: np.ndarray  # (D,) what counts as one range


class StateRange:
    """What a policy saw of the state in training."""

    def __init__(
        self,
        embodiment: Embodiment,
        statistics: Mapping[str, KeyStatistics],
        max_ranges: float,
        *,
        endless: Collection[str] = (),
    ) -> None:
        """Take the statistics of the state keys that the model uses.

        The rule: a channel is refused when it lies further outside the smallest and the largest value of training than
        `max_ranges` times its range. A value seen in training is thus never refused, however rare. The range is that
        between the 1st and the 99th percentile, which a single spike does not widen; it counts as at least the largest
        magnitude of the two, so that a channel that stood still at a large count may move, and as at least pi (rad),
        180 (deg) or 1, so that a joint that hardly moved in training may stand anywhere and may have turned once. With
        3 ranges a joint of radians may then be 9.4 rad beyond everything seen: no normal pose is, and degrees are with
        any joint that is 10 degrees and a few times its range off zero.

        Args:
            embodiment: names and units of the channels.
            statistics: by state key; keys without are not looked at.
            max_ranges: how many ranges outside are still taken.
            endless: keys of joints that turn without end, whose values mean nothing; not looked at.

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
        """State keys that are looked at."""
        return frozenset(self._bounds)

    def strangers(self, state: Mapping[str, np.ndarray]) -> list[str]:
        """Return each channel that training never came near, with its value, range and the likely cause.

        Args:
            state: newest measured values (D,) by key; keys that are missing are not looked at.
        """
        items = []
        for key in [key for key in self._bounds if key in state]:
            bounds, value = self._bounds[key], state[key]
            excess = np.maximum(bounds.low - value, value - bounds.high)
            items += [
                self._told(key, channel, value) for channel in np.flatnonzero(excess > self._max_ranges * bounds.reach)
            ]
        if len(items) > MAX_TOLD:
            items = [*items[:MAX_TOLD], f"and {len(items) - MAX_TOLD} more channels"]
        return items

    def _told(self, key: str, channel: np.intp, value: np.ndarray) -> str:
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
