# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decide who may do what, and what happens when the browser in control is lost.

Everybody may stop the robot. Everything else needs control. When the browser in control is silent for a second, a robot
that the policy or a move drives is held by the service `~/hold`, one that the page has taken over by the silence of its
device. If the node does not follow that, it is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gr00t_console.board import Board
from gr00t_console.lease import TIMEOUT_S, ControlLease
from gr00t_console.requests import KINDS, Kind, RequestError, parse
from gr00t_console.robot import Answer, Robot
from gr00t_console.steering import Steering
from gr00t_training.io.text import printable

logger = logging.getLogger(__name__)
PERIOD_S = 0.05  # of messages while a takeover lasts; the node expects one in 0.1 s
HOLD_CHECK_S = 0.5  # in which the node must report the hold
MAX_NAME = 40
HELD = "asked"  # cause of a hold by the service
SENT_AGAIN = 3  # a disengagement is a single message, best effort
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]


class Operator:
    """Requests of all browsers to one robot; for one event loop."""

    def __init__(
        self, robot: Robot, board: Board, clock: Callable[[], float] = time.monotonic, lost_after_s: float = TIMEOUT_S
    ) -> None:
        """Take requests.

        Args:
            robot: does what is asked.
            board: shows who has control.
            clock: steady [s].
            lost_after_s: silence of a browser after which its control ends [s].
        """
        self._robot, self._board, self._clock = robot, board, clock
        self._lease = ControlLease(lost_after_s)
        self._steering = Steering()
        self._jog_limits: Mapping[str, float] = {}
        self._held = ""  # why the robot is held by the console
        self._held_s = 0.0
        self._is_hold_asked = False  # by the service, not by silence
        self._releases = 0  # disengagements still to send
        self._handlers: dict[str, Handler] = {
            "release": self._release,
            "hold": self._hold,
            "take_over": self._take_over,
            "give_back": self._give_back,
            "jog": self._jog,
            "reset": self._reset,
            "end_task": self._end_task,
        }
        self._kinds: dict[str, Kind] = dict(KINDS)
        self._show()

    def add(self, name: str, kind: Kind, handler: Handler) -> None:
        """Take another request, which `handler` does."""
        self._kinds[name], self._handlers[name] = kind, handler

    def set_jog_speeds(self, speeds: Mapping[str, float]) -> None:
        """Say which joints may be moved by hand, and the rate of each [unit of the channel per second]."""
        self._jog_limits = speeds

    def beat(self, client: str) -> None:
        """Note that the page of a client is alive."""
        self._lease.beat(client, self._clock())

    async def handle(self, client: str, message: Any) -> Answer:
        """Do what a page asks; never raises for what a page can send."""
        try:
            name, kind, members = parse(message, self._kinds)
        except RequestError as error:
            return Answer(False, printable(str(error)))
        if name == "stop":
            return self.stop()
        if name == "take":
            return self._take(client, members["name"])
        if kind.needs_control and not self._lease.has(client):
            holder = f"{self._lease.name} has control" if self._lease.name else "nobody has control; take it"
            return Answer(False, f"not done: {holder}")
        if name == "release":
            self._lease.release(client)
        handler = self._handlers.get(name)
        return await (handler(members) if handler else self._robot.ask(name, **members))

    def stop(self) -> Answer:
        """Stop the robot, whoever asks."""
        self._robot.stop()  # which ends a hold as well
        self._let_go()
        logger.warning("emergency stop from the page")
        return Answer(True, "stop sent")

    async def watch(self) -> None:
        """Send what the takeover asks for, and hold the robot when control is lost; until cancelled."""
        while True:
            self.step()
            await asyncio.sleep(PERIOD_S)

    def step(self) -> None:
        """Do what is due now."""
        now_s = self._clock()
        rates = self._steering.due(now_s, self._lease.silence_s(now_s))
        if rates is not None:
            self._robot.steer(rates)
        elif self._releases:
            self._releases -= 1
            self._robot.steer(None)
        self._check_hold(now_s)
        name = self._lease.expire(now_s)
        if name:
            self.lose(f"the browser of {name} was lost")

    def lose(self, why: str) -> None:
        """Hold a robot that nobody watches any more."""
        policy = self._robot.policy
        if self._steering.is_engaged or (policy is not None and policy.is_driven):
            self._begin_hold(why)
        self._show()

    def close(self) -> None:
        """Leave a robot that a browser has controlled held."""
        if self._lease.name:
            self.lose("the console ended")

    def _take(self, client: str, name: str) -> Answer:
        refusal = self._lease.take(client, printable(name[:MAX_NAME]) or "operator", self._clock())
        self._show()
        return Answer(not refusal, refusal or "you have control")

    async def _release(self, members: dict[str, Any]) -> Answer:
        if self._steering.is_engaged and not self._steering.is_silent:
            self._begin_hold("control was released during a takeover")
        self._show()
        return Answer(True, "control released; the robot goes on as it is")

    async def _hold(self, members: dict[str, Any]) -> Answer:
        policy = self._robot.policy
        if policy is None or policy.state not in ("running", "holding"):
            return Answer(False, "nothing to hold: no task runs")
        self._begin_hold(f"{self._lease.name} asked for it")
        self._show()
        return Answer(True, "held; give back to continue")

    async def _take_over(self, members: dict[str, Any]) -> Answer:
        if self._robot.policy is None:
            return Answer(False, "no policy node; start it")
        self._steering.engage()
        self._held, self._releases = "", 0
        self.step()
        self._show()
        return Answer(True, "you command the robot; hold a joint's button to move it")

    async def _give_back(self, members: dict[str, Any]) -> Answer:
        policy = self._robot.policy
        if self._is_hold_asked or (policy is not None and policy.cause == HELD):  # by somebody else
            self._robot.hold(False)
        self._let_go()
        return Answer(True, "given back")

    async def _jog(self, members: dict[str, Any]) -> Answer:
        if not self._steering.is_engaged or self._steering.is_silent:
            return Answer(False, "take over first")
        asked: dict[str, float] = members["rates"]
        unknown = [name for name in asked if name not in self._jog_limits]
        if unknown:
            return Answer(False, f"joint '{printable(unknown[0][:40])}' cannot be moved by hand")
        rates = {name: self._jog_limits[name] * min(max(share, -1.0), 1.0) for name, share in asked.items()}
        self._steering.jog(rates, self._clock())
        self._robot.steer(rates)
        return Answer(True, "")

    async def _reset(self, members: dict[str, Any]) -> Answer:
        self._let_go()
        return await self._robot.ask("reset")

    async def _end_task(self, members: dict[str, Any]) -> Answer:
        answer = await self._robot.ask("end_task")
        if answer.is_done:
            self._let_go()
        return answer

    def _begin_hold(self, why: str) -> None:
        self._held, self._held_s = why, self._clock()
        if self._steering.is_engaged:
            self._steering.silence()
        else:
            self._is_hold_asked = True
            self._robot.hold(True)
        logger.warning("holding the robot: %s", why)

    def _check_hold(self, now_s: float) -> None:
        """Stop the robot if the node has not followed a hold; also later, when an input that was stale comes back."""
        policy = self._robot.policy
        if not self._held or now_s - self._held_s < HOLD_CHECK_S or policy is None:
            return
        if policy.is_driven and policy.state == "running":
            why = policy.fault or policy.source
            logger.error("the node does not hold (%s); stopping", why)
            self._robot.stop()
            self._held_s = now_s

    def _let_go(self) -> None:
        if self._steering.is_engaged:
            self._steering.release()
            self._robot.steer(None)
            self._releases = SENT_AGAIN
        self._held, self._is_hold_asked = "", False
        self._show()

    def _show(self) -> None:
        self._board.post(
            "control",
            {
                "name": self._lease.name,
                "holder": self._lease.public_id,
                "held": self._held,
                "is_taken_over": self._steering.is_engaged and not self._steering.is_silent,
            },
        )
