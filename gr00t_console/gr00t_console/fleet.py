# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""All robots whose nodes this machine hears, one row each; without ROS.

A robot is a namespace with a policy node, a recorder, or both. One that falls silent stays in the list as lost: a row
that disappears would look like a robot that was never there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from gr00t_console.robot import PolicyView

LOST_AFTER_S = 3.5  # statuses come at 1 Hz
FORGET_AFTER_S = 600.0
USUAL_NODES = ("policy", "recorder")
NAMELESS = "robot"  # of no namespace


@dataclass(frozen=True)
class PolicyNumbers:
    """What the list shows of the status of a policy node."""

    view: PolicyView
    reason: str = ""
    instruction: str = ""
    inference_s: float = 0.0  # medians of the last minute
    observation_s: float = 0.0
    observation_p95_s: float = 0.0


@dataclass(frozen=True)
class RecorderNumbers:
    """What the list shows of the status of a recorder."""

    state: str
    reason: str = ""
    episodes: int = 0


@dataclass(frozen=True)
class FleetRobot:
    """One row."""

    name: str  # namespace and policy node's name, as far as they tell robots apart
    policy: PolicyNumbers | None = None
    recorder: RecorderNumbers | None = None
    checkpoint: str = ""  # or the server that answers
    server: str = ""
    page: str = ""  # address of the robot's own operator page; empty: none is known
    heard_s: float = field(default=0.0, compare=False)


class Fleet:
    """The newest of every robot; called from the thread of the executor."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin without a robot; `monotonic` gives the time [s]."""
        self._monotonic = monotonic
        self._robots: dict[str, FleetRobot] = {}

    def note_policy(self, name: str, numbers: PolicyNumbers) -> None:
        """Take a status of a policy node."""
        self._change(name, policy=numbers, heard_s=self._monotonic())

    def note_recorder(self, name: str, numbers: RecorderNumbers) -> None:
        """Take a status of a recorder."""
        self._change(name, recorder=numbers, heard_s=self._monotonic())

    def note_facts(self, name: str, checkpoint: str, server: str) -> None:
        """Take what a policy node's parameters say about its policy."""
        if name in self._robots:
            self._change(name, checkpoint=checkpoint, server=server)

    def note_page(self, name: str, page: str) -> None:
        """Take the address of a robot's page from its console; what is no web address is ignored."""
        if name in self._robots and urlsplit(page).scheme in ("http", "https"):
            self._change(name, page=page)

    def rows(self) -> list[Mapping[str, Any]]:
        """Return a row per robot: those that share a server together, then by name; long silent ones are left out."""
        now_s = self._monotonic()
        self._robots = {name: each for name, each in self._robots.items() if now_s - each.heard_s < FORGET_AFTER_S}
        ordered = sorted(self._robots.values(), key=lambda each: (each.server, each.name))
        return [_row(each, now_s - each.heard_s) for each in ordered]

    def _change(self, name: str, **changes: Any) -> None:
        self._robots[name] = replace(self._robots.get(name, FleetRobot(name)), **changes)


def robot_name(path: str) -> str:
    """Return the name of the robot that a node belongs to, from the node's full name.

    It is the namespace; the node's own name is added where it is not the usual one, so that it tells robots apart.
    """
    namespace, _, name = path.rpartition("/")
    return (namespace if name in USUAL_NODES else path).strip("/") or NAMELESS


def _row(robot: FleetRobot, silent_s: float) -> Mapping[str, Any]:
    row = asdict(robot)
    del row["heard_s"]
    is_lost = silent_s > LOST_AFTER_S
    return {**row, "is_lost": is_lost, "silent_s": round(silent_s) if is_lost else 0}
