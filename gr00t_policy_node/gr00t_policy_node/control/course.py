# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Courses: rows that the robot follows without a policy, to reach a pose or to replay actions.

A course is executed like an action chunk, on a time of its own that passes only while the robot may move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from gr00t_policy_node.chunking.player import Plan


class CourseCause(str, Enum):
    """Why a course was refused, or how it ended."""

    REACHED = "reached"
    BUSY = "busy"  # a task or another course runs, or a person commands
    STOPPED = "stopped"  # latched
    INVALID = "invalid"  # channels, positions or times cannot be used
    NOT_ALIGNED = "not aligned"  # the robot is not near the first row
    NOT_REACHED = "not reached"  # the end, in time
    INTERRUPTED = "interrupted"  # a person took over, or a task began
    CANCELLED = "cancelled"


class CourseError(ValueError):
    """A course that is refused."""

    def __init__(self, cause: CourseCause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Course:
    """Rows to follow, and how far they are followed."""

    number: int
    speed: float  # share of the limits for a move, of the recorded speed for a replay
    goal: np.ndarray | None = None  # (N,) of a move, NaN where a channel stands still; None: a replay
    rows: np.ndarray | None = None  # (T, N) of a replay, NaN where a channel stands still
    step_ns: int = 0  # between the rows of a replay
    plan: Plan = ()  # made from the pose at the start; empty: not yet
    passed_ns: int = 0  # of its own time
    late_s: float = 0.0  # since the last row was due

    @property
    def end_ns(self) -> int:
        """Length of its own time; 0 while it is not planned."""
        return self.plan[0].chunk.end_ns if self.plan else 0

    @property
    def progress(self) -> float:
        """Share of its time that has passed."""
        return self.passed_ns / self.end_ns if self.end_ns else 0.0

    def paused(self) -> Course:
        """Return the course after a hold: a move is planned again from where the robot is then."""
        return self if self.goal is None or not self.plan else replace(self, plan=(), passed_ns=0, late_s=0.0)


@dataclass(frozen=True)
class CourseEnd:
    """How a course ended."""

    number: int
    cause: CourseCause
    reason: str = ""
