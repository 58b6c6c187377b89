# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes and rates of cameras that `gr00t doctor --robot` counts with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gr00t_bringup.cameras import cameras_of
from gr00t_bringup.robots import robot_file
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_training.doctor.use import Camera
from gr00t_training.errors import ConfigError


def test_cameras_of_a_shipped_robot() -> None:
    front, wrist = cameras_of("so101")
    assert front == Camera("front", 480, 640, 30.0, is_compressed=True)
    assert wrist.name == "wrist"


@pytest.mark.parametrize("robot", shipped_robots())
def test_every_shipped_robot_has_cameras_with_a_rate(robot: str) -> None:
    for camera in cameras_of(robot):
        assert camera.height > 0
        assert camera.width > 0
        assert camera.rate_hz > 0


def test_folder_with_a_driver_file(tmp_path: Path) -> None:
    text = robot_file("so101", "topics.yaml").read_text()
    raw = text.replace("front/image_raw/compressed, type: sensor_msgs/msg/Compressed", "front, type: sensor_msgs/msg/")
    assert raw != text
    (tmp_path / "topics.yaml").write_text(raw)
    (tmp_path / "driver.yaml").write_text("rates_hz: {front: 60.0}\n")
    front, wrist = cameras_of(str(tmp_path))
    assert (front.rate_hz, front.is_compressed, wrist.is_compressed) == (60.0, False, True)


def test_unknown_robot_is_one_line() -> None:
    with pytest.raises(ConfigError, match="not shipped"):
        cameras_of("no_such_robot")
    words = [sys.executable, "-m", "gr00t_bringup.cameras", "no_such_robot"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    words[-1] = "so101"
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [each["name"] for each in json.loads(done.stdout)] == ["front", "wrist"]
