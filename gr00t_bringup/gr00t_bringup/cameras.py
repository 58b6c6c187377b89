# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes and rates of a robot's cameras, for `gr00t doctor`, which runs this module in a process of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from gr00t_bringup.fake.plan import DriverFile
from gr00t_bringup.robots import has_robot_file, robot_file
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE
from gr00t_training.cli.command import run_command
from gr00t_training.doctor.use import ASSUMED_CAMERAS, Camera
from gr00t_training.settings import load_settings

DRIVER_FILE = "driver.yaml"


def cameras_of(robot: str) -> list[Camera]:
    """Return the cameras of a shipped robot, or of a folder with topics.yaml.

    Where the embodiment leaves a size open, it is the assumed one; where `driver.yaml` has no rate, it is that of the
    embodiment.

    Raises:
        ConfigError: no such robot, or a file of it is wrong.
    """
    topic_map, embodiment = load_topic_map(robot_file(robot, "topics.yaml"))
    has_driver = has_robot_file(robot, DRIVER_FILE)
    driver = load_settings(DriverFile, robot_file(robot, DRIVER_FILE)) if has_driver else DriverFile()
    found = []
    for bindings, keys in ((topic_map.video, embodiment.video), (topic_map.depth, embodiment.depth)):
        for name, binding in bindings.items():
            key, stream = keys[name], topic_map.streams[binding.stream]
            found.append(
                Camera(
                    name,
                    key.height or ASSUMED_CAMERAS[0].height,
                    key.width or ASSUMED_CAMERAS[0].width,
                    driver.rates_hz.get(binding.stream, float(embodiment.fps)),
                    stream.type == COMPRESSED_IMAGE_TYPE,
                )
            )
    return found


def main(robot: str) -> int:
    """Print the cameras as one line of JSON."""
    return run_command("gr00t_doctor", lambda: print(json.dumps([asdict(each) for each in cameras_of(robot)])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
