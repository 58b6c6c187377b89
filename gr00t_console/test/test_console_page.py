# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The page in a headless browser, with policy_node, recorder_node and console as separate processes behind it."""

from __future__ import annotations

import array
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("fastapi")

from gr00t_msgs.msg import PolicyStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState

from gr00t_bringup.trials.table import TrialTable
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.browser import Browser, Page, find_browser
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.ros.nodes import parameter_arguments
from gr00t_test_support.waiting import eventually
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import to_mapping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="a browser: install chromium"),
]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
JOINTS = ("j0", "j1", "j2", "grip")
# a loaded machine: nothing is stale, late or lost for seconds
TOPICS = """
embodiment: embodiment.json
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState, max_age_s: 20.0}
  front: {topic: front/image_raw, type: sensor_msgs/msg/Image, max_age_s: 20.0}
state: {arm: {stream: joints}, gripper: {stream: joints}}
action: {arm: {stream: joints, align: hold}, gripper: {stream: joints, align: hold}}
video: {front: {stream: front}}
max_skew_s: 20.0
commands:
  - {topic: arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory}
"""
LOST_AFTER_S = 5.0
POLICY = {
    "autostart": True,
    "control_rate_hz": 20.0,
    "inference_period_s": 1.0,
    "device": "cpu",
    "teleop_timeout_s": 5.0,
    "max_silence_s": 0.0,
    "max_input_gap_s": 0.0,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robot")
    embodiment = make_embodiment()
    (folder / "embodiment.json").write_text(json.dumps(to_mapping(embodiment)))
    (folder / "topics.yaml").write_text(TOPICS)
    limits = {name: {"min": -2.0, "max": 2.0, "max_velocity": 0.5} for name in JOINTS}
    (folder / "limits.yaml").write_text(json.dumps({"joints": limits}))
    make_checkpoint(folder / "checkpoint", embodiment)
    return folder


@contextmanager
def robot(domain: int) -> Iterator[list[PolicyStatus]]:
    """Publish a camera and joints from a thread; give the statuses of the policy node."""
    with spinning_node("robot", domain) as node:
        joints, images = node.create_publisher(JointState, "joint_states", 10), _images(node)
        statuses: list[PolicyStatus] = []
        node.create_subscription(PolicyStatus, "policy/status", statuses.append, LATCHED)

        def move() -> None:
            message = JointState(name=list(JOINTS), position=[0.5, -0.5, 0.25, 0.1])
            message.header.stamp = node.get_clock().now().to_msg()
            joints.publish(message)

        node.create_timer(0.05, move)
        node.create_timer(0.1, images)
        yield statuses


def _images(node: Node) -> Callable[[], None]:
    publisher = node.create_publisher(Image, "front/image_raw", 5)
    message = Image(height=32, width=48, encoding="rgb8", step=48 * 3, data=array.array("B", bytes(32 * 48 * 3)))

    def publish() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    return publish


@contextmanager
def ready(condition: Callable[[], object]) -> Iterator[None]:
    """Wait for the policy, whose model is prepared, before a browser takes the cores."""
    eventually(condition, "an idle policy node")
    yield


def take_control(page: Page, name: str) -> None:
    page.type("#name", name)
    page.click("#control")
    page.has("#holder", f"{name}, you have control")


def press_key(page: Page, key: str) -> None:
    page.value("document.activeElement.blur()")
    page.press(key)


def test_an_operator_records_runs_takes_over_stops_and_judges(files: Path, tmp_path: Path) -> None:
    domain, dataset = next_domain(), tmp_path / "data"
    policy = parameter_arguments(
        checkpoint_path=files / "checkpoint",
        topics_file=files / "topics.yaml",
        limits_file=files / "limits.yaml",
        **POLICY,
    )
    recorder = parameter_arguments(
        topics_file=files / "topics.yaml", dataset_path=dataset, autostart=True, min_free_disk_gb=0.0, max_lag_s=8.0
    )
    console = ["--port", "0", "--lost-after", str(LOST_AFTER_S), "--trials", tmp_path / "trials.csv"]
    with (
        robot(domain) as statuses,
        NodeProcess("gr00t_policy_node.ros.policy_node", *policy, domain=domain, OMP_NUM_THREADS="1"),
        NodeProcess("gr00t_recorder.ros.recorder_node", *recorder, domain=domain),
        NodeProcess("gr00t_console.ros.console", *console, domain=domain) as server,
        ready(lambda: statuses and statuses[-1].state == PolicyStatus.IDLE),
        Browser() as browser,
    ):
        found = eventually(lambda: re.search(r"operator page: (http\S+)", server.output), lambda: server.output)
        anna, ben = browser.page(), browser.page(width=390, height=844)
        for page in (anna, ben):
            page.open(found[1])
            page.has("#state", "idle")
        anna.until("/checks, no fault|warning|fault/.test(document.querySelector('#robot').textContent)", "the doctor")
        take_control(anna, "Anna")
        ben.has("#control", "Take control")
        ben.until("document.getElementById('control').disabled", "nobody else may take control")
        ben.until("document.querySelector('#robot [data-joint] .num')?.textContent.includes('0.500 rad')", "joints")
        ben.until("document.querySelector('#robot .camera img')?.naturalWidth === 48", "pictures")

        anna.click("#tab-collect")
        anna.type("#task", "lift the cube")
        anna.click("#collect .field + .row button")
        anna.has("#collect", "lift the cube")
        for key, episodes in (("k", 1), ("d", 1)):
            anna.until("!document.querySelector('#collect button.primary').disabled", "an episode can start")
            press_key(anna, "s")
            anna.until("Number(document.querySelectorAll('#collect .figures b')[2]?.textContent) >= 3", "rows")
            press_key(anna, key)
            anna.until(f"document.querySelectorAll('#collect .figures b')[4]?.textContent === '{episodes}'", "episodes")
            anna.has("#collect .pill", "idle")

        anna.click("#tab-policy")
        anna.type("#instruction", "lift the cube")
        anna.click("#policy button.primary")
        anna.until("Number(document.querySelector('#policy .stack:last-child .figures b')?.textContent) > 0", "chunks")
        anna.click("#policy .big button:nth-child(4)")  # take over
        eventually(lambda: statuses[-1].device == "console", "takeover")
        anna.click("#policy .big button:nth-child(5)")  # give back
        eventually(lambda: statuses[-1].device == "", "policy in control")
        anna.click("#policy .big button:nth-child(2)")  # end
        anna.has("#state", "idle")

        anna.click("#tab-trials")
        anna.type("#trial-task", "lift the cube")
        for number, button in enumerate((2, 3, 2)):
            anna.click("#trials .big button:nth-child(1)")
            anna.click(f"#trials .big button:nth-child({button})")
            anna.until(f"document.querySelectorAll('#trials tbody')[1]?.rows.length === {number + 1}", "rows of trials")
            anna.has("#state", "idle")
        anna.click("#tab-policy")
        anna.click("#policy button.primary")
        eventually(lambda: statuses[-1].state in (PolicyStatus.RUNNING, PolicyStatus.HOLDING), "a task runs")
        assert anna.errors == []
        anna.close()
        ben.has("#banner", "The robot is held: the browser of Anna was lost")
        eventually(lambda: statuses[-1].cause == PolicyStatus.CAUSE_HOLD, "hold")
        assert {status.device for status in statuses[-5:]} == {""}  # no person's rows

        press_key(ben, "Escape")  # without control
        eventually(lambda: statuses[-1].state == PolicyStatus.STOPPED, "stop")
        take_control(ben, "Ben")
        ben.click("#tab-policy")
        ben.click("#policy .big button:nth-child(6)")  # reset
        eventually(lambda: statuses[-1].state == PolicyStatus.IDLE, "reset")

        ben.click("#dry")
        ben.value("window.confirm = () => true")
        button = "document.querySelector('#checkpoint').closest('.panel').querySelector('button')"
        ben.until(f"!{button}.disabled", "a change")
        ben.value(f"{button}.click()")
        ben.has("#policy [role=status]", "changed; active")
        ben.has("#policy .pill", "dry run")
        assert ben.errors == []
        assert ben.value("document.documentElement.scrollWidth") == 390
        ben.close()
        assert "Traceback" not in server.output
    recorded = EpisodeDataset(dataset)
    assert [episode.tasks for episode in recorded.episodes] == [("lift the cube",)]
    assert [trial.success for trial in TrialTable(tmp_path / "trials.csv").trials] == [True, False, True]
