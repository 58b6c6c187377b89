# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reads the known contents of the reference bags, and writes the topic maps that the tests use for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Truth:
    """Contents of one episode of a reference bag."""

    fps: float
    task: str
    joint_names: list[str]
    headers_ns: dict[str, np.ndarray]  # camera -> stamps of all frames, dropped ones too
    dropped: dict[str, np.ndarray]  # camera -> whether a frame is missing in the bag
    knots_ns: np.ndarray
    states: np.ndarray  # (K, D) at the knots, linear between them
    actions: np.ndarray  # (K, D)

    def ticks_ns(self, camera: str, count: int) -> np.ndarray:
        """Return the first `count` ticks: a grid from the camera's first image on."""
        first = self.headers_ns[camera][~self.dropped[camera]][0]
        return first + np.array([round(k * 1e9 / self.fps) for k in range(count)])

    def states_at(self, ticks_ns: np.ndarray) -> np.ndarray:
        """Return the state at these times, (T, D)."""
        times = (ticks_ns - self.knots_ns[0]) / 1e9
        knots = (self.knots_ns - self.knots_ns[0]) / 1e9
        return np.stack([np.interp(times, knots, column) for column in self.states.T], axis=1)

    def frames_at(self, camera: str, ticks_ns: np.ndarray) -> np.ndarray:
        """Return the number of the recorded image closest to each tick."""
        recorded = np.flatnonzero(~self.dropped[camera])
        distance = np.abs(self.headers_ns[camera][recorded][None, :] - ticks_ns[:, None])
        return recorded[distance.argmin(axis=1)]


def load_truth(folder: Path, episode: int = 0) -> Truth:
    """Read the truth of one episode."""
    entry = json.loads((folder / "truth.json").read_text())["episodes"][episode]
    frames = [row for row in pq.read_table(folder / "frames.parquet").to_pylist() if row["episode"] == episode]
    knots = [row for row in pq.read_table(folder / "knots.parquet").to_pylist() if row["episode"] == episode]
    by_camera = {camera: [row for row in frames if row["camera"] == camera] for camera in entry["cameras"]}
    return Truth(
        fps=entry["fps"],
        task=entry["task"],
        joint_names=entry["joint_names"],
        headers_ns={camera: np.array([row["header_ns"] for row in rows]) for camera, rows in by_camera.items()},
        dropped={camera: np.array([row["dropped"] for row in rows]) for camera, rows in by_camera.items()},
        knots_ns=np.array([row["t_ns"] for row in knots]),
        states=np.array([row["state"] for row in knots]),
        actions=np.array([row["action"] for row in knots]),
    )


GR1_KEYS = {
    "left_arm": 0, "left_hand": 7, "left_leg": 13, "neck": 19, "right_arm": 22, "right_hand": 29, "right_leg": 35,
    "waist": 41,
}  # fmt: skip


def write_gr1_raw_topics(folder: Path) -> Path:
    """Write the topic map of `gr1_ep1_sqlite3_raw`: raw images, commands as trajectories with names."""
    lines = [
        "embodiment: gr1_arms_only",
        "streams:",
        # reliable, and room for the whole bag: what is lost on a loaded machine cannot be equal to the bag
        "  joints: {topic: joint_states, type: sensor_msgs/msg/JointState, reliability: reliable}",
        "  command:",
        "    topic: arm_controller/joint_trajectory",
        "    type: trajectory_msgs/msg/JointTrajectory",
        "    reliability: reliable",
        "  ego_view: {topic: camera/ego_view/image_raw, type: sensor_msgs/msg/Image, reliability: reliable, depth: 60}",
        "  events: {topic: episode/events, type: std_msgs/msg/String, stamp: receive, reliability: reliable}",
        "video: {ego_view: {stream: ego_view}}",
        "events: {stream: events}",
        "state:",
        *(f"  {key}: {{stream: joints}}" for key in GR1_KEYS),
        "action:",
        *(f"  {key}: {{stream: command, align: nearest}}" for key in GR1_KEYS),
    ]
    path = folder / "gr1_raw_topics.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_arm7_topics(folder: Path) -> Path:
    """Write embodiment and topic map of `arm7_two_cameras_sqlite3`: two cameras, a custom command type."""
    names = [f"panda_joint{i}" for i in range(1, 8)]
    keys = f"arm: {{names: [{', '.join(names)}]}}, gripper: {{names: [panda_finger_joint1], unit: m}}"
    (folder / "arm7.yaml").write_text(
        f"name: arm7\ntag: new_embodiment\nfps: 30\nstate: {{{keys}}}\naction: {{{keys}}}\n"
        "video: {front: {height: 120, width: 160}, wrist: {height: 120, width: 160}}\n"
    )
    action = "{stream: command, field: position, names_field: joint, align: nearest}"
    lines = [
        "embodiment: arm7.yaml",
        "streams:",
        "  joints: {topic: /joint_states, type: sensor_msgs/msg/JointState}",
        "  command: {topic: /arm/command, type: bench_msgs/msg/ArmCommand}",
        "  front: {topic: /camera/front/image_raw/compressed, type: sensor_msgs/msg/CompressedImage}",
        "  wrist: {topic: /camera/wrist/image_raw, type: sensor_msgs/msg/Image}",
        "  events: {topic: /episode/events, type: std_msgs/msg/String, stamp: receive}",
        "state: {arm: {stream: joints}, gripper: {stream: joints}}",
        f"action: {{arm: {action}, gripper: {action}}}",
        "video: {front: {stream: front}, wrist: {stream: wrist}}",
        "events: {stream: events}",
    ]
    path = folder / "arm7_topics.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_leader_topics(folder: Path, *, names: list[str], camera: str, size: tuple[int, int], fps: int) -> Path:
    """Write embodiment and topic map of a bag with a leader arm as action; the names differ from the messages'."""
    own = [f"motor_{i}" for i in range(len(names))]
    (folder / "leader.yaml").write_text(
        f"name: leader\ntag: new_embodiment\nfps: {fps}\n"
        f"state: {{arm: {{names: [{', '.join(own)}]}}}}\naction: {{arm: {{names: [{', '.join(own)}]}}}}\n"
        f"video: {{{camera}: {{height: {size[0]}, width: {size[1]}}}}}\n"
    )
    select = f"select: [{', '.join(names)}]"
    lines = [
        "embodiment: leader.yaml",
        "streams:",
        "  joints: {topic: /joint_states, type: sensor_msgs/msg/JointState}",
        "  leader: {topic: /leader/joint_states, type: sensor_msgs/msg/JointState}",
        f"  camera: {{topic: /camera/{camera}/image_raw/compressed, type: sensor_msgs/msg/CompressedImage}}",
        "  events: {topic: /episode/events, type: std_msgs/msg/String, stamp: receive}",
        f"state: {{arm: {{stream: joints, {select}}}}}",
        f"action: {{arm: {{stream: leader, align: nearest, {select}}}}}",
        f"video: {{{camera}: {{stream: camera}}}}",
        "events: {stream: events}",
    ]
    path = folder / "leader_topics.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def frame_number(image: np.ndarray) -> int:
    """Read the number in the top row of a coded image: 16 cells, cell i is bit i, white is 1."""
    width = image.shape[1] // 16
    bits = [image[4, width * i + width // 2].mean() > 127 for i in range(16)]
    return sum(1 << i for i, bit in enumerate(bits) if bit)
