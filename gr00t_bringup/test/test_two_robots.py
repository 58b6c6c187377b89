# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Two robots in two namespaces, each with the nodes of collect.launch.py: what one does, the other never hears."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import numpy as np
import yaml
from gr00t_msgs.msg import CommandSource, PolicyStatus, RecorderStatus, StreamStatus
from gr00t_msgs.srv import StartEpisode, StopEpisode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from gr00t_bringup.robots import robot_file
from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import Peer
from gr00t_test_support.waiting import DEADLINE_S, eventually
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.types import Commander

pytestmark = pytest.mark.slow
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SHARED = {"/diagnostics", "/parameter_events", "/rosout"}  # of a whole ROS system
PATIENT_S = 10.0  # two cores are shared


def patient_robot(folder: Path) -> Path:
    """Write an SO-101 whose inputs may be old: a machine under load delivers late."""
    for name in ("topics.yaml", "topics_policy.yaml", "limits.yaml", "teleop.yaml", "driver.yaml"):
        content = yaml.safe_load(robot_file("so101", name).read_text())
        for stream in content.get("streams", {}).values():
            stream["max_age_s"] = PATIENT_S
        if "topics" in name:
            content["max_skew_s"] = PATIENT_S
        if "leader" in content:
            content["leader"]["max_age_s"] = PATIENT_S
        (folder / name).write_text(yaml.safe_dump(content))
    parameters = {
        "/**/policy": {"teleop_timeout_s": PATIENT_S, "control_rate_hz": 50.0},
        "/**/recorder": {"min_free_disk_gb": 0.0, "end_on_stale": False},
    }
    text = yaml.safe_dump({name: {"ros__parameters": values} for name, values in parameters.items()})
    (folder / "parameters.yaml").write_text(text)
    return folder


class Place:
    """One robot with its nodes."""

    def __init__(self, name: str, robot: Path, dataset: Path, domain: int, peer: Peer) -> None:
        self.name, self._peer = name, peer
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "OMP_NUM_THREADS": "1",
        }

        def start(command: str, *words: str) -> subprocess.Popen[bytes]:
            code = f"import sys; from gr00t_bringup.commands import {command}; sys.exit({command}())"
            return subprocess.Popen([sys.executable, "-c", code, *words], env=environment)

        fake = ["--ros-args", "-r", f"__ns:=/{name}", "-p", f"robot:={robot}", "-p", "max_rate_hz:=10.0"]
        self.fake = start("fake_robot_node", *fake)
        words = [f"robot:={robot}", f"namespace:={name}", f"dataset_path:={dataset}", "task:=wave", "console:=false"]
        parameters = f"params_file:={robot / 'parameters.yaml'}"
        self.launch = start("launch", "collect", *words, parameters)
        self.policy = peer.listen(PolicyStatus, f"{name}/policy/status", LATCHED)
        self.recorder = peer.listen(RecorderStatus, f"{name}/recorder/status", LATCHED)
        self.sources = peer.listen(CommandSource, f"{name}/policy/command_source")
        self.commands = peer.listen(JointTrajectory, f"{name}/arm_controller/joint_trajectory")
        self.joints = peer.listen(JointState, f"{name}/follower/joint_states")

    def sees_the_robot(self) -> bool:
        streams = self.policy[-1].streams if self.policy else []
        return bool(streams) and {each.state for each in streams} == {StreamStatus.OK} and bool(self.joints)

    def can_record(self) -> bool:
        streams = [each for each in self.recorder[-1].streams if each.name != "task"] if self.recorder else []
        return bool(streams) and {each.state for each in streams} == {StreamStatus.OK}

    def has_moved(self) -> bool:
        positions = np.array([message.position for message in self.joints])
        return bool(np.ptp(positions, axis=0).min() > 0.005)

    def children(self) -> list[int]:
        pid = self.launch.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> None:
        for process in (self.launch, self.fake):
            process.send_signal(signal.SIGINT)
        for process in (self.launch, self.fake):
            process.wait(DEADLINE_S)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def topics_of(peer: Peer, namespace: str) -> set[str]:
    """Return every topic that a node of a namespace publishes or subscribes to."""

    def names_of() -> list[str]:
        return [name for name, space in peer.node.get_node_names_and_namespaces() if space == f"/{namespace}"]

    peer.until(lambda: {"policy", "recorder", "teleop"} <= set(names_of()), f"the nodes of {namespace}")
    names = names_of()
    ends = (peer.node.get_publisher_names_and_types_by_node, peer.node.get_subscriber_names_and_types_by_node)
    return {topic for name in names for end in ends for topic, _ in end(name, f"/{namespace}")}


def test_two_robots_at_once_do_not_hear_each_other(tmp_path: Path) -> None:
    (tmp_path / "robot").mkdir()
    robot, domain = patient_robot(tmp_path / "robot"), next_domain()
    with Peer(domain) as peer:
        left, right = (Place(name, robot, tmp_path / name, domain, peer) for name in ("left", "right"))
        pids = []
        try:
            peer.until(lambda: left.sees_the_robot() and right.sees_the_robot(), "both robots")
            for place in (left, right):
                foreign = {each for each in topics_of(peer, place.name) if not each.startswith(f"/{place.name}/")}
                assert foreign <= SHARED
            assert peer.call(SetBool, "left/teleop/engage", data=True).success
            peer.until(lambda: left.sources[-1].source == CommandSource.PERSON, "the person at the left robot")
            peer.until(left.can_record, "the streams of the left recorder")
            assert peer.call(StartEpisode, "left/recorder/start_episode").error_code == 0
            peer.until(lambda: left.has_moved() and left.recorder[-1].frames > 10, "motion of the left robot")
            assert peer.call(StopEpisode, "left/recorder/stop_episode", keep=True).error_code == 0
            assert {message.device for message in left.sources} == {"", "leader"}

            assert {message.source for message in right.sources} == {CommandSource.NONE}
            assert right.commands == [] and not right.has_moved()
            assert {message.state for message in right.recorder} == {RecorderStatus.IDLE}
            pids = [*left.children(), *right.children()]
            assert len(pids) == 6
        finally:
            for place in (left, right):
                place.stop()
    assert [place.launch.returncode for place in (left, right)] == [0, 0]
    for pid in pids:
        eventually(lambda pid=pid: has_ended(pid), f"end of node {pid}")
    dataset = EpisodeDataset(tmp_path / "left")
    assert len(dataset.episodes) == 1
    assert Commander.PERSON in dataset.column(0, "command_source")
    assert not list((tmp_path / "right").rglob("*.parquet"))


def test_names_of_topics_are_relative() -> None:
    for path in sorted(robot_file("so101", "topics.yaml").parents[1].glob("*/*.yaml")):
        assert not re.search(r"\btopic: /", path.read_text()), path
