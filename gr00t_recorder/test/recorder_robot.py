# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot of two joints and a camera, and the recorder node under test seen from outside; for the recorder's tests."""

import json

import numpy as np
import pytest
from gr00t_msgs.msg import ErrorCode, RecorderStatus, StreamStatus
from gr00t_msgs.srv import StartEpisode, StopEpisode
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gr00t_recorder.ros.processes import next_domain, spinning_node
from gr00t_test_support.ros.nodes import ForkedNode, call, parameter_arguments
from gr00t_test_support.waiting import eventually

SIZE = (64, 96)
FPS = 10
MODULE = "gr00t_recorder.ros.recorder_node"


class Robot:
    """Publishes joints (position: seconds since the start), noisy images, and a command."""

    def __init__(self, node):
        self.has_camera = self.has_joints = self.has_leader = True
        self._node = node
        self._rng = np.random.default_rng(0)
        self._joints = node.create_publisher(JointState, "/joint_states", 10)
        self._command = node.create_publisher(JointState, "/leader", 10)
        self._camera = node.create_publisher(Image, "/image", 10)
        self._task = node.create_publisher(String, "/task", 10)
        self._events = node.create_publisher(String, "/events", 10)
        self.start_ns = node.get_clock().now().nanoseconds
        node.create_timer(0.02, self._move)
        node.create_timer(1 / FPS, self._look)

    def mark(self, **members):
        self._publish_once(self._events, json.dumps(members))

    def name_task(self, text):
        self._publish_once(self._task, text)

    def _publish_once(self, publisher, text):
        """Publish to a recorder that listens: it has its topics one after the other."""
        eventually(publisher.get_subscription_count, lambda: f"a subscription to {publisher.topic_name}")
        publisher.publish(String(data=text))

    def _move(self):
        now = self._node.get_clock().now()
        seconds = (now.nanoseconds - self.start_ns) / 1e9
        publishers = [(self._joints, 0.0)] if self.has_joints else []
        publishers += [(self._command, 100.0)] if self.has_leader else []
        for publisher, offset in publishers:
            message = JointState(name=["b", "a"], position=[2 * seconds + offset, seconds + offset])
            message.header.stamp = now.to_msg()
            publisher.publish(message)

    def _look(self):
        if self.has_camera:
            pixels = self._rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            message = Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=SIZE[1] * 3, data=pixels.tobytes())
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._camera.publish(message)


class Recorder:
    """The node under test, seen from outside."""

    def __init__(self, node, process):
        self.process = process
        self._node = node
        self._statuses = []
        self._answered_ns = 0
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(RecorderStatus, "/recorder/status", self._statuses.append, latched)

    @property
    def status(self):
        return self._statuses[-1] if self._statuses else RecorderStatus(state=255)

    def wait(self, condition, what):
        """Wait for a status made after the last answer; an older one may describe the episode before."""

        def holds():
            made = self.status.header.stamp
            made_ns = made.sec * 10**9 + made.nanosec or self._answered_ns  # zero: its clock stands still
            return made_ns >= self._answered_ns and condition(self.status)

        return eventually(holds, lambda: f"{what}; status {self.status}, log {self.process.output}")

    def wait_until_ready(self):
        self.wait(
            lambda status: status.streams and all(s.state == StreamStatus.OK for s in status.streams[:3]), "ready"
        )

    def start(self, task="lift"):
        return self.call(StartEpisode, "start_episode", task=task)

    def stop(self, keep=True, **members):
        return self.call(StopEpisode, "stop_episode", keep=keep, **members)

    def call(self, kind, name, **members):
        answer = call(self._node, kind, f"/recorder/{name}", kind.Request(**members))
        self._answered_ns = self._node.get_clock().now().nanoseconds
        return answer

    def record(self, task="lift", rows=3, **members):
        assert self.start(task).error_code == ErrorCode.NONE
        self.wait(lambda status: status.frames >= rows, f"{rows} rows of '{task}'")
        return self.stop(**members)

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(self._node, ChangeState, "/recorder/change_state", request).success


@pytest.fixture
def topics(tmp_path):
    keys = "arm: {names: [a, b]}"
    (tmp_path / "tiny.yaml").write_text(
        f"name: tiny\ntag: new_embodiment\nfps: {FPS}\nstate: {{{keys}}}\naction: {{{keys}}}\n"
        f"video: {{front: {{height: {SIZE[0]}, width: {SIZE[1]}}}}}\n"
    )
    (tmp_path / "topics.yaml").write_text(
        "embodiment: tiny.yaml\nstreams:\n"
        "  joints: {topic: joint_states, type: sensor_msgs/msg/JointState, max_age_s: 2.0}\n"
        "  leader: {topic: leader, type: sensor_msgs/msg/JointState, max_age_s: 2.0}\n"
        "  camera: {topic: image, type: sensor_msgs/msg/Image, max_age_s: 2.0}\n"
        "  events: {topic: events, type: std_msgs/msg/String, stamp: receive, reliability: reliable}\n"
        "  task: {topic: task, type: std_msgs/msg/String, stamp: receive, reliability: reliable}\n"
        "state: {arm: {stream: joints}}\naction: {arm: {stream: leader}}\nvideo: {front: {stream: camera}}\n"
        "events: {stream: events}\ntask: {stream: task}\n"
    )
    return tmp_path / "topics.yaml"


@pytest.fixture
def launch(topics, tmp_path):
    """Start a robot and a recorder; both end with the test."""
    opened = []

    def start(kind=ForkedNode, **parameters):
        values = {"topics_file": topics, "dataset_path": tmp_path / "dataset", "min_free_disk_gb": 0.0, **parameters}
        domain = next_domain()
        process = kind(MODULE, *parameter_arguments(**values), domain=domain)
        for manager in (spinning_node("robot", domain), process):
            opened.append((manager, manager.__enter__()))
        node, process = opened[0][1], opened[1][1]
        return Robot(node), Recorder(node, process), node

    yield start
    for manager, _ in reversed(opened):
        manager.__exit__(None, None, None)
