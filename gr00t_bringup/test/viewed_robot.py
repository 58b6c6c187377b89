# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of the robot that the tests of `gr00t view` look at: that of `make_embodiment`."""

from __future__ import annotations

import json
from pathlib import Path

from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import to_mapping

TOPICS = """
embodiment: embodiment.json
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}
  front: {topic: front/image_raw, type: sensor_msgs/msg/Image}
state: {arm: {stream: joints}, gripper: {stream: joints}}
video: {front: {stream: front}}
"""


def write_viewed_robot(folder: Path, commands: str = "") -> Path:
    """Write embodiment and topic map, which may have a section `commands`; return the topic map."""
    (folder / "embodiment.json").write_text(json.dumps(to_mapping(make_embodiment())))
    path = folder / "topics.yaml"
    path.write_text(TOPICS + commands)
    return path
