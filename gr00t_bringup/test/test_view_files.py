# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Layouts for Foxglove and RViz name only what the running nodes have; the predicted path is published as markers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("visualization_msgs")

from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from test_view_command import chunk, joint_state, picture, robot_folder
from test_view_kinematics import PLANAR
from visualization_msgs.msg import Marker, MarkerArray

from gr00t_bringup.robots import robot_file
from gr00t_bringup.ros import view
from gr00t_bringup.views.foxglove import foxglove_layout
from gr00t_bringup.views.names import NodeNames
from gr00t_bringup.views.robot import load_viewed_robot
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.ros.nodes import parameter_arguments
from gr00t_test_support.waiting import eventually

__all__ = ["robot_folder"]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NAMESPACE = "/arm1"


def write(folder: Path, *words: str) -> Path:
    """Run `gr00t view` for files only."""
    (folder / "arm.urdf").write_text(PLANAR)
    assert (
        view.main(["--robot", str(folder), "--urdf", str(folder / "arm.urdf"), "--namespace", NAMESPACE, *words]) == 0
    )
    return Path(words[-1])


def panel_paths(layout: dict[str, Any]) -> Iterator[str]:
    """Yield every topic and path into a message of a layout."""
    for panel, config in layout["configById"].items():
        kind = panel.partition("!")[0]
        if kind in ("Plot", "StateTransitions"):
            yield from (path["value"] for path in config["paths"])
        elif kind == "Image":
            yield config["imageMode"]["imageTopic"]
        elif kind == "RawMessages":
            yield config["topicPath"]
        elif kind == "DiagnosticSummary":
            yield config["topicToRender"]
        elif kind == "3D":
            yield from (*config["topics"], *(layer["topic"] for layer in config["layers"].values()))
        else:
            assert kind in ("CallService", "Tab"), panel


def places(tree: Any) -> Iterator[str]:
    """Yield the panels that an arrangement shows."""
    if isinstance(tree, str):
        yield tree
        return
    assert tree["direction"] in ("row", "column") and 0 < tree["splitPercentage"] < 100
    for side in ("first", "second"):
        yield from places(tree[side])


def field_fault(type_name: str, path: str) -> str:
    """Return what of a path a message type does not have."""
    for word in path.split(".") if path else []:
        name, _, index = word.partition("[")
        fields = message_class(type_name).get_fields_and_field_types()
        if name not in fields:
            return f"{type_name} has no {name}"
        kind = re.sub(r"^sequence<(.*?)(, \d+)?>$|\[\d*\]$", r"\1", fields[name])
        if bool(index) != (kind != fields[name]):
            return f"{type_name}.{name} is {fields[name]}"
        package, _, message = kind.partition("/")
        type_name = f"{package}/msg/{message}"
    return ""


@pytest.mark.slow
def test_every_topic_and_service_of_the_layout_is_there_with_its_type(robot_folder: Path, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint", make_embodiment())
    topics = robot_folder / "topics.yaml"
    topics.write_text(f"{topics.read_text()}action: {{arm: {{stream: joints}}, gripper: {{stream: joints}}}}\n")
    layout = json.loads(write(robot_folder, "--foxglove-layout", str(tmp_path / "robot.json")).read_text())
    common = {"topics_file": topics, "autostart": True}
    policy = parameter_arguments(checkpoint_path=tmp_path / "checkpoint", device="cpu", **common)
    policy += ["-p", f"limits_file:={robot_folder / 'limits.yaml'}", "-r", f"__ns:={NAMESPACE}"]
    recorder = [*parameter_arguments(dataset_path=tmp_path / "data", min_free_disk_gb=0.0, **common)]
    recorder += ["-r", f"__ns:={NAMESPACE}"]
    markers = ["--robot", robot_folder, "--urdf", robot_folder / "arm.urdf", "--namespace", NAMESPACE, "--markers"]
    domain = next_domain()
    with (
        spinning_node("robot", domain) as node,
        NodeProcess("gr00t_policy_node.ros.policy_node", *policy, domain=domain, OMP_NUM_THREADS="1"),
        NodeProcess("gr00t_recorder.ros.recorder_node", *recorder, domain=domain),
        NodeProcess("gr00t_bringup.ros.view", *markers, domain=domain),
    ):
        robot = {"joint_states": joint_state(0, 0.0), "front/image_raw": picture(0), "robot_description": String()}
        own = [node.create_publisher(type(message), f"{NAMESPACE}/{name}", 1) for name, message in robot.items()]
        wanted = sorted(set(panel_paths(layout)))
        assert own and len(wanted) > 20

        def missing() -> list[str]:
            there = {name: types[0] for name, types in node.get_topic_names_and_types()}
            return [path for path in wanted if path.partition(".")[0] not in there]

        eventually(lambda: not missing(), lambda: f"topics {missing()}")
        there = {name: types[0] for name, types in node.get_topic_names_and_types()}
        faults = {path: field_fault(there[path.partition(".")[0]], path.partition(".")[2]) for path in wanted}
        assert {path: fault for path, fault in faults.items() if fault} == {}
        buttons = [each for name, each in layout["configById"].items() if name.startswith("CallService!")]
        names = {each["serviceName"] for each in buttons}
        eventually(lambda: names <= {name for name, _ in node.get_service_names_and_types()}, f"services {names}")
        services = {name: types[0] for name, types in node.get_service_names_and_types()}
        for button in buttons:
            request = message_class(services[button["serviceName"]]).Request
            assert set(json.loads(button["requestPayload"])) <= set(request.get_fields_and_field_types())


@pytest.mark.parametrize("robot", shipped_robots())
def test_layouts_of_all_robots_show_every_panel_once(robot: str) -> None:
    viewed = load_viewed_robot(robot_file(robot, "topics.yaml"), robot_file(robot, "limits.yaml"))
    layout = json.loads(foxglove_layout(viewed, NodeNames()))
    assert layout["layout"] == "Tab!robot"
    shown = [panel for tab in layout["configById"]["Tab!robot"]["tabs"] for panel in places(tab["layout"])]
    assert sorted([*shown, "Tab!robot"]) == sorted(layout["configById"])
    cameras = [panel for panel in shown if panel.startswith("Image!")]
    assert len(cameras) == 2 * len(viewed.topic_map.video)


def test_the_rviz_file_has_root_link_and_topics(robot_folder: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(write(robot_folder, "--rviz-config", str(tmp_path / "robot.rviz")).read_text())
    manager = config["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "world"
    topics = {
        each["Name"]: each.get("Topic", each.get("Description Topic", {})).get("Value") for each in manager["Displays"]
    }
    assert topics == {
        "Grid": None,
        "Robot": "/arm1/robot_description",
        "Predicted path": "/arm1/gr00t_view/predicted_path",
        "Camera front": "/arm1/front/image_raw",
    }
    (path,) = [each for each in manager["Displays"] if each["Name"] == "Predicted path"]
    assert path["Class"] == "rviz_default_plugins/MarkerArray"


@pytest.mark.slow
def test_the_predicted_path_is_a_line_until_its_last_row(robot_folder: Path) -> None:
    (robot_folder / "arm.urdf").write_text(PLANAR)
    arguments = [
        "--robot",
        robot_folder,
        "--urdf",
        robot_folder / "arm.urdf",
        "--markers",
        "--tip",
        "tool0",
        "left_finger",
    ]
    domain = next_domain()
    with (
        spinning_node("robot", domain) as node,
        NodeProcess("gr00t_bringup.ros.view", *arguments, domain=domain) as process,
    ):
        received: list[MarkerArray] = []
        node.create_subscription(MarkerArray, "gr00t_view/predicted_path", received.append, 10)
        publisher = node.create_publisher(type(chunk(0, 0.0)), "policy/action_chunk", 10)
        eventually(publisher.get_subscription_count, "a view of chunks")
        joints = node.create_publisher(JointState, "joint_states", 10)
        eventually(joints.get_subscription_count, "a view of joints")
        publisher.publish(chunk(0, 0.0))  # years ago: nothing of it is ahead
        message = chunk(0, np.pi / 2)  # j0 and j1 at 90 degrees, the slide out by pi/2 m, for 60 s
        now = node.get_clock().now()
        message.header.stamp, message.step.sec, message.step.nanosec = now.to_msg(), 20, 0

        def publish() -> bool:
            joints.publish(JointState(name=["left"], position=[0.02]))  # of no key: the fingers are not commanded
            publisher.publish(message)
            return bool(received) and len(received[-1].markers) == 2

        eventually(publish, lambda: process.output)
        tool, finger = received[-1].markers
    assert (tool.type, tool.action, tool.ns, finger.ns) == (Marker.LINE_STRIP, Marker.ADD, "tool0", "left_finger")
    assert tool.header.frame_id == "world" and tool.header.stamp == now.to_msg()
    expected = [-(0.2 + np.pi / 2 + 0.1), 0.3, 0.5]
    np.testing.assert_allclose([[p.x, p.y, p.z] for p in tool.points], [expected] * 3, atol=1e-6)
    beside = [expected[0], expected[1] - 0.02, expected[2]]  # the tool is turned by 180 degrees
    np.testing.assert_allclose([[p.x, p.y, p.z] for p in finger.points], [beside] * 3, atol=1e-6)
    assert 0 < tool.lifetime.sec < 60
    assert len(tool.colors) == 3 and tool.colors[0] != tool.colors[-1]
    assert (tool.id, finger.id) == (0, 1)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--markers"], "--markers needs the robot's URDF"),
        (["--rviz-config", "out.rviz"], "--rviz-config needs the robot's URDF"),
        (["--foxglove-layout", "topics.yaml"], "topics.yaml: exists; choose another name or remove it"),
        (["--urdf", "limits.yaml", "--markers"], "URDF: not valid XML"),
    ],
)
def test_wrong_files_are_one_line(
    robot_folder: Path,
    words: list[str],
    fault: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(robot_folder)
    assert view.main(["--robot", ".", *words]) == 2
    printed = capsys.readouterr().err
    assert fault in printed and printed.count("\n") == 1
