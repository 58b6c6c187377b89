# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t_init`: files of a robot from a bag or a dataset, what options and a person answer, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gr00t_policy_node.onboard.check_cli import main as check
from gr00t_policy_node.onboard.init_cli import find_answers, main, parser
from gr00t_policy_node.onboard.robot_files import RobotFiles, read_robot
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.suggest import suggest
from gr00t_recorder.bag.suggest_texts import CommandAnswer
from gr00t_test_support.bag_builder import IMAGE, START_NS, STEP_NS
from gr00t_test_support.robot_bags import ARM, Robot, bimanual, leaders, position, trajectories
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.types import KeyKind, KeyRef

FLOATS = "std_msgs/msg/Float64MultiArray"
URDF = """<robot name="r">
  <joint name="left_shoulder" type="revolute"><limit lower="-2.5" upper="2.25" velocity="3"/></joint>
  <joint name="left_elbow" type="continuous"><limit velocity="1.5"/></joint>
  <joint name="other" type="revolute"><limit lower="0" upper="1" velocity="1"/></joint>
</robot>"""


def loaded(folder: Path) -> RobotFiles:
    files, findings = read_robot(folder)
    assert findings == []
    assert files.topic_map and files.embodiment and files.limits
    return files


@pytest.fixture(scope="module")
def leader_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bimanual(leaders, steps=8).write(tmp_path_factory.mktemp("bag") / "towel.mcap")


def test_options_answer_what_a_bag_cannot_tell(leader_bag: Path, tmp_path: Path) -> None:
    (tmp_path / "robot.urdf").write_text(URDF)
    folder = tmp_path / "robot"
    options = [
        "--name",
        "towel_robot",
        "--tick-rate",
        "5",
        "--gripper-unit",
        "m",
        "--urdf",
        str(tmp_path / "robot.urdf"),
    ]
    for side in ("left", "right"):
        options += ["--command", f"{side}_arm,{side}_gripper=/{side}/commands:{FLOATS}"]
    assert main([str(leader_bag), "-o", str(folder), *options]) == 0
    files = loaded(folder)
    assert files.embodiment and files.topic_map and files.limits
    assert (files.embodiment.name, files.embodiment.fps) == ("towel_robot", 5)
    assert files.embodiment.action["left_gripper"].unit == "m"
    assert files.embodiment.action["left_arm"].unit == "rad"
    assert [(each.topic, each.keys) for each in files.topic_map.commands] == [
        ("/left/commands", ("left_arm", "left_gripper")),
        ("/right/commands", ("right_arm", "right_gripper")),
    ]
    limit, endless = files.limits.joints["left_shoulder"], files.limits.joints["left_elbow"]
    assert (limit.min, limit.max, limit.max_velocity) == (-2.5, 2.25, 3.0)
    assert endless.endless
    assert files.limits.joints["left_wrist"].max < position("left", "wrist", 1.0, command=True)  # as it was seen
    marked = [line for line in (folder / "embodiment.yaml").read_text().splitlines()[1:] if "CHECK" in line]
    assert marked == []


def test_a_person_is_asked_only_what_is_open(leader_bag: Path, tmp_path: Path) -> None:
    left = iter(["/left/commands", "/left/commands:Float64", f"/left/commands:{FLOATS}"])  # asked again after the wrong
    given = {"name": iter(["lab"]), "left": left}
    asked = []

    def ask(question: str, default: str) -> str:
        asked.append(question)
        return next((next(answers) for word, answers in given.items() if word in question), "") or default

    with Bag(leader_bag) as bag:
        suggestion = suggest(bag)
    answers = find_answers(parser().parse_args(["-o", str(tmp_path)]), suggestion, "", ask)
    assert len(asked) == 7
    assert (answers.name, answers.gripper_unit) == ("lab", "rad")
    assert answers.commands == (CommandAnswer(("left_arm", "left_gripper"), "/left/commands", FLOATS),)
    asked.clear()
    options = parser().parse_args(
        ["-o", str(tmp_path), "--name", "a", "--gripper-unit", "m", "--command", f"/c:{FLOATS}"]
    )
    assert find_answers(options, suggestion, URDF, ask).limits["left_shoulder"] == (-2.5, 2.25, 3.0)
    assert asked == []


def test_recorded_commands_need_no_answer(tmp_path: Path) -> None:
    bag = bimanual(trajectories, steps=8).write(tmp_path / "fold.mcap")
    assert main([str(bag), "-o", str(tmp_path / "robot")]) == 0
    files = loaded(tmp_path / "robot")
    assert files.topic_map
    assert [each.topic for each in files.topic_map.commands] == [
        f"/{side}/arm_controller/joint_trajectory" for side in ("left", "right")
    ]
    with Bag(bag) as opened:
        assert suggest(opened).uncommanded() == []


def test_leader_with_other_joint_names_takes_those_of_the_state(tmp_path: Path) -> None:
    bag = Robot()
    for step in range(8):
        bag.state("/follower/joint_states", "left", step * STEP_NS, ARM)
        bag.state("/leader/joint_states", "left", step * STEP_NS, [f"master_{name}" for name in ARM], command=True)
        bag.look("/front/image_raw", step)
    assert main([str(bag.write(tmp_path / "arm.mcap")), "-o", str(tmp_path / "robot")]) == 0
    files = loaded(tmp_path / "robot")
    assert files.topic_map and files.embodiment
    assert files.embodiment.action["arm"].names == ("shoulder", "elbow", "wrist")
    assert files.topic_map.action["arm"].select == ("master_shoulder", "master_elbow", "master_wrist")
    assert "joints are taken in this order" in (tmp_path / "robot" / "topics.yaml").read_text()


@pytest.mark.parametrize("name", ["lerobot_v21_reference", "lerobot_v30_reference", "lerobot_v20_gr1"])
def test_dataset_gives_keys_sizes_and_ranges(data_dir: Path, tmp_path: Path, name: str) -> None:
    path = data_dir / name
    if not path.is_dir():
        pytest.skip(f"no {name} in GR00T_TEST_DATA")
    dataset = EpisodeDataset(path)
    camera = next(iter(dataset.modality.video))
    options = ["--joints", "/robot/joint_states", "--camera", f"{camera}=/cam/image_raw"]
    assert main([str(path), "-o", str(tmp_path / "robot"), *options]) == 0
    files = loaded(tmp_path / "robot")
    assert files.topic_map and files.embodiment and files.limits
    assert list(files.embodiment.state) == list(dataset.modality.state)
    assert files.embodiment.fps == dataset.fps
    size = files.embodiment.video[camera]
    assert dataset.images(0, camera, [0]).shape[1:3] == (size.height, size.width)
    stream = files.topic_map.streams[files.topic_map.video[camera].stream]
    assert (stream.topic, stream.type) == ("/cam/image_raw", IMAGE)
    for key, vector in files.embodiment.action.items():
        rows = np.concatenate([dataset.vectors(KeyRef(KeyKind.ACTION, key), e.index) for e in dataset.episodes])
        for name, low, high in zip(vector.names, rows.min(axis=0), rows.max(axis=0), strict=True):
            limit = files.limits.joints[name]
            assert limit.min < low <= high < limit.max
    assert check([str(tmp_path / "robot")]) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--command", "arm=/c:Float64"], "type 'Float64' cannot be commanded"),
        (["--command", f"hand=/c:{FLOATS}"], "--command: 'hand' is not an action key (left_arm,"),
        (["--camera", "front=/x"], "--joints and --camera are for a dataset"),
        (["--urdf", "/nowhere.urdf"], "/nowhere.urdf"),
        (["--duration-s", "-1"], "expected more than 0"),
    ],
)
def test_wrong_answers_are_one_line(
    leader_bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    options = [option.replace("arm=", "left_arm=") for option in options]
    assert main([str(leader_bag), "-o", str(tmp_path / "robot"), *options]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "robot").exists()


def test_robot_is_called_after_the_folder_where_the_bag_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "kitchen-arm").mkdir()
    bag = bimanual(leaders, steps=4).write(tmp_path / "kitchen-arm" / "bag.mcap")
    with Bag(bag) as opened:
        assert suggest(opened).name == "kitchen_arm"
        assert min(int(times[0]) for times in opened.times(opened.topics).values()) >= START_NS
