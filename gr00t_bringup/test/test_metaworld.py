# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The Meta-World example: its files fit together, its units are right, its experts succeed where it is installed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

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


class Hand:
    """A robot that goes where it is commanded at once; done when it is to the right of `goal`."""

    def __init__(self, goal: float) -> None:
        self.goal, self.commands = goal, []

    def reset(self, seed: int, task: str) -> None:
        self.seed, self.task = seed, task
        self.commands.clear()

    def command(self, targets: Mapping[str, float]) -> None:
        self.commands.append([*targets.values()])

    def step(self, duration_s: float) -> None:
        assert duration_s == 0.1

    def success(self) -> bool:
        return self.commands[-1][0] >= self.goal

    def close(self) -> None:
        pass


class Counting:
    """A policy whose rows count on from one query to the next."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)
        self.first = 0

    def rows(self, _: Any) -> np.ndarray:
        rows = np.arange(self.first, self.first + 6.0)
        self.first += 4
        return np.stack([rows, -rows, 0 * rows, rows % 2], axis=1)


def test_direct_trial_carries_out_four_rows_of_each_chunk() -> None:
    trials = import_module("metaworld_trials")
    policy, robot = Counting(), Hand(goal=5.0)
    policy.reset(0)
    robot.reset(0, "")
    assert trials.attempt(policy, robot) == (12, 2)  # reached in step 11, seen at the image after step 12
    np.testing.assert_allclose(robot.commands, [[n / 2, -n / 2, 0.0, n // 2 % 2] for n in range(12)])


def test_direct_trial_ends_at_the_time_limit() -> None:
    trials = import_module("metaworld_trials")
    policy = Counting()
    policy.reset(0)
    assert trials.attempt(policy, Hand(goal=1e9)) == (200, 25)


def test_direct_trials_are_continued_and_compared_on_equal_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = import_module("metaworld_trials")
    simulator = ModuleType("metaworld_robot")  # the real one needs Meta-World
    monkeypatch.setitem(import_module("sys").modules, "metaworld_robot", simulator)
    made: list[Counting] = []

    def load() -> Counting:
        made.append(Counting())
        return made[-1]

    def carry_out(name: str, goal: float, *more: str) -> str:
        parser = argparse.ArgumentParser()
        trials.add_arguments(parser)
        simulator.MetaworldRobot = partial(Hand, goal)  # pyright: ignore[reportAttributeAccessIssue]
        output = ["--output", str(tmp_path / f"{name}_trials")]
        trials.carry_out(load, parser.parse_args([str(tmp_path / name), *output, "--seed", "7", *more]))
        return capsys.readouterr().out

    carry_out("good", 5.0, "--num-trials", "1")
    assert "10 of  10" in carry_out("good", 5.0, "--num-trials", "2")
    assert [policy.seeds for policy in made] == [[7] * 5, [8] * 5]
    table = tmp_path / "good_trials" / "trials.csv"
    told = carry_out("bad", 1e9, "--num-trials", "2", "--compare-with", str(table))
    assert "0 of  10" in told
    assert "on the same 10 scenes: both in 0, only the first in 0, only the second in 10; p = 0.00195" in told
    with pytest.raises(ConfigError, match=r"none\.csv: no such table of trials"):
        carry_out("bad", 1e9, "--compare-with", str(tmp_path / "none.csv"))


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
