# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Trials on any robot that runs already; a person prepares each scene and says how it ended.

The person answers by keys of the terminal, by buttons of a joystick, or by services, whichever comes first. An answer
that nothing waits for is ignored.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from enum import Enum
from functools import partial
from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from gr00t_bringup.rollout import Joystick
from gr00t_bringup.ros.task_giver import Goal
from gr00t_bringup.ros.trial_driver import TrialDriver
from gr00t_bringup.ros.trial_recorder import RETRY_S
from gr00t_bringup.trials.table import Spec, Trial
from gr00t_policy_node.ros.keyboard_input import KeyboardInput
from gr00t_recorder.episodes.buttons import Buttons, Command
from gr00t_training.io.text import printable

DEBOUNCE_S = 0.3  # as of the recorder's buttons


class Answer(str, Enum):
    """What a person says; the values name the services."""

    BEGIN = "begin"  # the scene is prepared
    SUCCESS = "success"
    FAILURE = "failure"
    QUIT = "quit"  # the trial that runs does not count


KEYS = {"\n": Answer.BEGIN, "\r": Answer.BEGIN, "s": Answer.SUCCESS, "f": Answer.FAILURE, "q": Answer.QUIT}
BUTTONS = {Command.START: Answer.BEGIN, Command.SUCCESS: Answer.SUCCESS, Command.FAILURE: Answer.FAILURE}
VERDICTS = (Answer.SUCCESS, Answer.FAILURE, Answer.QUIT)


class QuitError(Exception):
    """The person wants no more trials."""


class Person:
    """Collects the answers of a person to one node."""

    def __init__(self, node: Node, joystick: Joystick) -> None:
        """Listen to terminal, joystick and services."""
        self._awaited: Collection[Answer] = ()
        self._answer: Answer | None = None
        self._node = node
        self._keyboard = KeyboardInput() if sys.stdin and sys.stdin.isatty() else None
        for answer in Answer:
            node.create_service(Trigger, f"~/{answer.value}", partial(self._on_call, answer))
        self._buttons = Buttons(joystick.buttons, DEBOUNCE_S)
        if joystick.topic:
            node.create_subscription(Joy, joystick.topic, self._on_joy, 10)

    def ask(self, awaited: Collection[Answer]) -> None:
        """Wait for one of these answers from now on; what was said before does not count."""
        if self._keyboard is not None:
            self._keyboard.read()
        self._awaited, self._answer = awaited, None

    def answer(self) -> Answer | None:
        """Return the answer, None if there is none yet."""
        for key in self._keyboard.read().lower() if self._keyboard is not None else "":
            if key in KEYS:
                self._take(KEYS[key])
        return self._answer

    def close(self) -> None:
        """Restore the terminal."""
        if self._keyboard is not None:
            self._keyboard.close()

    def _take(self, answer: Answer) -> bool:
        if answer not in self._awaited or self._answer is not None:
            return False
        self._answer = answer
        return True

    def _on_call(self, answer: Answer, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._take(answer)
        if not response.success:
            expected = ", ".join(each.value for each in self._awaited) if self._answer is None else ""
            response.message = f"{answer.value}: nothing waits for it now; expected {expected or 'no answer'}"
        return response

    def _on_joy(self, message: Joy) -> None:
        is_running = Answer.BEGIN not in self._awaited
        now_ns = time.monotonic_ns()
        for command in self._buttons.commands(message.buttons, now_ns, is_recording=is_running):
            if command in BUTTONS:
                self._take(BUTTONS[command])


class PersonTrials(TrialDriver):
    """Trials that a person judges."""

    def __init__(self, dataset: Path | None, joystick: Joystick) -> None:
        """Subscribe."""
        super().__init__(dataset)
        self.person = Person(self, joystick)
        name = self.get_fully_qualified_name()
        print(f"answer by keys, or by services {name}/begin, success, failure and quit{_told(joystick)}", flush=True)

    def run(self, spec: Spec) -> Trial:
        """Carry out a trial.

        Raises:
            QuitError: the person has ended the trials; this one does not count.
        """
        begun = self._begin()
        before = self._counts()
        print(f"\ntrial {spec.seed}: {printable(spec.task)}", flush=True)
        self.person.ask((Answer.BEGIN, Answer.QUIT))
        print("prepare the scene, then press Enter (q: quit)", flush=True)
        while (answer := self._answer()) is None:
            pass
        if answer is Answer.QUIT:
            raise QuitError
        goal = self.give(spec.instruction)
        try:
            self.person.ask(VERDICTS)
            print("running: s success, f failure, q quit", flush=True)
            answer, time_s, note = self._follow(goal, spec)
            ended_ns = self._newest_tick_ns()
            outcome = self._end(goal) or ("time limit reached" if answer is None else "judged")
            if answer is None:
                print(f"{outcome}; was it done? s success, f failure, q quit", flush=True)
            while answer is None:
                answer = self._answer()
            if answer is Answer.QUIT:
                raise QuitError
            is_success = answer is Answer.SUCCESS
            if self.recorder is not None:
                note = note or self.recorder.judge(is_success=is_success)
        except BaseException:  # also Ctrl-C: the robot must not go on without a judge
            self._abandon(goal)
            raise
        return self._trial(spec, begun, before, ended_ns, success=is_success, time_s=time_s, outcome=outcome, note=note)

    def close(self) -> None:
        """Restore the terminal."""
        self.person.close()

    def _follow(self, goal: Goal, spec: Spec) -> tuple[Answer | None, float, str]:
        """Wait for the end of a task; return the verdict if there is one, the time, and why nothing was recorded.

        An episode can begin when the robot is commanded, and must end before it is not any more.
        """
        start_s = retry_s = time.monotonic()
        refusal = "" if self.recorder is None else "nothing was commanded"
        answer = None
        while answer is None and not goal.is_over and time.monotonic() - start_s < spec.time_limit_s:
            answer = self._answer()
            if refusal and self.recorder is not None and time.monotonic() >= retry_s:
                refusal = self.recorder.start(spec.instruction)
                retry_s = time.monotonic() + RETRY_S
        time_s = time.monotonic() - start_s
        if self.recorder is not None and not refusal:
            self.recorder.stop()
        return answer, time_s, f"not recorded: {refusal}" if refusal else ""

    def _newest_tick_ns(self) -> int:
        return self.watched.ticks[-1][0] if self.watched.ticks else 0

    def _answer(self) -> Answer | None:
        self.spin(0.02)
        return self.person.answer()


def _told(joystick: Joystick) -> str:
    pressed = [f"{BUTTONS[command].value} {index}" for command, index in joystick.buttons.items() if index >= 0]
    return f", or by buttons of {joystick.topic}: {', '.join(pressed)}" if joystick.topic else ""
