# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot never seen, two arms and three cameras: from its bag to a chunk, and from its live topics, by commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

from gr00t_msgs.msg import PolicyStatus, RecorderStatus
from gr00t_msgs.srv import StartEpisode, StopEpisode
from rclpy.qos import DurabilityPolicy, QoSProfile

from gr00t_recorder.ros.processes import DEADLINE_S, NodeProcess, next_domain
from gr00t_test_support.robot_bags import bimanual, leaders, trajectories
from gr00t_test_support.ros.nodes import Peer
from gr00t_training.cli.umbrella import main as gr00t

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ROWS = 24  # of an episode; a chunk has 16
COMMANDS = "std_msgs/msg/Float64MultiArray"


def run(*words: object, codes: Sequence[int] = (0,)) -> None:
    """Run `gr00t` with these words."""
    assert gr00t([str(word) for word in words]) in codes


def commands_to(sides: Sequence[str]) -> list[str]:
    """Return the options that say where a policy's actions go."""
    given = [f"{side}_arm,{side}_gripper=/{side}/follower/commands:{COMMANDS}" for side in sides]
    return [word for each in given for word in ("--command", each)]


@pytest.mark.slow
def test_bag_of_a_new_robot_becomes_a_dry_run_chunk_without_an_edited_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two cores are shared with the player
    bag, robot = bimanual(leaders).write(tmp_path / "towel.mcap"), tmp_path / "robot"
    run("init", bag, "--output", robot, *commands_to(("left", "right")))
    written = {file.name: file.read_text() for file in robot.iterdir()}
    run("check", robot, "--bag", bag)
    run("convert", bag, "--topics", robot / "topics.yaml", "--output", tmp_path / "dataset")
    steps = ("--max-steps", 1, "--batch-size", 1, "--validation-share", 0, "--num-workers", 0)
    recipe = ("--recipe", "laptop-cpu", *steps, "--no-preflight")
    run("finetune", "--dataset", tmp_path / "dataset", "--output", tmp_path / "run", *recipe)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    run("check", robot, "--bag", bag, "--checkpoint", checkpoint, "--picture", tmp_path / "sight.png")
    assert cv2.imread(str(tmp_path / "sight.png")) is not None
    node = {"topics_file": robot / "topics.yaml", "limits_file": robot / "limits.yaml", "checkpoint_path": checkpoint}
    node |= {"instruction": "fold the towel", "device": "cpu", "dry_run": "true", "autostart": "true"}
    node |= {"max_input_gap_s": 0.0, "max_silence_s": 0.0}  # never: those of a busy machine would stop it for good
    options = [word for name, value in node.items() for word in ("-p", f"{name}:={value}")]
    domain = next_domain()
    with (
        NodeProcess("gr00t_recorder.ros.play_bag", bag, "--loop", "--now", domain=domain),
        NodeProcess("gr00t_policy_node.ros.policy_node", "--ros-args", *options, domain=domain),
        Peer(domain) as peer,
    ):
        statuses = peer.listen(PolicyStatus, "policy/status", LATCHED)
        peer.until(lambda: statuses, "the policy is loaded", 3 * DEADLINE_S)
        peer.until(lambda: statuses[-1].chunks > 0, "a chunk", 3 * DEADLINE_S)
    assert {file.name: file.read_text() for file in robot.iterdir()} == written  # not one line was edited


@pytest.mark.slow
def test_live_topics_become_three_episodes_and_a_dry_run_chunk_without_an_edited_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of docs/new-robot.md. The driver's own topic map is not shown to the user."""
    domain = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bag, driver = bimanual(leaders).write(tmp_path / "driver.mcap"), tmp_path / "driver"
    run("init", bag, "--output", driver, "--no-questions", *commands_to(("left", "right")))
    robot, dataset = tmp_path / "robot", tmp_path / "dataset"
    files = (f"topics_file:={robot}/topics.yaml", f"limits_file:={robot}/limits.yaml")
    fake = ("--ros-args", "-p", f"robot:={driver}")
    with NodeProcess("gr00t_bringup.ros.fake_robot_node", *fake, domain=domain), Peer(domain) as peer:
        peer.until(lambda: "fake_robot" in peer.node.get_node_names(), "the robot")
        run("init", "--output", robot, "--duration-s", 4)
        written = {file.name: file.read_text() for file in robot.iterdir()}
        with NodeProcess(
            "gr00t_training.cli.umbrella", "launch", "record", files[0], f"dataset_path:={dataset}", domain=domain
        ):
            record_episodes(peer, 3)
        run("dataset", "validate", dataset)
        steps = ("--max-steps", 1, "--batch-size", 1, "--num-workers", 0, "--no-preflight")
        run("finetune", "--dataset", dataset, "--output", tmp_path / "run", "--recipe", "laptop-cpu", *steps)
        given = (f"checkpoint_path:={tmp_path}/run/checkpoint-1", "instruction:=fold the towel", "dry_run:=true")
        with NodeProcess("gr00t_training.cli.umbrella", "launch", "policy", *files, *given, domain=domain):
            statuses = peer.listen(PolicyStatus, "policy/status", LATCHED)
            peer.until(lambda: statuses and statuses[-1].chunks > 0, "a chunk", 3 * DEADLINE_S)
    assert {file.name: file.read_text() for file in robot.iterdir()} == written  # not one line was edited


def record_episodes(peer: Peer, count: int) -> None:
    """Record episodes that are longer than a chunk, as a person does."""
    statuses = peer.listen(RecorderStatus, "recorder/status", LATCHED)

    def is_started() -> bool:
        return peer.call(StartEpisode, "recorder/start_episode", task="fold the towel").error_code == 0

    for number in range(count):
        peer.until(is_started, "an episode starts")
        peer.until(
            lambda number=number: (statuses[-1].episode_index, statuses[-1].frames >= ROWS) == (number, True), "rows"
        )
        assert not peer.call(StopEpisode, "recorder/stop_episode", keep=True).error_msg


def test_running_robot_gives_its_files_and_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    bag, robot = bimanual(trajectories).write(tmp_path / "fold.mcap"), tmp_path / "robot"
    with NodeProcess("gr00t_recorder.ros.play_bag", bag, "--loop", "--now", domain=domain):
        run("init", "--output", robot, "--duration-s", 4)
        text = (robot / "topics.yaml").read_text()
        assert "topic: /left/follower/joint_states" in text
        assert "topic: /right/arm_controller/joint_trajectory" in text
        (robot / "topics.yaml").write_text(text.replace("topic: /head/image_raw", "topic: /head/image"))
        capsys.readouterr()
        run("check", robot, "--running", "--duration-s", 3, codes=[1])
        found = capsys.readouterr().out
        assert "/head/image is not among the topics of the running robot; did you mean '/head/image_raw'?" in found
        assert "no node subscribes to /left/arm_controller/joint_trajectory; start its controller" in found
        (robot / "topics.yaml").write_text(text)
        # on a busy machine the newest image may be too old
        run("check", robot, "--running", "--duration-s", 3, "--picture", tmp_path / "now.png", codes=[0, 1])
        assert "is not among the topics" not in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "now.png")) is not None
