# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The console as the device of a person: what to send to the node on `~/teleop`, and when to be silent.

A takeover from the page follows the rules of every other device. Silence of a device in control holds the robot: that
is how the loss of a browser that has taken over reaches the node. Any other hold is the service `~/hold`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DEVICE = "console"
JOG_TIMEOUT_S = 0.3  # a held button repeats itself; without that the joint stops
LINK_TIMEOUT_S = 0.6  # the page beats four times a second; a takeover is silent before its lease ends


@dataclass
class Steering:
    """State of the takeover from the page."""

    is_engaged: bool = False
    is_silent: bool = True  # engaged without messages: the robot is held
    rates: Mapping[str, float] = field(default_factory=dict)  # by action channel [unit of the channel per second]
    jogged_s: float = 0.0

    def engage(self) -> None:
        """Begin to command; the robot stands still until a joint is moved."""
        self.is_engaged, self.is_silent, self.rates = True, False, {}

    def silence(self) -> None:
        """Stay engaged without a message: the node holds the robot."""
        self.is_silent, self.rates = True, {}

    def release(self) -> None:
        """Command no more."""
        self.is_engaged, self.is_silent, self.rates = False, True, {}

    def jog(self, rates: Mapping[str, float], now_s: float) -> None:
        """Move joints until `JOG_TIMEOUT_S` from now."""
        self.rates, self.jogged_s = rates, now_s

    def due(self, now_s: float, link_silence_s: float) -> Mapping[str, float] | None:
        """Return the rates to send now, None for silence.

        Args:
            now_s: steady clock.
            link_silence_s: since the page was last heard of.
        """
        if not self.is_engaged or self.is_silent or link_silence_s > LINK_TIMEOUT_S:
            return None
        return self.rates if now_s - self.jogged_s <= JOG_TIMEOUT_S else {}
