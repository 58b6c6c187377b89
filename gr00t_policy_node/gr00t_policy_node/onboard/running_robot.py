# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The running robot, where this machine has ROS: the rest of a command works without."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec

from gr00t_recorder.bag.heard import Heard
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.cli.entry import ROS
from gr00t_training.errors import ConfigError

SOURCE = "the running robot"


def listening(seconds: float, topic_map: TopicMap | None = None) -> AbstractContextManager[Heard]:
    """Give what was heard of a running robot (`gr00t_recorder.ros.listen`).

    Raises:
        ConfigError: ROS is not installed here, or nothing is published.
    """
    for need in ROS:
        if find_spec(need.module) is None:
            raise ConfigError(f"a running robot needs {need.module}, which is not installed; {need.remedy}")
    return import_module("gr00t_recorder.ros.listen").listening(seconds, topic_map)
