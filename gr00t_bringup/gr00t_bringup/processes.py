# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Simulator and policy node, in real time or in lock-step; without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gr00t_bringup.launch_files import LAUNCH_FILES, SuiteNode
from gr00t_bringup.parameters_file import read_parameters
from gr00t_bringup.robots import TrialRobot
from gr00t_training.errors import ConfigError

ROBOT = "sim_arm"
LOCK_STEP, REAL = "lock-step", "real"
CLOCK_HELP = "lock-step: simulated time waits for the policy; real: both run in real time."
MAX_STALL_S = 600.0  # of the clock: it does not advance while a model infers
DEFAULTS = {"control_rate_hz": 50.0, "inference_period_s": 0.2, "answer_delay_ticks": 0}  # of policy_node

Words = list[str | Path]


def launched(file: str, **given: str | Path) -> SuiteNode:
    """Return the first node of a launch file for these arguments."""
    return LAUNCH_FILES[file].nodes({name: str(value) for name, value in given.items()}, "/")[0]


def policy_of(checkpoint: Path, robot: str = ROBOT) -> SuiteNode:
    """Return the policy node that tries a checkpoint on a robot."""
    return launched("policy", robot=robot, checkpoint_path=checkpoint)


def stepped_clock(timing: Mapping[str, float], speed: float) -> dict[str, Any]:
    """Return the parameters of a simulator (ros/simulation_node.py) for lock-step.

    Args:
        timing: of the policy node, as `policy_timing` returns it.
        speed: most times real time; 0: without limit.
    """
    return {
        "clock": "sim",
        "speed": speed,
        "lock_step": True,
        "lock_step_control_s": 1.0 / timing["control_rate_hz"],
        "lock_step_query_s": max(
            timing["inference_period_s"], timing["answer_delay_ticks"] / timing["control_rate_hz"]
        ),
    }


def stepped_policy(policy: SuiteNode) -> SuiteNode:
    """Return the policy node for lock-step."""
    return policy.with_parameters(use_sim_time=True, max_clock_stall_s=MAX_STALL_S)


def policy_timing(robot: TrialRobot, parameters: Sequence[str]) -> dict[str, float]:
    """Return control rate, query period and delay that a policy node of the robot has with these parameters.

    Raises:
        ConfigError: one is no number.
    """
    shipped = read_parameters(robot.file("policy.yaml"), "/policy").values
    given: dict[str, Any] = dict(each.split(":=", 1) for each in parameters)
    values = {name: given.get(name, shipped.get(name, default)) for name, default in DEFAULTS.items()}
    try:
        timing = {name: float(value) for name, value in values.items()}
    except ValueError as error:
        raise ConfigError(f"--parameters: {error}") from error
    if timing["control_rate_hz"] <= 0:
        raise ConfigError(f"--parameters: control_rate_hz is {timing['control_rate_hz']:g}, expected more than 0")
    return timing


def parameter_words(**parameters: Any) -> Words:
    """Return parameters as words of a command."""
    words: Words = []
    for name, value in parameters.items():
        words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    return words
