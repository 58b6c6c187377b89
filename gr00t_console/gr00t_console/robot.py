# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the console asks of a robot's nodes, and what it knows of them; `ros/bridge.py` is one, tests have another."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Answer:
    """Answer to a request, for people."""

    is_done: bool
    text: str


@dataclass(frozen=True)
class PolicyView:
    """What decisions of the console need of the status of a policy node."""

    state: str  # idle, running, holding, stopped
    source: str  # who commands: none, policy, person, motion, hold, stop
    device: str = ""  # of the person in control
    cause: str = ""  # of a hold or a stop
    fault: str = ""  # why a person is not followed
    chunks: int = 0
    holds: int = 0
    clamps: int = 0
    stops: int = 0
    takeovers: int = 0

    @property
    def is_driven(self) -> bool:
        """Whether the robot moves, or may move on by itself, with no person's device in control."""
        return self.state in ("running", "holding") and not self.device


class Robot(Protocol):
    """The nodes of one robot."""

    @property
    def policy(self) -> PolicyView | None:
        """Newest status of the policy node, None if there is none."""
        ...

    @property
    def checkpoint(self) -> str:
        """Name of what the policy node runs."""
        ...

    @property
    def policy_lifecycle(self) -> str:
        """State of the policy node's lifecycle; empty: not known."""
        ...

    @property
    def policy_values(self) -> Mapping[str, Any]:
        """Parameters of the policy node, as far as they are known."""
        ...

    def stop(self) -> None:
        """Publish the emergency stop; returns at once."""

    def hold(self, is_held: bool) -> None:
        """Ask the policy node to hold what it does, or to go on; returns at once."""

    def steer(self, rates: Mapping[str, float] | None) -> None:
        """Send what the page asks for as a person's device: rates by joint; None: it is not engaged."""

    def ask(self, name: str, **members: Any) -> Awaitable[Answer]:
        """Call the service or action behind a request."""
        ...
