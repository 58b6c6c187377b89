# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Paths of the files of the shipped robots.

They are package data: a share folder exists in ROS installations only.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from gr00t_training.errors import ConfigError

COMPACT_CHECKPOINT = "sim_arm_n1_compact"
PROFILES_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # of Fast DDS


def robot_file(robot: str, name: str) -> Path:
    """Return the path of a shipped robot's file, such as topics.yaml, limits.yaml, policy.yaml or recorder.yaml.

    Raises:
        ConfigError: no such robot, or it has no such file.
    """
    if robot not in shipped_robots():
        raise ConfigError(f"robot '{robot}': not shipped, expected one of {', '.join(shipped_robots())}")
    path = _package_folder() / "config" / robot / name
    if not path.is_file():
        raise ConfigError(f"robot '{robot}' has no file {name}; give the path of your own file")
    return path


def shipped_robots() -> list[str]:
    """Names of the robots whose configuration comes with the package."""
    return sorted(path.name for path in (_package_folder() / "config").iterdir() if (path / "topics.yaml").is_file())


def fastdds_profile() -> Path:
    """Return the Fast DDS profile with shared memory that is large enough for raw images."""
    return _package_folder() / "config" / "fastdds.xml"


def compact_checkpoint() -> Path:
    """Return the folder of the compact policy of the simulated arm."""
    return _package_folder() / "checkpoints" / COMPACT_CHECKPOINT


def _package_folder() -> Path:
    return Path(str(resources.files("gr00t_bringup")))
