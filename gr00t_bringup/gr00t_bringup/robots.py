# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of robots: of the shipped ones, or of a folder.

Those of the shipped ones are package data: a share folder exists in ROS installations only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gr00t_policy_node.onboard.robot_names import robot_folder
from gr00t_training.errors import ConfigError
from gr00t_training.settings import load_settings, setting

COMPACT_CHECKPOINT = "sim_arm_n1_compact"
# Fast DDS 2 (Humble, Jazzy) reads the first, Fast DDS 3 (Kilted, Lyrical) the second and warns about the first.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
NEW_PROFILE_RELEASES = ("kilted", "lyrical")


@dataclass(frozen=True)
class RolloutFile:
    """`rollout.yaml` of a robot. The simulator has the interface of ros/simulation_node.py; paths are relative."""

    simulator: tuple[str, ...] = setting(
        description="Command of the simulator; words that are files next to this one become their paths."
    )
    tasks: tuple[str, ...] = setting(description="Instructions that the simulator can judge.")
    image_topic: str = setting(description="Raw images for the videos of the trials.")
    settled_s: float = setting(
        0.0, "For so long a task must stay done to count [s]; 0: done once is enough.", ge=0.0, le=60.0
    )
    checkpoint: str = setting("", "Folder of a policy that is tried if none is given.")
    sentences: Mapping[str, tuple[str, ...]] = setting(
        default_factory=dict, description="Task -> other sentences for it, in the same order for every task."
    )

    def __post_init__(self) -> None:
        if not self.simulator or not self.tasks:
            raise ValueError("simulator and tasks need at least one entry")
        lengths = {task: len(texts) for task, texts in self.sentences.items()}
        if lengths and (set(lengths) != set(self.tasks) or len(set(lengths.values())) > 1):
            raise ValueError(
                f"sentences has {lengths}, expected the same number for each of the {len(self.tasks)} tasks"
            )


@dataclass(frozen=True)
class TrialRobot:
    """A simulated robot."""

    name: str  # of a shipped robot, or the folder of another one
    simulator: tuple[str, ...]
    tasks: tuple[str, ...]
    image_topic: str
    settled_s: float
    checkpoint: Path | None
    sentences: Mapping[str, tuple[str, ...]]

    def file(self, name: str) -> Path:
        """Return one of its files; ConfigError: it has no such file."""
        return robot_file(self.name, name)

    def other_task(self, task: str) -> str:
        """Return the task that follows, in the same sentence.

        Raises:
            ValueError: the simulator cannot judge this one.
        """
        for place, own in enumerate(self.tasks):
            texts = self._texts(own)
            if task in texts:
                return self._texts(self.tasks[(place + 1) % len(self.tasks)])[texts.index(task)]
        raise ValueError(f"'{task}' is no task of {self.name}, expected one of: {'; '.join(self.tasks)}")

    def check_task(self, task: str) -> str:
        """Return a task that the simulator can judge.

        Raises:
            ValueError: it cannot.
        """
        self.other_task(task)
        return task

    def _texts(self, task: str) -> tuple[str, ...]:
        return (task, *self.sentences.get(task, ()))


def robot_file(robot: str, name: str) -> Path:
    """Return the path of a robot's file, such as topics.yaml or limits.yaml.

    Args:
        robot: name of a shipped robot, or a folder with the files of another one.
        name: of the file.

    Raises:
        ConfigError: no such robot, or it has no such file.
    """
    path = robot_folder(robot) / name
    if not path.is_file():
        raise ConfigError(f"robot '{robot}' has no file {name}; give the path of your own file")
    return path


def has_robot_file(robot: str, name: str) -> bool:
    """Whether a robot has a file; arguments and errors as for `robot_file`."""
    return (robot_folder(robot) / name).is_file()


def load_robot(name: str) -> TrialRobot:
    """Read how a shipped robot, or that of a folder, is tried.

    Raises:
        ConfigError: it has no `rollout.yaml`, or a wrong one; names file and line.
    """
    path = robot_file(name, "rollout.yaml")
    given = load_settings(RolloutFile, path)
    words = (str(path.parent / word) if (path.parent / word).is_file() else word for word in given.simulator)
    if "/" in given.simulator[0] and not (path.parent / given.simulator[0]).is_file():
        raise ConfigError(
            f"{path}: simulator '{given.simulator[0]}' does not exist; install it there as its README says"
        )
    checkpoint = (path.parent / given.checkpoint).resolve() if given.checkpoint else None
    return TrialRobot(name, tuple(words), given.tasks, given.image_topic, given.settled_s, checkpoint, given.sentences)


def fastdds_profile() -> Path:
    """Return the Fast DDS profile with shared memory that is large enough for raw images."""
    return _package_folder() / "config" / "fastdds.xml"


def profile_environment() -> dict[str, str]:
    """Return the environment variable of that profile, unless the user has a profile."""
    if any(os.environ.get(name) for name in PROFILE_VARIABLES):
        return {}
    name = PROFILE_VARIABLES[os.environ.get("ROS_DISTRO") in NEW_PROFILE_RELEASES]
    return {name: str(fastdds_profile())}


def compact_checkpoint() -> Path:
    """Return the folder of the compact policy of the simulated arm."""
    return _package_folder() / "checkpoints" / COMPACT_CHECKPOINT


def _package_folder() -> Path:
    return Path(str(resources.files("gr00t_bringup")))
