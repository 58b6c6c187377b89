# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t view` next to a robot: what it publishes is in the recording, with its stamps."""

from __future__ import annotations

import array
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from builtin_interfaces.msg import Duration, Time
from gr00t_msgs.msg import ActionChunk, Count, PolicyStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from rerun_files import curve, read_rows
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from viewed_robot import write_viewed_robot

from gr00t_bringup.ros import view
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.waiting import eventually

pytestmark = pytest.mark.slow
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
T0 = 1_700_000_000
MS = 1_000_000
JOINTS = ("j0", "j1", "j2", "grip")
COMMANDS = """
commands:
  - {topic: arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory}
"""


@pytest.fixture
def robot_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "robot"
    folder.mkdir()
    write_viewed_robot(folder, COMMANDS)
    limits = {name: {"min": -2.0, "max": 2.0, "max_velocity": 0.5} for name in JOINTS}
    (folder / "limits.yaml").write_text(json.dumps({"joints": limits}))
    return folder


def stamp(ms: int) -> Time:
    return Time(sec=T0 + ms // 1000, nanosec=ms % 1000 * MS)


def joint_state(ms: int, value: float) -> JointState:
    message = JointState(name=list(JOINTS), position=[value, 0.0, 0.0, 0.1])
    message.header.stamp = stamp(ms)
    return message


def trajectory(ms: int, value: float) -> JointTrajectory:
    point = JointTrajectoryPoint(positions=[value, 0.0, 0.0, 0.1])
    message = JointTrajectory(joint_names=list(JOINTS), points=[point])
    message.header.stamp = stamp(ms)
    return message


def picture(ms: int) -> Image:
    pixels = bytes([200, 30, 60]) * (32 * 48)
    message = Image(height=32, width=48, encoding="rgb8", step=48 * 3, data=array.array("B", pixels))
    message.header.stamp = stamp(ms)
    return message


def chunk(ms: int, value: float) -> ActionChunk:
    rows = np.full((3, 4), value, np.float32)
    step = Duration(nanosec=100 * MS)
    message = ActionChunk(names=list(JOINTS), horizon=3, step=step, data=array.array("f", rows.tobytes()))
    message.header.stamp = stamp(ms)
    return message


def status(ms: int, state: int, reason: str, holds: int) -> PolicyStatus:
    message = PolicyStatus(state=state, reason=reason, holds=[Count(name="input", count=holds)])
    message.header.stamp = stamp(ms)
    return message


@contextmanager
def publishers(domain: int, namespace: str) -> Iterator[Callable[[str, Any], None]]:
    """Give what publishes a message on a topic once the view listens there."""
    kinds = {"joint_states": JointState, "arm/joint_trajectory": JointTrajectory, "front/image_raw": Image}
    with spinning_node("robot", domain) as node:
        found = {name: node.create_publisher(kind, f"{namespace}/{name}", 10) for name, kind in kinds.items()}
        found["policy/action_chunk"] = node.create_publisher(ActionChunk, f"{namespace}/policy/action_chunk", 10)
        found["policy/status"] = node.create_publisher(PolicyStatus, f"{namespace}/policy/status", LATCHED)

        def publish(name: str, message: Any) -> None:
            eventually(found[name].get_subscription_count, f"a view of {name}")
            found[name].publish(message)

        yield publish


def test_a_running_robot_is_recorded_with_its_stamps(robot_folder: Path, tmp_path: Path) -> None:
    path, domain = tmp_path / "run.rrd", next_domain()
    arguments = ["--robot", robot_folder, "--save", path, "--namespace", "/arm1"]

    def rows() -> dict[str, list[Any]]:
        try:
            return read_rows(path)
        except (OSError, ValueError, RuntimeError):  # it is being written
            return {}

    with (
        publishers(domain, "/arm1") as publish,
        NodeProcess("gr00t_bringup.ros.view", *arguments, domain=domain) as process,
    ):
        # kept for late readers; its publisher is the last one: the view knows the others when it comes
        publish("policy/status", status(0, PolicyStatus.RUNNING, "", 1))
        eventually(lambda: rows().get("/policy/log"), "the first status")
        for i in range(5):  # fewer than the history that is taken at once
            publish("joint_states", joint_state(20 * i, 0.1 * i))
            publish("arm/joint_trajectory", trajectory(20 * i, 0.5))
        publish("front/image_raw", picture(40))
        for i in range(2):
            publish("policy/action_chunk", chunk(100 * i, 1.0 + i))
        publish("policy/status", status(500, PolicyStatus.HOLDING, "front is stale", 2))
        wanted = {"/joints/arm/j0/state": 5, "/joints/arm/j0/command": 5, "/joints/arm/j0/chunk_1": 4, "/policy/log": 3}
        wanted["/cameras/front"] = 1
        eventually(lambda: all(len(rows().get(name, ())) >= n for name, n in wanted.items()), lambda: process.output)
        assert process.stop() == 0
        assert "Traceback" not in process.output

    found = read_rows(path)
    assert {name: len(found[name]) for name in wanted} == wanted
    state = curve(found["/joints/arm/j0/state"])
    assert [stamp_ns - T0 * 1_000_000_000 for stamp_ns, _ in state] == [20 * i * MS for i in range(5)]
    np.testing.assert_allclose([value for _, value in state], [0.1 * i for i in range(5)])
    assert {value for _, value in curve(found["/joints/arm/j0/command"])} == {0.5}
    assert [round((row.stamp_ns / MS) - T0 * 1000) for row in found["/joints/arm/j0/chunk_1"]] == [100, 200, 300, 400]
    assert {row.values["text"][0] for row in found["/policy/log"]} == {
        "running",
        "holding: front is stale",
        "hold: input",
    }
    (shown,) = found["/cameras/front"]
    decoded = cv2.imdecode(np.asarray(shown.values["blob"][0], np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded.shape == (32, 48, 3)
    np.testing.assert_allclose(decoded[16, 24], [200, 30, 60], atol=4)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "no robot: give --robot"),
        (["--robot", "nowhere"], "robot 'nowhere': not shipped"),
        (["--robot", "so101", "--picture-rate", "0"], "0 is not from 0.2 to 60"),
        (["--robot", "so101", "--connect", "rerun+http://127.0.0.1:1/proxy"], "is the viewer open?"),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        code = view.main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    lines = [line for line in capfd.readouterr().err.splitlines() if "gr00t_view: " in line]
    assert code == 2
    assert len(lines) == 1 and fault in lines[0]
