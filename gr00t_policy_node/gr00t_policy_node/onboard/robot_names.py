# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""NAME|FOLDER: what every command calls a robot, the name of a shipped one or the folder of another one.

The shipped files are package data of gr00t_bringup, which is above this package: they are found where it is installed.
Launch reads this in the system's Python, so it imports nothing that a workspace installs with pip.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable

SHIPPED_WITH = "gr00t_bringup"
TOPICS_FILE = "topics.yaml"


def shipped_robots() -> list[str]:
    """Names of the robots whose configuration is installed."""
    folder = _shipped_folder()
    return [] if folder is None else sorted(path.parent.name for path in folder.glob(f"*/{TOPICS_FILE}"))


def robot_folder(robot: str) -> Path:
    """Return the folder of a robot's files.

    Args:
        robot: name of a shipped robot, or a folder with topics.yaml.

    Raises:
        ConfigError: neither, or both.
    """
    own, folder, shipped = Path(robot).resolve(), _shipped_folder(), shipped_robots()
    is_own = (own / TOPICS_FILE).is_file()
    if folder is not None and robot in shipped:
        if is_own and not own.samefile(folder / robot):
            raise ConfigError(
                f"robot '{robot}': is a shipped robot and a folder here; write ./{robot} for the folder, or rename it"
            )
        return folder / robot
    if is_own:
        return own
    known = f"not shipped, expected one of {', '.join(shipped)}" if shipped else f"{SHIPPED_WITH} is not installed"
    expected = ", or a folder with topics.yaml" if shipped else "; give a folder with topics.yaml"
    raise ConfigError(f"robot '{printable(robot)}': {known}{expected}")


def _shipped_folder() -> Path | None:
    spec = find_spec(SHIPPED_WITH)
    if spec is None or spec.origin is None:  # a folder of this name is no package
        return None
    return Path(spec.origin).parent / "config"
