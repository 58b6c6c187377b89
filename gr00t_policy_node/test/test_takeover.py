# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A person takes over from a policy and gives control back, in the controller alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.person import Engage, Request, TakeoverRules, TeleopMode
from gr00t_policy_node.control.state import CommandSource, ControlState, HoldCause
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Rotation, VectorKey
from gr00t_training.types import ActionChunk

NAMES = ("j0", "j1", "j2", "grip")
LIMIT = JointLimit(min=-2.0, max=2.0, max_velocity=1.0, max_acceleration=5.0)
PERIOD_NS = 20_000_000
START = np.array([0.5, 0.0, 0.0, 0.0])
STEP = 1.0 * PERIOD_NS / 1e9  # of a command at full speed


class Arm:
    """A controller with a clock; the policy asks for 1, unless told otherwise."""

    def __init__(self, limit: JointLimit = LIMIT, **rules: Any) -> None:
        self.controller = Controller(
            make_embodiment(), dict.fromkeys(NAMES, limit), PERIOD_NS / 1e9, takeover=TakeoverRules(**rules)
        )
        self.now_ns = 10**12
        self.pose = START

    @property
    def report(self):
        return self.controller.report()

    def tick(self, count: int = 1, fault: str = "", cause: HoldCause = HoldCause.INPUT) -> np.ndarray:
        """Return the commands (count, N)."""
        commands = []
        for _ in range(count):
            self.now_ns += PERIOD_NS
            command = self.controller.tick(self.now_ns, fault, lambda: self.pose, cause=cause)
            assert command is not None
            self.pose = command
            commands.append(command)
        return np.array(commands)

    def run_policy(self, ticks: int = 5) -> None:
        self.controller.start("lift")
        assert self.offer()
        self.tick(ticks)
        assert self.report.source is CommandSource.POLICY

    def offer(self, value: float = 1.0, age_ns: int = 0) -> bool:
        chunk = ActionChunk(
            {"arm": np.full((50, 3), value), "gripper": np.full((50, 1), value)}, self.now_ns - age_ns, 100_000_000
        )
        return self.controller.offer(chunk, "lift", self.now_ns)

    def ask(self, *positions: float, device: str = "leader", names: tuple[str, ...] = NAMES, **more: Any) -> str:
        request = Request(names[: len(positions)], positions, **more)
        return self.controller.steer(device, request, self.now_ns, self.now_ns)

    def let_go(self, device: str = "leader") -> None:
        assert not self.controller.steer(device, None, self.now_ns, self.now_ns)

    def follow(self, *positions: float, ticks: int, device: str = "leader") -> np.ndarray:
        """Ask for the same at every tick."""
        commands = []
        for _ in range(ticks):
            assert not self.ask(*positions, device=device)
            commands.append(self.tick()[0])
        return np.array(commands)


def test_a_person_is_approached_slowly_then_followed_and_gives_back_to_new_observations_only() -> None:
    arm = Arm(approach_speed=0.25)
    arm.run_policy()
    before = arm.pose
    commands = arm.follow(-0.5, -0.5, -0.5, 0.0, ticks=20)
    assert (arm.report.source, arm.report.device, arm.report.state) == (
        CommandSource.PERSON,
        "leader",
        ControlState.RUNNING,
    )
    steps = np.abs(np.diff(np.vstack([before, commands]), axis=0)).max(axis=1)
    assert steps[6:] == pytest.approx(0.25 * STEP)  # once the speed towards 1 is lost
    commands = arm.follow(-0.5, -0.5, -0.5, 0.0, ticks=250)
    np.testing.assert_array_equal(commands[-1], [-0.5, -0.5, -0.5, 0.0])
    # near: at full speed from now on, as the limits allow
    commands = arm.follow(0.5, -0.5, -0.5, 0.0, ticks=40)
    assert np.diff(commands[:, 0]).max() == pytest.approx(STEP)

    assert not arm.offer()  # what the policy says meanwhile is not carried out
    arm.let_go()
    arm.tick()
    assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.WAITING)
    assert not arm.offer(age_ns=PERIOD_NS)
    assert arm.report.stale_chunks == 1
    arm.tick(3)
    before = arm.pose
    assert arm.offer(age_ns=PERIOD_NS)
    commands = arm.tick(50)
    assert arm.report.source is CommandSource.POLICY
    assert np.abs(np.diff(np.vstack([before, commands]), axis=0)).max() <= STEP * (1 + 1e-9)
    assert arm.report.takeovers == 1


def test_a_hold_on_request_lasts_until_it_is_resumed_and_acts_on_newer_observations_only() -> None:
    arm = Arm()
    for change, reason in ((arm.controller.hold, "nothing to hold"), (arm.controller.resume, "nothing is held")):
        with pytest.raises(ValueError, match=reason):
            change()
    arm.run_policy(20)
    arm.controller.hold()
    commands = arm.tick(600)  # longer than max_silence_s: nobody asks the policy
    assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.ASKED)
    assert arm.report.holds[HoldCause.ASKED] == 1
    assert (commands[-1] == commands[-2]).all()
    assert not arm.offer() and not arm.controller.is_policy_asked
    arm.controller.start("lift")  # another instruction does not end a hold
    arm.tick()
    assert arm.report.cause is HoldCause.ASKED
    arm.controller.resume()
    arm.tick()
    assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.WAITING)
    assert not arm.offer(age_ns=10 * PERIOD_NS)
    assert arm.offer()
    arm.tick()
    assert arm.report.source is CommandSource.POLICY
    assert arm.report.takeovers == 0


def test_a_person_moves_a_robot_that_is_held_on_request_and_leaves_it_held() -> None:
    arm = Arm()
    arm.run_policy(20)
    arm.controller.hold()
    arm.tick(30)
    arm.follow(*(arm.pose + 0.2), ticks=40)
    assert (arm.report.source, arm.report.device) == (CommandSource.PERSON, "leader")
    arm.controller.resume()  # for when the person lets go
    arm.controller.hold()
    arm.let_go()
    commands = arm.tick(30)
    assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.ASKED)
    assert (commands[-1] == commands[-2]).all()


@pytest.mark.parametrize("ending", ["stop", "reset", "finish"])
def test_a_hold_on_request_ends_with_what_it_holds(ending: str) -> None:
    arm = Arm()
    arm.run_policy()
    arm.controller.hold()
    arm.tick()
    getattr(arm.controller, ending)(*([] if ending == "reset" else ["over"]))
    if ending == "stop":
        arm.controller.reset()
    arm.run_policy()


def test_a_device_that_is_not_aligned_holds_the_robot_until_it_is() -> None:
    arm = Arm(engage=Engage.ALIGN, align_s=0.1)
    arm.run_policy(20)
    arm.follow(0.0, 0.0, 0.0, 0.0, ticks=30)
    assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.ALIGN)
    assert "'leader' is not aligned: 'j0' is asked to be at 0, the robot is at" in arm.report.reason
    pose = arm.pose
    assert (arm.follow(*(pose + 0.11), ticks=3) == pose).all()
    arm.follow(*(pose + 0.09), ticks=30)
    assert arm.report.source is CommandSource.PERSON
    np.testing.assert_allclose(arm.pose, pose + 0.09)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([0.03, 0.1, 0.5]), st.integers(1, 60))
def test_a_link_that_dies_at_any_moment_holds_within_a_period_and_never_gives_back(
    seed: int, timeout_s: float, ticks: int
) -> None:
    rng = np.random.default_rng(seed)
    arm = Arm(link_timeout_s=timeout_s)
    arm.run_policy(int(rng.integers(1, 20)))
    arm.follow(*rng.uniform(-2, 2, 4), ticks=ticks)
    heard_ns = arm.now_ns + int(rng.integers(0, PERIOD_NS))  # between two ticks
    assert not arm.controller.steer("leader", Request(NAMES, rng.uniform(-2, 2, 4).tolist()), heard_ns, heard_ns)
    arm.tick()
    while arm.report.source is CommandSource.PERSON:
        arm.tick()
    late_ns = arm.now_ns - heard_ns - round(timeout_s * 1e9)
    assert 0 < late_ns <= PERIOD_NS
    assert (arm.report.cause, arm.report.device) == (HoldCause.LINK, "leader")
    for _ in range(150):
        arm.offer()
        arm.tick()
        assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.LINK)
    assert (arm.tick(3) == arm.pose).all()
    # the link returns: the person goes on; or disengages: the policy does
    if seed % 2:
        arm.follow(0.0, 0.0, 0.0, 0.0, ticks=1)
        assert arm.report.source is CommandSource.PERSON
    else:
        arm.let_go()
        arm.tick()
        assert not arm.offer()  # no newer observation
        arm.tick()
        assert arm.offer()
        arm.tick()
        assert arm.report.source is CommandSource.POLICY


def test_the_first_of_two_devices_has_control_until_it_lets_go_or_falls_silent() -> None:
    arm = Arm()
    arm.run_policy()
    for _ in range(5):
        arm.ask(0.0, device="leader")
        arm.ask(1.0, device="gamepad")
        arm.tick()
        assert arm.report.device == "leader"
    assert arm.report.teleop_fault == "'gamepad' is engaged, but 'leader' has control"
    arm.let_go("leader")
    arm.ask(1.0, device="gamepad")
    arm.tick()
    assert (arm.report.device, arm.report.teleop_fault) == ("gamepad", "")
    for _ in range(10):
        arm.ask(0.0, device="leader")
        arm.tick()
    assert arm.report.device == "leader"
    # silent, but not disengaged: it may not be forgotten when the other one lets go
    arm.let_go("leader")
    arm.tick()
    assert (arm.report.device, arm.report.cause) == ("gamepad", HoldCause.LINK)
    assert arm.report.takeovers == 1


def test_without_a_task_a_person_commands_only_where_that_is_allowed() -> None:
    arm = Arm(mode=TeleopMode.TASK)
    arm.ask(0.6)
    assert arm.controller.tick(arm.now_ns, "", lambda: START) is None
    assert "no task runs" in arm.report.teleop_fault
    arm = Arm(mode=TeleopMode.NEVER)
    arm.run_policy()
    arm.ask(0.6)
    arm.tick()
    assert (arm.report.source, arm.report.device) == (CommandSource.POLICY, "")
    assert "parameter 'teleop' is never" in arm.report.teleop_fault

    arm = Arm(mode=TeleopMode.ALWAYS)
    assert arm.controller.tick(arm.now_ns, "", lambda: START) is None
    commands = arm.follow(0.6, ticks=30)
    np.testing.assert_array_equal(commands[:, 1:], np.zeros((30, 3)))  # not named: they stand still
    assert commands[0][0] <= START[0] + STEP
    assert commands[-1][0] == 0.6
    assert not arm.controller.is_policy_asked
    arm.let_go()
    assert arm.controller.tick(arm.now_ns + PERIOD_NS, "", lambda: START) is None
    assert (arm.report.state, arm.report.source) == (ControlState.IDLE, CommandSource.NONE)


def test_a_stop_and_a_reset_need_a_new_engagement() -> None:
    arm = Arm(mode=TeleopMode.ALWAYS)
    arm.follow(0.6, ticks=5)
    arm.controller.stop("operator")
    arm.follow(0.6, ticks=30)
    assert (arm.report.source, arm.report.device) == (CommandSource.STOP, "")
    arm.controller.reset()
    arm.ask(0.6)
    assert arm.controller.tick(arm.now_ns + PERIOD_NS, "", lambda: START) is None
    assert arm.report.teleop_fault == "'leader' must disengage first: there was a stop, a reset or a deactivation"
    arm.let_go()
    arm.follow(0.6, ticks=2)
    assert arm.report.source is CommandSource.PERSON


def test_gates_hold_a_person_too_except_the_range_that_training_saw() -> None:
    arm = Arm()
    arm.run_policy()
    arm.follow(0.6, 0.0, 0.0, 0.0, ticks=5)
    arm.ask(0.6, 0.0, 0.0, 0.0)
    arm.tick(fault="stream 'front' is stale")
    assert (arm.report.source, arm.report.cause) == (CommandSource.HOLD, HoldCause.INPUT)
    arm.ask(0.6, 0.0, 0.0, 0.0)
    arm.tick(fault="j0 is 200", cause=HoldCause.STATE_RANGE)
    assert arm.report.source is CommandSource.PERSON


def test_rates_move_on_from_the_last_command_and_end_with_the_stick() -> None:
    arm = Arm()
    arm.run_policy()
    for _ in range(40):
        assert not arm.ask(rate_names=["j0"], rates=[-0.5])
        arm.tick()
    assert np.diff(arm.follow(ticks=1)[:, 1:]).shape == (1, 2)
    for _ in range(10):
        arm.ask(rate_names=["j0"], rates=[-0.5])
        before, after = arm.pose, arm.tick()[0]
        np.testing.assert_allclose(after - before, [-0.5 * PERIOD_NS / 1e9, 0.0, 0.0, 0.0], atol=1e-12)
    arm.follow(ticks=10)
    assert (arm.tick() == arm.pose).all()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(["j0"], [float("nan")]), "not finite"),
        (Request(["j9"], [0.0]), "channel 'j9' is not commanded; expected some of j0, j1, j2, grip"),
        (Request(["j0", "j0"], [0.0, 0.0]), "named twice"),
        (Request(["j0"], [0.0], ["j0"], [1.0]), "named twice"),
        (Request(["j0", "j1"], [0.0]), "1 positions and 0 rates, expected 2 and 0"),
    ],
)
def test_a_request_that_cannot_be_used_counts_as_silence(request_: Request, message: str) -> None:
    arm = Arm()
    arm.run_policy()
    arm.follow(0.6, 0.0, 0.0, 0.0, ticks=5)
    for _ in range(7):
        assert message in arm.controller.steer("leader", request_, arm.now_ns, arm.now_ns)
        arm.tick()
    assert message in arm.report.teleop_fault
    assert arm.report.cause is HoldCause.LINK


def test_old_messages_and_messages_that_overtake_each_other_are_not_followed() -> None:
    arm = Arm()
    arm.run_policy()
    fault = arm.controller.steer("leader", Request(["j0"], [0.0]), arm.now_ns - 200_000_000, arm.now_ns)
    assert fault == "'leader': the message is 0.200 s old; check its stamp and the clocks"
    arm.follow(0.6, 0.1, 0.1, 0.1, ticks=60)
    pose = arm.pose
    assert not arm.controller.steer("leader", Request(["j0"], [0.4]), arm.now_ns - 40_000_000, arm.now_ns)
    assert (arm.tick() == pose).all()


def test_a_rotation_is_asked_for_as_a_whole_and_a_rate_as_a_position() -> None:
    pose = VectorKey(names=("qw", "qx", "qy", "qz"), rotation=Rotation.QUATERNION)
    base = VectorKey(names=("vx",), unit="m/s")
    embodiment = dataclasses.replace(make_embodiment(), state={"arm": pose}, action={"arm": pose, "base": base})
    limits = dict.fromkeys((*pose.names, "vx"), LIMIT)
    controller = Controller(embodiment, limits, 0.02, takeover=TakeoverRules(mode=TeleopMode.ALWAYS))
    refused = controller.steer("leader", Request(rate_names=["vx"], rates=[1.0]), 0, 0)
    assert refused == "'vx' is a rate itself; send it among the positions"
    refused = controller.steer("leader", Request(["qw", "qx"], [1.0, 0.0]), 0, 0)
    assert refused == "qw, qx, qy, qz are one rotation; expected positions of all of them"
    rates, now_ns, pose_now = [], 0, np.array([1.0, 0.0, 0.0, 0.0])
    for _ in range(40):
        now_ns += PERIOD_NS
        assert not controller.steer("leader", Request(["vx"], [0.3]), now_ns, now_ns)
        command = controller.tick(now_ns, "", lambda: pose_now)
        assert command is not None
        rates.append(command[-1])
    assert rates[0] == 0.0  # no time has passed
    assert rates[-1] == 0.3
    for _ in range(30):  # silent: held, which for a rate is zero
        now_ns += PERIOD_NS
        command = controller.tick(now_ns, "", lambda: pose_now)
    assert command is not None and command[-1] == 0.0
