# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hostile persons, clocks and courses, in the controller alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.course import CourseCause, CourseEnd, CourseError
from gr00t_policy_node.control.person import Engage, Request, TakeoverRules, TeleopMode
from gr00t_policy_node.control.state import CommandSource, HoldCause
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.types import ActionChunk

PERIOD_NS = 20_000_000
LIMIT = JointLimit(min=-2.0, max=2.0, max_velocity=1.0, max_acceleration=5.0)
JOINTS = ("j0", "j1", "j2", "grip")
QUATERNION = VectorKey(names=("qw", "qx", "qy", "qz"), rotation=Rotation.QUATERNION)
BASE = VectorKey(names=("vx",), unit="m/s")


class Robot:
    """A controller with a clock and a robot that is where it was commanded to be."""

    def __init__(self, keys: dict[str, VectorKey] | None = None, engage: Engage = Engage.APPROACH) -> None:
        embodiment = make_embodiment()
        if keys is not None:
            state = {name: key for name, key in keys.items() if key is not BASE}
            embodiment = dataclasses.replace(embodiment, state=state, action=keys)
        names = [name for key in embodiment.action.values() for name in key.names]
        self.controller = Controller(
            embodiment,
            dict.fromkeys(names, LIMIT),
            PERIOD_NS / 1e9,
            takeover=TakeoverRules(mode=TeleopMode.ALWAYS, engage=engage),
        )
        self.now_ns = 10**12
        self.pose = np.zeros(len(self.controller.measured_names))
        if keys is not None and QUATERNION in keys.values():
            self.pose[0] = 1.0

    def tick(self, periods: float = 1.0, **more) -> np.ndarray | None:
        self.now_ns += round(periods * PERIOD_NS)
        return self.controller.tick(self.now_ns, more.pop("fault", ""), lambda: self.pose, **more)

    def ask(self, request: Request, ahead_ns: int = 0) -> str:
        return self.controller.steer("leader", request, self.now_ns + ahead_ns, self.now_ns)

    @property
    def last(self) -> np.ndarray:
        command = self.controller.last_command
        assert command is not None
        return command


def test_a_clock_that_was_set_back_and_stands_does_not_keep_a_dead_link_alive() -> None:
    robot = Robot()
    robot.ask(Request(["j0"], [1.0]))
    robot.tick()
    robot.now_ns = 10**9
    # the node's clock stands: the first tick of the new time is one of the steady clock
    robot.tick(0.0, fault="the clock stands", cause=HoldCause.CLOCK, elapsed_s=0.1)
    for _ in range(10):
        robot.tick()
        report = robot.controller.report()
        assert (report.source, report.cause) == (CommandSource.HOLD, HoldCause.LINK)


def test_a_clock_that_was_set_back_and_stands_lets_the_policy_go_on_after_a_person() -> None:
    robot = Robot()
    robot.controller.start("lift")
    robot.ask(Request(["j0"], [1.0]))
    robot.tick()
    robot.controller.steer("leader", None, robot.now_ns, robot.now_ns)
    robot.tick()
    robot.now_ns = 10**9
    robot.tick(0.0, fault="the clock stands", cause=HoldCause.CLOCK, elapsed_s=0.1)
    robot.tick()
    chunk = ActionChunk({"arm": np.zeros((5, 3)), "gripper": np.zeros((5, 1))}, robot.now_ns, 100_000_000)
    assert robot.controller.offer(chunk, "lift", robot.now_ns)


def test_a_stamp_in_the_future_is_refused_since_its_age_is_unknown() -> None:
    robot = Robot()
    fault = robot.ask(Request(["j0"], [1.0]), ahead_ns=3 * 10**9)
    assert fault == "'leader': the message is 3.000 s in the future; check its stamp and the clocks"
    assert robot.tick() is None
    assert not robot.ask(Request(["j0"], [1.0]), ahead_ns=10**7)  # clocks differ a little


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(["j0"], [1e308]), "a position or rate is 1e+308, which no joint can reach"),
        (Request(rate_names=["j0"], rates=[-1e308]), "a position or rate is 1e+308, which no joint can reach"),
        (Request(QUATERNION.names, [0.0] * 4), "a quaternion has no length or is not finite, expected a rotation"),
    ],
)
def test_numbers_that_no_policy_may_send_are_refused_from_a_person_too(request_: Request, message: str) -> None:
    robot = Robot({"arm": QUATERNION} if "qw" in request_.names else None)
    assert robot.ask(request_) == message


def test_a_rotation_of_a_person_gets_unit_length_as_those_of_a_policy_do() -> None:
    robot = Robot({"arm": QUATERNION})
    for _ in range(250):
        assert not robot.ask(Request(QUATERNION.names, [1.4, 1.4, 0.0, 0.0]))
        robot.tick()
    np.testing.assert_allclose(robot.last, [0.5**0.5, 0.5**0.5, 0.0, 0.0])


def test_courses_take_rotations_as_a_whole() -> None:
    robot = Robot({"arm": QUATERNION})
    for begin in (
        lambda: robot.controller.move_to({"qw": 0.5}, 1.0),
        lambda: robot.controller.replay(["qw"], np.ones((3, 1)), PERIOD_NS, 1.0),
    ):
        with pytest.raises(CourseError, match="qw, qx, qy, qz are one rotation; expected all of them or none"):
            begin()


def test_named_poses_take_rotations_as_a_whole() -> None:
    embodiment = dataclasses.replace(make_embodiment(), state={"arm": QUATERNION}, action={"arm": QUATERNION})
    with pytest.raises(ConfigError, match="poses: 'up': qw, qx, qy, qz are one rotation; name all of them or none"):
        Controller(embodiment, dict.fromkeys(QUATERNION.names, LIMIT), 0.02, poses={"up": {"qx": 0.5}})


@pytest.mark.parametrize("engage", list(Engage))
def test_a_device_beyond_the_limits_is_followed_once_the_robot_is_at_them(engage: Engage) -> None:
    robot = Robot(engage=engage)
    robot.pose[0] = 1.99
    for i in range(60):
        assert not robot.ask(Request(["j0", "j1"], [2.5, 0.02 + max(i - 30, 0) * 0.01]))
        robot.tick()
    assert robot.controller.report().source is CommandSource.PERSON
    assert robot.last[:2] == pytest.approx([2.0, 0.31], abs=0.02)


def test_a_channel_that_a_person_names_later_is_approached_slowly() -> None:
    robot = Robot()
    for i in range(60):
        assert not robot.ask(Request(["j0", "j1"][: 1 + (i > 20)], [0.0, 1.0][: 1 + (i > 20)]))
        before = robot.last[1] if i else 0.0
        robot.tick()
        assert abs(robot.last[1] - before) <= 0.2 * PERIOD_NS / 1e9 * 1.001


@pytest.mark.parametrize("periods", [50.0, 5000.0])
def test_a_late_tick_or_a_clock_that_jumps_skips_no_rows_of_a_course(periods: float) -> None:
    robot = Robot()
    rows = np.sin(np.linspace(0.0, 2 * np.pi, 500))[:, None] * 0.3
    number = robot.controller.replay(["j0"], rows, PERIOD_NS, 1.0)
    for _ in range(10):
        robot.tick()
    robot.tick(periods)
    course = robot.controller.course(number)
    assert not isinstance(course, CourseEnd)
    assert course.passed_ns <= 12 * PERIOD_NS


def test_a_replay_ends_where_the_robot_was_moved_by_something_else() -> None:
    robot = Robot()
    number = robot.controller.replay(["j0"], np.zeros((100, 1)), PERIOD_NS, 1.0)
    for _ in range(10):
        robot.tick()
    robot.tick(output_fault="nothing receives the commands")
    robot.pose[0] = 1.0
    robot.tick()
    end = robot.controller.course(number)
    assert isinstance(end, CourseEnd)
    assert (end.cause, end.reason) == (
        CourseCause.NOT_ALIGNED,
        "'j0' is at 1, the next row is 0; move to the first row first",
    )
    assert robot.tick() is None


@pytest.mark.parametrize("speed", [1.0, 0.5, 0.25])
def test_a_slow_replay_leads_a_base_as_far_as_the_recorded_one(speed: float) -> None:
    robot = Robot({"arm": VectorKey(names=("j0",)), "base": BASE})
    rows = np.column_stack([np.zeros(200), np.full(200, 0.4)])
    number = robot.controller.replay(["j0", "vx"], rows, PERIOD_NS, speed)
    way = 0.0
    while not isinstance(robot.controller.course(number), CourseEnd):
        command = robot.tick()
        way += 0.0 if command is None else command[1] * PERIOD_NS / 1e9
    assert way == pytest.approx(0.4 * 199 * PERIOD_NS / 1e9, rel=0.1)
