# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the controller may do, why, and when a hold becomes a stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gr00t_policy_node.limits import LimitKind
from gr00t_training.settings import setting


class ControlState(str, Enum):
    """Why the robot moves or does not."""

    IDLE = "idle"  # no task
    RUNNING = "running"
    HOLDING = "holding"  # a task, but an input is not usable or no action is due
    STOPPED = "stopped"  # latched


class HoldCause(str, Enum):
    """Why the robot is held during a task."""

    WAITING = "waiting"  # for the first chunk after a start or a hold
    INPUT = "input"  # stale, missing or not usable
    UNDERRUN = "underrun"  # the newest chunk has ended
    CHUNK = "chunk"  # one was refused
    POLICY = "policy"  # it failed to answer
    POSE = "pose"  # not measured, so the first motion cannot begin
    CLOCK = "clock"  # was set back
    OUTPUT = "output"  # nobody takes the commands


class StopCause(str, Enum):
    """Why the robot was stopped for good."""

    REQUEST = "request"  # service, topic or code
    INPUT = "input"  # not usable for longer than its budget
    OUTPUT = "output"  # not usable for longer than the inputs' budget
    SILENCE = "silence"  # no chunk for longer than its budget
    LIMITS = "limits"  # the policy asked too often for what is not allowed


@dataclass(frozen=True)
class StopRules:
    """When a hold becomes a stop that only a reset clears, and what the robot does then."""

    max_input_gap_s: float = setting(
        10.0, "Inputs or outputs not usable for longer than this stop the robot [s]; 0: they hold it for ever.", ge=0.0
    )
    max_silence_s: float = setting(
        10.0, "A policy without a chunk for longer than this, with fresh inputs, stops the robot [s]; 0: never.", ge=0.0
    )
    max_violations: int = setting(
        0, "So many ticks with a target beyond position or velocity limits stop the robot; 0: never.", ge=0
    )
    violation_window_s: float = setting(1.0, "Time in which these violations are counted [s].", ge=1e-3, le=3600.0)
    safe_pose: Mapping[str, float] = setting(
        default_factory=dict,
        description="Positions by channel that a stop leads to, within limits; others and with none all: hold.",
    )


@dataclass(frozen=True)
class ControlReport:
    """State and counts since the controller was made."""

    state: ControlState = ControlState.IDLE
    reason: str = "no instruction"
    instruction: str = ""
    chunks: int = 0
    stale_chunks: int = 0  # of an observation that is not newer than the last one's
    refused_observations: int = 0
    refused_chunks: int = 0
    limited_commands: int = 0
    underruns: int = 0  # ticks
    violations: int = 0  # ticks
    holds: Mapping[HoldCause, int] = field(default_factory=dict)  # how often one began
    stops: Mapping[StopCause, int] = field(default_factory=dict)
    clamps: Mapping[LimitKind, int] = field(default_factory=dict)  # commands changed, by limit
