# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests to recorder_node by the buttons of a joystick. Nobody gets an answer; refusals go to the log."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Joy

from gr00t_recorder.episodes.buttons import Buttons, Command
from gr00t_recorder.episodes.requests import Mark, Redo, Request, Start, Stop
from gr00t_recorder.ros.recorder_requests import RecorderRequests
from gr00t_recorder.ros.recorder_settings import RecorderSettings
from gr00t_training.dataset.quality import Marks

JUST_ENDED_S = 2.0  # after an episode has ended by itself, a press of the start and stop button was meant to stop it


class RecorderJoystick:
    """Follows the buttons."""

    def __init__(self, node: Node, requests: RecorderRequests) -> None:
        self._node = node
        self._requests = requests
        self._subscription: Any = None
        self._buttons = Buttons({}, 0.0)

    def subscribe(self, settings: RecorderSettings) -> None:
        """Listen to the joystick of the settings, if there is one."""
        if settings.joy_topic:
            self._buttons = Buttons(settings.buttons, settings.joy_debounce_s)
            self._subscription = self._node.create_subscription(Joy, settings.joy_topic, self._on_message, 10)

    def unsubscribe(self) -> None:
        """Stop listening; may be called twice."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_message(self, message: Joy) -> None:
        session = self._requests.active_session
        if session is None:
            return
        view, now_ns = session.recorder.view, self._requests.now_ns()
        ended_s = view.ended_by_itself_s
        commands = self._buttons.commands(
            message.buttons,
            now_ns,
            is_recording=view.is_recording,
            can_decide=view.can_decide,
            has_just_ended=view.can_decide and ended_s is not None and time.monotonic() - ended_s < JUST_ENDED_S,
        )
        for command in commands:
            self._requests.send(_request(command, now_ns), f"button {command.value}")


def _request(command: Command, now_ns: int) -> Request[Any]:
    if command is Command.START:
        return Start("", now_ns)
    if command in (Command.STOP, Command.DISCARD):
        return Stop(command is Command.STOP, now_ns)
    if command is Command.REDO:
        return Redo()
    return Mark(Marks(is_success=command is Command.SUCCESS))
