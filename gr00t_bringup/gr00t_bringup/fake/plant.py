# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Joints that follow commands with a first-order lag, and a leader that a calm person holds.

No dynamics and no contacts: enough to see that what is commanded comes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gr00t_bringup.fake.plan import RobotPlan, VectorStream

LEADER_PERIOD_S = 8.0
LEADER_SHARE = 0.1  # of a joint's range
LEADER_REACH = 0.2  # of a joint without limits [its unit]


class Plant:
    """The values of every channel over time."""

    def __init__(self, plan: RobotPlan, now_s: float) -> None:
        """Stand at the pose of the start."""
        self._plan = plan
        self._values = dict(plan.start)
        self._moving = {**plan.start, **dict.fromkeys(plan.driven, 0.0)}  # what follows the commands
        self._targets = dict(self._moving)
        self._now_s = self._commanded_s = now_s

    def aim(self, targets: Mapping[str, float], now_s: float) -> None:
        """Follow these values from now on; channels that are not named keep theirs."""
        self.values(now_s)
        self._targets.update(targets)
        if not self._plan.rates.isdisjoint(targets):
            self._commanded_s = now_s

    def values(self, now_s: float) -> Mapping[str, float]:
        """Return the values by channel at a time, which never goes back."""
        if now_s - self._commanded_s > self._plan.timeout_s:
            self._targets.update(dict.fromkeys(self._plan.rates, 0.0))
        elapsed_s = max(now_s - self._now_s, 0.0)
        share = 1.0 - math.exp(-elapsed_s / self._plan.lag_s)
        for name, target in self._targets.items():
            self._moving[name] += share * (target - self._moving[name])
            is_driven = name in self._plan.driven
            self._values[name] = (
                self._values[name] + elapsed_s * self._moving[name] if is_driven else self._moving[name]
            )
        self._now_s = max(now_s, self._now_s)
        return self._values

    def leader(self, channel: str, now_s: float) -> float:
        """Return where a leader's joint is held: slowly around the start, within limits."""
        start, limit = self._plan.start[channel], self._plan.limits.get(channel)
        wave = math.sin(2 * math.pi * now_s / LEADER_PERIOD_S)
        if limit is None or not math.isfinite(limit.max - limit.min):
            return start + LEADER_REACH * wave
        return min(max(start + LEADER_SHARE * (limit.max - limit.min) * wave, limit.min), limit.max)

    def numbers(self, stream: VectorStream, now_s: float) -> list[float]:
        """Return the numbers of a message at a time; zero where the topic map uses none."""
        values = self.values(now_s)
        numbers = []
        for entry in stream.entries:
            value = 0.0
            if entry.channel:
                value = self.leader(entry.channel, now_s) if stream.is_leader else values[entry.channel]
            numbers.append((value - entry.offset) / entry.scale)
        return numbers

    def fractions(self) -> list[float]:
        """Return where each limited channel is between its limits, 0 to 1, in order; for pictures."""
        return [
            (self._values[name] - limit.min) / (limit.max - limit.min)
            for name, limit in self._plan.limits.items()
            if name in self._values and math.isfinite(limit.max - limit.min)
        ]
