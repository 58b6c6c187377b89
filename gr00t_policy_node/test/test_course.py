# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Moves to a pose and replays, in the controller alone; rows of episodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.course import Course, CourseCause, CourseEnd, CourseError
from gr00t_policy_node.control.person import Request, TakeoverRules, TeleopMode
from gr00t_policy_node.control.state import CommandSource, ControlState, HoldCause
from gr00t_policy_node.replaying import replay_rows, unit_factors
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import VectorKey
from gr00t_training.errors import ConfigError, DatasetError

PERIOD_NS = 20_000_000
LIMIT = JointLimit(min=-2.0, max=2.0, max_velocity=1.0, max_acceleration=5.0)
LIMITS = dict.fromkeys(("j0", "j1", "j2", "grip"), LIMIT)
START = np.array([0.5, 0.0, 0.0, 0.0])


class Arm:
    """A controller that starts at START, and its clock."""

    def __init__(self) -> None:
        self.controller = Controller(
            make_embodiment(),
            LIMITS,
            PERIOD_NS / 1e9,
            takeover=TakeoverRules(mode=TeleopMode.ALWAYS),
            poses={"home": {"j0": -0.5, "j1": 0.25}},
        )
        self.now_ns, self.pose = 10**12, START

    def tick(self, fault: str = "") -> np.ndarray | None:
        self.now_ns += PERIOD_NS
        command = self.controller.tick(self.now_ns, fault, lambda: self.pose)
        self.pose = self.pose if command is None else command
        return command

    def run(self, number: int, most: int = 2000) -> tuple[np.ndarray, CourseEnd]:
        """Return the commands (K, 4) of a course, and how it ended."""
        commands = [START if self.pose is START else self.pose]
        for _ in range(most):
            command = self.tick()
            course = self.controller.course(number)
            if isinstance(course, CourseEnd):
                return np.array(commands), course
            assert command is not None
            commands.append(command)
        raise AssertionError(f"{course} has not ended")


def test_a_move_is_smooth_slow_and_arrives_with_all_joints_at_once() -> None:
    arm = Arm()
    number = arm.controller.move_to("home", 0.25)
    commands, end = arm.run(number)
    assert end.cause is CourseCause.REACHED
    np.testing.assert_allclose(commands[-1], [-0.5, 0.25, 0.0, 0.0], atol=1e-3)
    speeds = np.abs(np.diff(commands, axis=0)) / (PERIOD_NS / 1e9)
    assert speeds[:, 0].max() == pytest.approx(0.25, rel=0.02)  # a quarter of the limit
    half = len(commands) // 2
    np.testing.assert_allclose(commands[half, 1] / 0.25, (0.5 - commands[half, 0]) / 1.0, atol=0.01)
    assert arm.controller.report().limited_commands < len(commands) / 10
    assert arm.controller.report().state is ControlState.IDLE
    arm.tick()
    assert arm.controller.report().source is CommandSource.NONE


def test_a_hold_pauses_a_move_which_goes_on_from_there_and_a_person_ends_it() -> None:
    arm = Arm()
    number = arm.controller.move_to("home", 1.0)
    for _ in range(20):
        arm.tick()
    assert arm.controller.report().source is CommandSource.MOTION
    for _ in range(30):
        arm.tick(fault="stream 'front' is stale")
    assert arm.controller.report().source is CommandSource.HOLD
    resting = arm.pose
    commands, end = arm.run(number)
    assert end.cause is CourseCause.REACHED
    assert abs(commands[1] - resting).max() < 0.005
    np.testing.assert_allclose(commands[-1], [-0.5, 0.25, 0.0, 0.0], atol=1e-3)

    number = arm.controller.move_to({"j0": 0.5}, 1.0)
    arm.tick()
    arm.controller.steer("leader", Request(["j0"], [-0.5]), arm.now_ns, arm.now_ns)
    arm.tick()
    assert arm.controller.report().source is CommandSource.PERSON
    end = arm.controller.course(number)
    assert isinstance(end, CourseEnd) and (end.cause, end.reason) == (CourseCause.INTERRUPTED, "'leader' took over")
    with pytest.raises(CourseError, match="'leader' has control; end that first"):
        arm.controller.move_to("home", 1.0)


def test_a_hold_on_request_pauses_a_replay_until_it_is_resumed() -> None:
    arm = Arm()
    rows = 0.5 - 0.3 * np.linspace(0.0, 1.0, 21)[:, None] ** 2
    number = arm.controller.replay(["j0"], rows, 50_000_000, 1.0)
    for _ in range(20):
        arm.tick()
    arm.controller.hold()
    for _ in range(30):
        arm.tick()
    assert (arm.controller.report().source, arm.controller.report().cause) == (CommandSource.HOLD, HoldCause.ASKED)
    resting = arm.pose
    arm.controller.resume()
    commands, end = arm.run(number)
    assert end.cause is CourseCause.REACHED
    assert abs(commands[0] - resting).max() < 0.02
    np.testing.assert_allclose(commands[-1][0], 0.2, atol=1e-3)
    with pytest.raises(ValueError, match="nothing to hold: neither a task nor a move or replay runs"):
        arm.controller.hold()


def test_a_replay_follows_its_rows_at_their_times() -> None:
    arm = Arm()
    rows = 0.5 - 0.3 * np.linspace(0.0, 1.0, 21)[:, None] ** 2
    number = arm.controller.replay(["j0"], rows, 50_000_000, 1.0)
    commands, end = arm.run(number)
    assert end.cause is CourseCause.REACHED
    times_s = np.arange(len(commands)) * PERIOD_NS / 1e9
    expected = np.interp(times_s, np.arange(21) * 0.05, rows[:, 0])
    np.testing.assert_allclose(commands[:, 0], expected, atol=0.03)
    assert len(commands) == pytest.approx(50, abs=5)
    np.testing.assert_array_equal(commands[:, 1:], np.zeros((len(commands), 3)))

    slow = Arm()
    commands, _ = slow.run(slow.controller.replay(["j0"], rows, 50_000_000, 0.5))
    assert len(commands) == pytest.approx(100, abs=5)


def test_a_replay_beyond_the_limits_stays_within_them() -> None:
    arm = Arm()
    rows = np.where(np.arange(40)[:, None] % 2, 3.0, 0.5)
    commands, end = arm.run(arm.controller.replay(["j0"], rows, 100_000_000, 1.0))
    assert end.cause is CourseCause.REACHED
    assert commands.max() <= 2.0
    assert np.abs(np.diff(commands, axis=0)).max() <= PERIOD_NS / 1e9 * (1 + 1e-9)
    assert arm.controller.report().limited_commands > 100


def test_what_cannot_be_followed_is_refused_with_the_reason() -> None:
    arm = Arm()
    controller = arm.controller
    for pose, speed, message in (
        ("hom", 1.0, "pose 'hom' is not known; 'poses' of the limits: home"),
        ({"j9": 0.0}, 1.0, "'j9' is no channel that has a position; expected j0, j1, j2, grip"),
        ({"j0": 2.5}, 1.0, r"'j0': position 2.5 is not allowed \(limits -2 to 2\)"),
        ({"j0": float("nan")}, 1.0, "position nan is not allowed"),
        ({}, 1.0, "names no channel"),
        ("home", 1.5, "speed is 1.5"),
    ):
        with pytest.raises(CourseError, match=message):
            controller.move_to(pose, speed)
    for names, rows, step_ns, message in (
        (["j9"], np.zeros((2, 1)), 1, "channel 'j9' cannot be replayed"),
        (["j0", "j0"], np.zeros((2, 2)), 1, "each once"),
        (["j0"], np.zeros((0, 1)), 1, "0 rows with a step"),
        (["j0"], np.zeros((2, 1)), 10**14, "expected 1 to 200000 rows within 3600 s"),
        (["j0"], np.full((2, 1), np.nan), 1, "row 0: 'j0' is not finite"),
    ):
        with pytest.raises(CourseError, match=message):
            controller.replay(names, rows, step_ns, 1.0)
    number = controller.replay(["j0"], np.zeros((2, 1)), PERIOD_NS, 1.0)
    _, end = arm.run(number)
    assert (end.cause, end.reason) == (
        CourseCause.NOT_ALIGNED,
        "'j0' is at 0.5, the first row is 0; move to the first row first",
    )
    controller.stop("operator")
    with pytest.raises(CourseError, match="call the reset service first"):
        controller.move_to("home", 1.0)
    controller.reset()
    controller.start("lift")
    with pytest.raises(CourseError, match="a task runs; end that first"):
        controller.move_to("home", 1.0)


def test_a_task_and_a_cancel_end_a_course_and_the_robot_comes_to_rest() -> None:
    arm = Arm()
    number = arm.controller.move_to("home", 1.0)
    for _ in range(20):
        arm.tick()
    assert isinstance(arm.controller.course(number), Course)
    arm.controller.end_course(number)
    end = arm.controller.course(number)
    assert isinstance(end, CourseEnd) and end.cause is CourseCause.CANCELLED
    steps = []
    while (before := arm.pose) is not None and (command := arm.tick()) is not None:
        steps.append(abs(command - before).max())
    assert 3 < len(steps) < 40 and steps == sorted(steps, reverse=True)
    number = arm.controller.move_to("home", 1.0)
    arm.controller.start("lift")
    end = arm.controller.course(number)
    assert isinstance(end, CourseEnd) and (end.cause, end.reason) == (CourseCause.INTERRUPTED, "a task has begun")


def test_a_pose_beyond_the_limits_is_refused_at_configure() -> None:
    with pytest.raises(ConfigError, match=r"poses: 'home': 'j0' is 9.0 \(limits -2.0 to 2.0\); choose one inside"):
        Controller(make_embodiment(), LIMITS, 0.02, poses={"home": {"j0": 9.0}})


def write_episode(folder: Path, **changes: object) -> EpisodeDataset:
    embodiment = dataclasses.replace(make_embodiment(), **changes)
    with DatasetWriter(folder, embodiment) as writer:
        episode = writer.start_episode("lift")
        for frame in make_frames(embodiment, 5):
            episode.add_frame(frame)
        episode.save()
    return EpisodeDataset(folder)


def test_rows_of_an_episode_have_the_names_of_the_robot(tmp_path: Path) -> None:
    arm, base = make_embodiment().action["arm"], VectorKey(names=("vx",), unit="m/s")
    dataset = write_episode(tmp_path / "d", action={"arm": arm, "base": base})
    episode = replay_rows(dataset, 0)
    assert episode.names == ("j0", "j1", "j2", "vx")
    assert episode.step_ns == 100_000_000
    np.testing.assert_allclose(episode.rows[:, :3], dataset.action(0, "arm"))
    assert list(episode.first_pose()) == ["j0", "j1", "j2"]
    with pytest.raises(DatasetError):
        replay_rows(dataset, 7)


def test_units_of_a_dataset_are_converted_or_refused(tmp_path: Path) -> None:
    arm, grip = make_embodiment().action["arm"], make_embodiment().action["gripper"]
    degrees = dataclasses.replace(arm, unit="deg")
    episode = replay_rows(write_episode(tmp_path / "d", action={"arm": degrees, "gripper": grip}), 0)
    assert episode.units == ("deg", "deg", "deg", grip.unit)
    own = {**dict.fromkeys(arm.names, "rad"), **dict.fromkeys(grip.names, grip.unit)}
    np.testing.assert_allclose(unit_factors(episode.names, episode.units, own), [*[np.pi / 180] * 3, 1.0])
    np.testing.assert_array_equal(unit_factors(("j0", "j1"), ("", "rad"), own), [1.0, 1.0])
    np.testing.assert_array_equal(unit_factors(("j0", "j1"), (), own), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"channel 'j1': unit 'mm' \(length\) cannot become 'rad' \(angle\)"):
        unit_factors(("j0", "j1"), ("", "mm"), own)
    with pytest.raises(ValueError, match="1 units for 2 names; expected one each, or none"):
        unit_factors(("j0", "j1"), ("rad",), own)


def test_differences_are_not_replayed(tmp_path: Path) -> None:
    arm = dataclasses.replace(make_embodiment().action["arm"], is_absolute=False)
    dataset = write_episode(tmp_path / "d", action={"arm": arm})
    with pytest.raises(DatasetError, match="action 'arm' is a difference, which cannot be replayed"):
        replay_rows(dataset, 0)
