# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Values that cross the boundaries between packages.

Arrays in them are to be treated as read-only: they are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum

import numpy as np


class KeyKind(str, Enum):
    """What a key of a robot, a dataset or a topic map names."""

    STATE = "state"
    ACTION = "action"
    VIDEO = "video"
    DEPTH = "depth"
    ANNOTATION = "annotation"
    COMMAND = "command"  # who commands, see `SOURCE_REF`

    def __str__(self) -> str:
        return self.value


VECTOR_KINDS = (KeyKind.STATE, KeyKind.ACTION)


@dataclass(frozen=True)
class KeyRef:
    """One key of one kind; files, messages and reports have it as text, "state.arm"."""

    kind: KeyKind
    key: str

    @classmethod
    def parse(cls, text: str) -> KeyRef:
        """Read the text of a key.

        Raises:
            ValueError: no known kind, or no key behind it.
        """
        kind, _, key = text.partition(".")
        if not key or kind not in list(KeyKind):
            raise ValueError(f"'{text}': is not a key (expected {', '.join(KeyKind)}, then '.' and a name)")
        return cls(KeyKind(kind), key)

    def __str__(self) -> str:
        return f"{self.kind}.{self.key}"


class Verdict(str, Enum):
    """What a check or a test found; the order is from harmless to serious."""

    GO = "go"
    UNTESTED = "not tested"
    LOOK = "look"
    NO_GO = "no-go"

    def __str__(self) -> str:
        return self.value


SOURCE_REF = KeyRef(KeyKind.COMMAND, "source")  # who commands, in a frame's `ages_ns` and `filled`


class Commander(IntEnum):
    """Who commands the robot; numbers of `gr00t_msgs/msg/CommandSource` and of the column `command_source`."""

    NONE = 0  # nothing is commanded, or it is not known
    POLICY = 1
    PERSON = 2
    MOTION = 3  # a move to a pose, or a replay
    HOLD = 4
    STOP = 5


@dataclass(frozen=True)
class Frame:
    """Inputs and commands of a robot at one tick: one row of an episode."""

    tick_ns: int  # time of the row on the robot's clock
    state: Mapping[str, np.ndarray]  # key -> (D,) float64, embodiment units
    action: Mapping[str, np.ndarray]  # key -> (D,) float64, embodiment units; empty if only observing
    images: Mapping[str, np.ndarray]  # key -> (H, W, 3) uint8 RGB
    task: str = ""
    ages_ns: Mapping[str, int] = field(default_factory=dict)  # "state.arm" -> tick - stamp of the sample used
    filled: frozenset[str] = frozenset()  # bindings whose sample was older than their tolerance
    depth: Mapping[str, np.ndarray] = field(default_factory=dict)  # key -> (H, W) uint16, counts of the key's unit_m
    command_source: int | None = None  # a `Commander`, or another number of a robot; None: it is not recorded


@dataclass(frozen=True)
class Observation:
    """Input of a policy."""

    images: Mapping[str, np.ndarray]  # key -> (T, H, W, 3) uint8 RGB, oldest first
    state: Mapping[str, np.ndarray]  # key -> (T, D) float64, embodiment units
    instruction: str
    stamp_ns: int = 0  # tick of the newest row


@dataclass(frozen=True)
class ActionChunk:
    """Actions for `H` consecutive ticks, in robot units, already un-normalized and absolute."""

    actions: Mapping[str, np.ndarray]  # key -> (H, D) float64
    start_ns: int  # stamp of the observation this answers; row i is due at start_ns + i * step_ns
    step_ns: int  # tick period the policy was trained at
    timings_s: Mapping[str, float] = field(default_factory=dict)  # "preprocess", "infer", as far as the policy reports

    @property
    def horizon(self) -> int:
        """Number of ticks in the chunk."""
        return next(iter(self.actions.values())).shape[0]

    @property
    def end_ns(self) -> int:
        """Time at which the last row is due."""
        return self.start_ns + (self.horizon - 1) * self.step_ns


@dataclass(frozen=True)
class Continuation:
    """An earlier chunk that is still being carried out, for the next one to continue (real-time chunking)."""

    chunk: ActionChunk
    frozen_steps: int  # first steps of the next chunk that will be over before it is there: taken from the earlier one
    overlap_steps: int | None = None  # steps that are drawn to the earlier chunk; None: all that it still has
    ramp_rate: float = 6.0  # how soon steps behind the frozen ones go their own way; higher is sooner
    guidance: float | None = None  # greatest weight of a pull by gradient (arXiv 2506.07339) instead of the ramp
