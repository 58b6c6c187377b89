# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the bag and the topic map that `convert_bag.py` converts when it is given none; needs no ROS."""

import json
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from write_dataset import ARM, ROBOT, make_frame

from gr00t_training.embodiment import to_mapping

TOPICS = """
embodiment: robot.json
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}
  command: {topic: joint_command, type: sensor_msgs/msg/JointState}
  front: {topic: image_raw, type: sensor_msgs/msg/Image}
state: {arm: {stream: joints}}
action: {arm: {stream: command}}
video: {front: {stream: front}}
anchor: front
"""


def write_bag(folder: Path) -> tuple[Path, Path]:
    """Write two seconds of joint states, commands and images; return the bag and its topic map."""
    (folder / "robot.json").write_text(json.dumps(to_mapping(ROBOT)))
    (folder / "topics.yaml").write_text(TOPICS)
    store = get_typestore(Stores.ROS2_HUMBLE)
    joint_state, image = store.types["sensor_msgs/msg/JointState"], store.types["sensor_msgs/msg/Image"]
    header, time = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    none = np.zeros(0)
    with Writer(folder / "bag", version=9) as bag:
        topics = {"/joint_states": joint_state, "/joint_command": joint_state, "/image_raw": image}
        links = {topic: bag.add_connection(topic, kind.__msgtype__, typestore=store) for topic, kind in topics.items()}
        for row in range(20):
            frame, stamp_ns = make_frame(row, 0.5), 10**9 + row * ROBOT.step_ns
            head = header(time(*divmod(stamp_ns, 10**9)), "")
            messages = {
                "/joint_states": joint_state(head, list(ARM.names), frame.state["arm"], none, none),
                "/joint_command": joint_state(head, list(ARM.names), frame.action["arm"], none, none),
                "/image_raw": image(head, 48, 64, "rgb8", 0, 64 * 3, frame.images["front"].reshape(-1)),
            }
            for topic, message in messages.items():
                bag.write(links[topic], stamp_ns, store.serialize_cdr(message, message.__msgtype__))
    return folder / "bag", folder / "topics.yaml"
