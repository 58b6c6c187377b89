# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The Meta-World example: its files fit together, its units are right, its experts succeed where it is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from gr00t_bringup.robots import RolloutFile, load_robot
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.errors import ConfigError
from gr00t_training.settings import load_settings

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "metaworld"
if not FOLDER.is_dir():
    pytest.skip("the examples are in the repository only", allow_module_level=True)


@pytest.fixture(autouse=True)
def modules_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_files_name_the_same_joints_cameras_and_tasks() -> None:
    tasks = import_module("metaworld_tasks")
    given = load_settings(RolloutFile, FOLDER / "rollout.yaml")
    assert given.tasks == tuple(tasks.TASKS)
    assert given.image_topic.removesuffix("/image_raw") in tasks.CAMERAS
    limits = yaml.safe_load((FOLDER / "limits.yaml").read_text())["joints"]
    assert tuple(limits) == tasks.JOINTS
    assert {limits[axis]["max_velocity"] for axis in "xyz"} == {tasks.STEP_M * tasks.STEP_HZ}
    for name in ("topics.yaml", "topics_policy.yaml"):
        topic_map, embodiment = load_topic_map(FOLDER / name)
        assert tuple(topic_map.video) == tuple(tasks.CAMERAS)
        for keys in (embodiment.state, embodiment.action):
            assert tuple(channel for key in keys.values() for channel in key.names) == tasks.JOINTS


def test_action_and_target_are_inverse_within_a_step() -> None:
    tasks = import_module("metaworld_tasks")
    hand_m = np.array([0.1, 0.6, 0.2])
    target = tasks.hand_target(hand_m, np.array([1.0, -0.5, 0.0, -1.0]))
    np.testing.assert_allclose(target, [0.11, 0.595, 0.2, 1.0])  # Meta-World's -1 opens the gripper
    np.testing.assert_allclose(tasks.hand_action(hand_m, target), [1.0, -0.5, 0.0, -1.0])
    np.testing.assert_allclose(tasks.hand_target(hand_m, np.array([9.0, 0.0, 0.0, 9.0])), [0.11, 0.6, 0.2, 0.0])
    np.testing.assert_allclose(tasks.hand_action(hand_m, np.array([0.1, 0.7, 0.2, 0.5])), [0.0, 1.0, 0.0, 0.0])


def test_simulator_that_is_not_installed_is_named(tmp_path: Path) -> None:
    for name in ("rollout.yaml", "topics.yaml"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    with pytest.raises(ConfigError, match=r"rollout\.yaml: simulator '\.venv/bin/python' does not exist"):
        load_robot(str(tmp_path))


@pytest.mark.slow
def test_experts_succeed_from_positions_of_the_hand() -> None:
    experts = pytest.importorskip("metaworld.policies", reason="Meta-World is not installed").ENV_POLICY_MAP
    tasks = import_module("metaworld_tasks")
    robot = import_module("metaworld_robot").MetaworldRobot()
    for seed, task in enumerate(tasks.TASKS):
        robot.reset(seed, task)
        first = robot.observation
        expert = experts[tasks.TASKS[task]]()
        for _ in range(200):
            target = tasks.hand_target(robot.hand_target_m, expert.get_action(robot.observation))
            robot.command(dict(zip(tasks.JOINTS, target.tolist(), strict=True)))
            robot.step()
            if robot.success():
                break
        assert robot.success(), task
        robot.reset(seed + 1, task)  # elsewhere
        objects = robot.observation[4:7]
        robot.step()
        np.testing.assert_allclose(robot.observation[4:7], objects, atol=2e-3, err_msg=f"{task}: shown where it was")
        robot.reset(seed, task)
        np.testing.assert_array_equal(robot.observation, first)
