# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Who may do what, and what the console sends when the browser in control is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gr00t_console.board import Board, plain
from gr00t_console.operator import Operator
from gr00t_console.robot import Answer, PolicyView

ANNA, BEN = "a" * 32, "b" * 32
RUNNING = PolicyView("running", "policy")


class SeenRobot:
    """A robot that remembers what it was told; its node follows a takeover from the page if `follows`."""

    def __init__(self) -> None:
        self.policy: PolicyView | None = RUNNING
        self.checkpoint = "checkpoint"
        self.follows = True
        self.told: list[Any] = []

    def stop(self) -> None:
        self.told.append("stop")

    def steer(self, rates: Mapping[str, float] | None) -> None:
        self.told.append(rates)
        if self.follows:
            self.policy = RUNNING if rates is None else PolicyView("holding", "hold", device="console")

    def hold(self, is_held: bool) -> None:
        self.told.append("hold" if is_held else "resume")
        if self.follows:
            self.policy = PolicyView("holding", "hold", cause="asked") if is_held else RUNNING

    async def ask(self, name: str, **members: Any) -> Answer:
        self.told.append((name, members))
        return Answer(True, "done")


class Room:
    """An operator, a robot and a clock that stands."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.robot, self.board = SeenRobot(), Board()
        self.operator = Operator(self.robot, self.board, lambda: self.now_s)
        self.operator.set_jog_speeds({"elbow": 0.4})

    def ask(self, client: str, what: str, **members: Any) -> Answer:
        return asyncio.run(self.operator.handle(client, {"do": what, **members}))

    def wait(self, seconds: float, *, beating: str = "") -> list[Any]:
        """Let time pass; return what the robot was told meanwhile."""
        self.robot.told.clear()
        for _ in range(round(seconds / 0.05)):
            self.now_s += 0.05
            if beating:
                self.operator.beat(beating)
            self.operator.step()
        return self.robot.told

    @property
    def control(self) -> dict[str, Any]:
        return json.loads(self.board.reader().take()["control"])


@pytest.fixture
def room() -> Room:
    return Room()


def test_one_has_control_and_others_watch(room: Room) -> None:
    assert not room.ask(BEN, "reset").is_done  # nobody has control
    assert room.ask(ANNA, "take", name="Anna").is_done
    refused = room.ask(BEN, "take", name="Ben")
    assert not refused.is_done
    assert "Anna has control" in refused.text
    assert not room.ask(BEN, "reset").is_done
    assert not room.ask(BEN, "release").is_done
    assert room.robot.told == []
    assert room.ask(ANNA, "reset").is_done
    assert room.robot.told == [("reset", {})]
    assert room.ask(ANNA, "release").is_done
    assert room.ask(BEN, "take", name="Ben").is_done


def test_everybody_may_stop(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert room.ask(BEN, "stop").is_done
    assert room.robot.told == ["stop"]


def test_who_watches_never_sees_the_secret_of_who_has_control(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert ANNA not in json.dumps(room.control)
    assert room.control["name"] == "Anna"


def test_loss_of_the_browser_holds_the_robot_after_a_second(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert room.wait(5.0, beating=ANNA) == []
    assert room.wait(1.0) == []
    assert room.wait(0.1) == ["hold"]
    assert "Anna was lost" in room.control["held"]
    assert room.wait(3.0) == []
    assert room.ask(BEN, "take", name="Ben").is_done
    room.ask(BEN, "give_back")
    assert room.robot.told == ["resume"]
    assert room.wait(1.0, beating=BEN) == []
    assert room.control["held"] == ""


def test_a_hold_of_somebody_else_can_be_given_back(room: Room) -> None:
    room.robot.policy = PolicyView("holding", "hold", cause="asked")
    room.ask(ANNA, "take", name="Anna")
    room.ask(ANNA, "give_back")
    assert room.robot.told == ["resume"]


def test_a_takeover_during_a_hold_resumes_when_it_is_given_back(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert room.ask(ANNA, "hold").is_done
    assert room.robot.told == ["hold"]
    room.ask(ANNA, "take_over")
    assert room.robot.told[-1] == {}  # the person comes before the hold
    room.robot.told.clear()
    room.ask(ANNA, "give_back")
    assert room.robot.told == ["resume", None]
    assert room.wait(1.0, beating=ANNA) == [None, None, None]  # sent again: single messages may be lost


def test_a_stop_resumes_nothing(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    room.ask(ANNA, "hold")
    room.ask(BEN, "stop")
    assert room.robot.told == ["hold", "stop"]
    assert room.control["held"] == ""


@pytest.mark.parametrize(
    "policy",
    [None, PolicyView("idle", "none"), PolicyView("stopped", "stop"), PolicyView("running", "person", device="leader")],
)
def test_loss_holds_nothing_that_is_at_rest_or_in_the_hands_of_a_person(room: Room, policy: PolicyView | None) -> None:
    room.robot.policy = policy
    room.ask(ANNA, "take", name="Anna")
    assert room.wait(3.0) == []


def test_a_node_that_does_not_follow_the_hold_is_stopped(room: Room) -> None:
    room.robot.follows = False
    room.ask(ANNA, "take", name="Anna")
    room.wait(1.1)
    room.robot.policy = PolicyView("holding", "hold")  # held by something else, which may end
    assert room.wait(5.0) == []
    room.robot.policy = PolicyView("running", "policy")
    assert room.wait(0.1)[0] == "stop"
    room.robot.policy = PolicyView("stopped", "stop")
    assert room.wait(5.0) == []


def test_a_hold_that_is_followed_stops_nothing(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert room.wait(1.1) == ["hold"]
    assert room.wait(5.0) == []


def test_takeover_moves_a_joint_while_its_button_is_held(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert not room.ask(ANNA, "jog", rates={"elbow": 1.0}).is_done  # not before the takeover
    room.ask(ANNA, "take_over")
    assert room.wait(0.2, beating=ANNA) == [{}, {}, {}, {}]  # engaged and at rest
    assert room.ask(ANNA, "jog", rates={"elbow": -5.0}).is_done
    assert room.robot.told[-1] == {"elbow": -0.4}  # never faster than allowed
    told = room.wait(0.6, beating=ANNA)
    assert told[0] == {"elbow": -0.4}
    assert told[-1] == {}  # nobody repeated it
    assert not room.ask(ANNA, "jog", rates={"wheel": 1.0}).is_done
    assert room.wait(2.0)[-1] == {}  # the link is lost: silence before the lease ends, and no other message
    assert room.control["held"]


def test_release_during_a_takeover_holds(room: Room) -> None:
    room.ask(ANNA, "take", name="Anna")
    room.ask(ANNA, "take_over")
    room.ask(ANNA, "release")
    assert room.wait(1.0) == []
    assert room.control["held"]


@pytest.mark.parametrize(
    "message",
    [None, [], "stop", {}, {"do": 1}, {"do": "fly"}, {"do": "run"}, {"do": "run", "instruction": 5, "time_limit_s": 0},
     {"do": "run", "instruction": "a", "time_limit_s": float("nan")}, {"do": "run", "instruction": "a" * 9999},
     {"do": "jog", "rates": {"elbow": "fast"}}, {"do": "jog", "rates": {"elbow": True}}, {"do": "mark", "success": 7}],
)  # fmt: skip
def test_what_no_page_sends_is_refused(room: Room, message: Any) -> None:
    room.ask(ANNA, "take", name="Anna")
    assert not asyncio.run(room.operator.handle(ANNA, message)).is_done
    assert room.robot.told == []


def test_a_slow_browser_gets_the_newest_values_only() -> None:
    async def scenario() -> list[dict[str, Any]]:
        board = Board()
        board.post("policy", 1)
        board.start()
        reader = board.reader()
        found = [reader.take(), reader.take()]
        for value in range(1000):
            board.post("policy", value)
        board.post("chunk", b"picture")
        await asyncio.sleep(0)
        return [*found, reader.take(), reader.take()]

    assert asyncio.run(scenario()) == [{"policy": "1"}, {}, {"policy": "999", "chunk": b"picture"}, {}]


def test_numbers_that_json_has_not_become_null() -> None:
    found = plain({"a": [float("nan"), float("inf"), 0.1 + 0.2], "t": 1796037499.9465372, "n": 3, "s": None})
    assert found == {"a": [None, None, 0.3], "t": 1796037499.946537, "n": 3, "s": None}
