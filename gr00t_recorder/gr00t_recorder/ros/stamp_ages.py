# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the stamps of a running graph with this machine's clock, for `gr00t doctor`.

Messages stay serialized: the stamp is the first field of a header, so neither type nor content of a message matters.
"""

from __future__ import annotations

import json
import statistics
import struct
import sys
import time
from collections import defaultdict
from functools import partial

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data

from gr00t_recorder.ros.ingest import message_class

TYPES = ("sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DISCOVERY_S = 2.0
STEP_S = 0.05


class StampListener(Node):
    """Takes what is published with a header, and remembers its age on arrival."""

    def __init__(self) -> None:
        super().__init__("gr00t_doctor", enable_rosout=False, start_parameter_services=False)
        self.ages_s: dict[str, list[float]] = defaultdict(list)
        self.is_simulated = False
        self._heard: set[str] = set()

    def subscribe(self) -> None:
        """Subscribe to the topics that appeared since the last call."""
        for topic, types in self.get_topic_names_and_types():
            self.is_simulated |= topic == "/clock"
            if topic in self._heard or types[0] not in TYPES:
                continue
            self._heard.add(topic)
            kind = message_class(types[0])
            self.create_subscription(kind, topic, partial(self._take, topic), qos_profile_sensor_data, raw=True)

    def _take(self, topic: str, message: bytes) -> None:
        order = "<" if message[1] & 1 else ">"  # encapsulation of CDR: 4 bytes
        seconds, nanoseconds = struct.unpack_from(f"{order}iI", message, 4)
        if seconds or nanoseconds:  # zero: not stamped
            self.ages_s[topic].append(time.time() - seconds - nanoseconds * 1e-9)


def main(seconds: float) -> None:
    """Print the median age of each topic's stamps [s]; negative: ahead of the clock."""
    rclpy.init()
    node = StampListener()
    end = time.monotonic() + DISCOVERY_S
    while time.monotonic() < end:
        node.subscribe()
        rclpy.spin_once(node, timeout_sec=STEP_S)
        if node.ages_s:
            end = min(end, time.monotonic() + seconds)
    node.ages_s.clear()  # what waited while this process was busy subscribing
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        node.subscribe()  # discovery takes longer on a busy machine
        rclpy.spin_once(node, timeout_sec=STEP_S)
    ages = {topic: statistics.median(found) for topic, found in node.ages_s.items() if found}
    print(f"\n{json.dumps({'is_simulated': node.is_simulated, 'ages_s': ages})}", flush=True)
    rclpy.shutdown()


if __name__ == "__main__":
    main(float(sys.argv[1]))
