# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t_check`: every problem of a robot's files with its line; what a bag, training data and the picture say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gr00t_policy_node.onboard.check_cli import main
from gr00t_policy_node.onboard.comparison import Trained, check_trained
from gr00t_policy_node.onboard.evidence import Evidence, Look
from gr00t_policy_node.onboard.findings import Finding, Level
from gr00t_policy_node.onboard.init_cli import main as init
from gr00t_policy_node.onboard.picture import JointRow, draw_sight, joint_rows
from gr00t_policy_node.onboard.robot_files import read_robot
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_test_support.robot_bags import bimanual, leaders
from gr00t_training.dataset.statistics.compute import compute_statistics

NAN = float("nan")

EMBODIMENT = """\
name: lab_arm
tag: new_embodiment
fps: 20
state:
  arm: {names: [j1, j2, j3]}
action:
  arm: {names: [j1, j2, elbow]}
video:
  front: {height: 480, width: 640}
"""
TOPICS = """\
embodiment: embodiment.yaml
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}
  camera: {topic: front/image_raw, type: std_msgs/msg/String, stamp: receive}
  spare: {topic: other, type: sensor_msgs/msg/JointState}
state:
  arm: {stream: joints, select: [a, b]}
action:
  arm: {stream: joints}
  hand: {stream: joints}
video:
  front: {stream: camera}
commands:
  - {topic: cmd_vel, type: geometry_msgs/msg/Twist}
"""
LIMITS = """\
joints:
  j1: {min: -1, max: 1, max_velocity: 1}
  j_2: {min: -1, max: 1, max_velocity: 1}  # CHECK: from the manual
"""


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    for name, text in (("embodiment", EMBODIMENT), ("topics", TOPICS), ("limits", LIMITS)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def found(robot: Path, capsys: pytest.CaptureFixture[str], *options: str) -> set[tuple[str, int, str, str]]:
    """Return file, line, level and the first words of every finding."""
    code = main([str(robot), "--json", *options])
    findings = json.loads(capsys.readouterr().out)
    assert code == int(any(each["level"] == "fault" for each in findings))
    return {(Path(each["file"]).name, each["line"], each["level"], each["text"][:24]) for each in findings}


def test_every_disagreement_has_its_line(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(robot, capsys) == {
        ("topics.yaml", 7, "fault", "state.arm: select names "),
        ("topics.yaml", 10, "fault", "action.hand: embodiment "),
        ("topics.yaml", 14, "fault", "commands.0 (cmd_vel): em"),
        ("topics.yaml", 5, "warning", "stream 'spare' is not us"),
        ("embodiment.yaml", 7, "fault", "action channel 'elbow' h"),
        ("limits.yaml", 1, "fault", "joint 'j2' has no limits"),
        ("limits.yaml", 1, "fault", "joint 'elbow' has no lim"),
        ("limits.yaml", 3, "warning", "joint 'j_2' is not a cha"),
        ("limits.yaml", 3, "note", "marked CHECK: from the m"),
    }


def test_every_mistake_of_one_file_is_found_at_once(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TOPICS.replace("topic: other,", "depth: 0,").replace("type: std", "typ: std")
    (robot / "topics.yaml").write_text(text)
    (robot / "embodiment.yaml").write_text(EMBODIMENT.replace("fps: 20", "fps: 0").replace("480", "481"))
    assert {each[:3] for each in found(robot, capsys) if each[2] == "fault"} == {
        ("topics.yaml", 4, "fault"),  # unknown key and missing type
        ("topics.yaml", 5, "fault"),  # depth, and no topic
        ("embodiment.yaml", 3, "fault"),
        ("embodiment.yaml", 9, "fault"),
    }


def test_streams_of_all_bindings_are_named(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TOPICS.replace("stream: camera", "stream: cam").replace("stream: joints}", "stream: j}")
    (robot / "topics.yaml").write_text(text)
    faults = {each for each in found(robot, capsys) if each[0] == "topics.yaml" and each[2] == "fault"}
    assert {line for _, line, _, _ in faults} == {9, 10, 12}


def test_poses_outside_the_limits_have_their_lines(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (robot / "embodiment.yaml").write_text(EMBODIMENT.replace("elbow", "j3"))
    joints = "".join(f"  {name}: {{min: -1, max: 1, max_velocity: 1}}\n" for name in ("j1", "j2", "j3"))
    poses = "poses:\n  home: {j1: 0.5}\n  far:\n    j1: 0\n    j2: 3\n  odd: {j9: 0}\n"
    (robot / "limits.yaml").write_text(f"joints:\n{joints}{poses}safe_pose: {{j3: -2}}\n")
    faults = {each for each in found(robot, capsys) if each[0] == "limits.yaml"}
    assert faults == {
        ("limits.yaml", 9, "fault", "poses.far: 'j2' is 3.0 ("),
        ("limits.yaml", 10, "fault", "poses.odd: 'j9' is not c"),
        ("limits.yaml", 11, "fault", "safe_pose: 'j3' is -2.0 "),
    }


@pytest.fixture(scope="module")
def towel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bag of two arms and three cameras, and the files that `gr00t_init` writes for it."""
    folder = tmp_path_factory.mktemp("towel")
    bag = bimanual(leaders, steps=12).write(folder / "towel.mcap")
    assert init([str(bag), "--output", str(folder / "robot")]) == 0
    return bag, folder / "robot"


def changed(towel: tuple[Path, Path], folder: Path, name: str, old: str, new: str) -> Path:
    """Return a copy of the files with one text replaced."""
    for file in towel[1].iterdir():
        text = file.read_text()
        if file.name == name:
            assert old in text
            text = text.replace(old, new)
        (folder / file.name).write_text(text)
    return folder


HEAD = "/head/image_raw, type: sensor_msgs/msg/"


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "expected"),
    [
        ("topics.yaml", "/head/image_raw", "/head/image", "camera_head: {topic",
         "/head/image is not among the topics of towel.mcap; did you mean '/head/image_raw'?"),
        ("topics.yaml", f"{HEAD}Image", f"{HEAD}CompressedImage", "camera_head: {topic",
         "has the type sensor_msgs/msg/Image, the topic map says sensor_msgs/msg/CompressedImage"),
        ("topics.yaml", "left_joints, select: [shoulder, elbow, wrist]", "left_joints, select: [shoulder, elbow, hand]",
         "left_joints: {topic", "hand never came on /left/follower/joint_states"),
        ("topics.yaml", "left_joints, select: [gripper]", "left_joints, select: [gripper], scale: 57.3",
         "left_gripper: {stream: left_joints", "are these degrees?"),
        ("embodiment.yaml", "width: 128", "width: 64", "camera_head: {topic",
         "image is 128x48, the embodiment expects 64x48"),
        ("embodiment.yaml", "fps: 10", "fps: 20", "left_command: {topic",
         "comes at 10.0 Hz, the embodiment has 20 ticks a second"),
        ("limits.yaml", "_shoulder: {", "_shoulder: {min: 0.9, max: 1.1, max_velocity: 1}  # {", "left_shoulder",
         "joint 'left_shoulder' was measured at 1 to 1.2"),
    ],
)  # fmt: skip
def test_a_bag_shows_what_is_wrong_and_where(
    towel: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    old: str,
    new: str,
    line: str,
    expected: str,
) -> None:
    robot = changed(towel, tmp_path, name, old, new)
    main([str(robot), "--bag", str(towel[0])])
    findings = [each for each in capsys.readouterr().out.splitlines() if expected in each]
    assert findings
    file, number, _ = findings[0].split(":", 2)
    assert line in Path(file).read_text().splitlines()[int(number) - 1]


def test_first_files_fit_their_bag_and_the_picture_shows_it(
    towel: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "sight.png"
    assert main([str(towel[1]), "--bag", str(towel[0]), "--picture", str(picture)]) == 0
    assert "0 faults, 1 warning," in capsys.readouterr().out  # no commands yet
    image = cv2.imread(str(picture))
    assert image is not None
    assert (image == (90, 90, 90)).all(axis=2).sum() > 3 * 5000  # the gray of the three cameras


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert main([str(tmp_path), "--picture", "x.png"]) == 2
    assert main([str(tmp_path), "--bag", "x", "--duration-s", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "--picture needs --bag or --running" in lines[1]


def test_training_data_are_compared_line_by_line(towel: tuple[Path, Path]) -> None:
    files, _ = read_robot(towel[1])
    embodiment = files.embodiment
    assert embodiment is not None
    rows = np.stack([np.linspace(-1, 1, 50)] * 3, axis=1)
    statistics = {"left_arm": compute_statistics(rows)}
    trained = Trained("ckpt", embodiment, statistics, statistics)
    evidence = Evidence("a bag", {}, None, state={"left_arm": np.array([0.5, 1.5, 70.0])})
    limits = {"left_shoulder": JointLimit(min=-2, max=0.5, max_velocity=1)}
    findings = list(check_trained(files, trained, evidence, limits))

    def line(finding: Finding) -> str:
        return Path(finding.file).read_text().splitlines()[finding.line - 1].strip()

    assert [(each.level, each.text.split(";")[0], line(each).split(":")[0]) for each in findings] == [
        (Level.FAULT, "state.left_arm: 'left_wrist' is 70 rad, in training it was -1 to 1", "left_arm"),
        (Level.NOTE, "state.left_arm: 'left_elbow' is 1.5 now, outside the -1 to 1 of training", "left_arm"),
        (Level.NOTE, "state.left_arm: 'left_wrist' is 70 now, outside the -1 to 1 of training", "left_arm"),
        (Level.WARNING, "joint 'left_shoulder': training commanded -1 to 1, limits are -2 to 0.5", "left_shoulder"),
    ]
    other = dataclasses.replace(embodiment, fps=15)
    (finding,) = check_trained(files, Trained("ckpt", other, {}, {}), None, limits)
    assert (finding.text, line(finding).split()[:2]) == ("fps: found 10, expected 15 (checkpoint ckpt)", ["fps:", "10"])


def test_joint_outside_its_limits_is_drawn_in_another_color(towel: tuple[Path, Path], tmp_path: Path) -> None:
    files, _ = read_robot(towel[1])
    assert files.embodiment is not None
    evidence = Evidence("a bag", {}, None, state={"left_gripper": np.array([5.0])})
    rows = joint_rows(files.embodiment, evidence, {"left_gripper": JointLimit(min=0, max=1, max_velocity=1)}, None)
    by_name = {row.name: row for row in rows}
    assert by_name["left_gripper"] == JointRow("left_gripper", "rad", 5.0, None, (0, 1), None)
    assert by_name["left_gripper"].is_outside
    assert not by_name["left_elbow"].is_outside  # it never came
    assert by_name["left_gripper"].span == pytest.approx((-0.1, 1.1))

    def num_orange(path: Path, *drawn: JointRow) -> int:
        draw_sight("title", {"front": Look(None, reason="no image on /front")}, drawn, path)
        image = cv2.imread(str(path)).astype(int)
        return int((np.abs(image - (0x00, 0x5E, 0xD5)).max(axis=2) < 40).sum())

    inside = dataclasses.replace(by_name["left_gripper"], value=0.5)
    assert num_orange(tmp_path / "a.png", by_name["left_gripper"]) > num_orange(tmp_path / "b.png", inside)
