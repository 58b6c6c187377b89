# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn the buttons of a joystick into commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum


class Command(str, Enum):
    """What a button of a joystick does."""

    START = "start"
    STOP = "stop"
    DISCARD = "discard"
    REDO = "redo"
    SUCCESS = "success"
    FAILURE = "failure"


RUNNING_ONLY = (Command.STOP, Command.DISCARD)


class Buttons:
    """Turns the buttons of a joystick into commands, one per press; bounces are ignored."""

    def __init__(self, indices: Mapping[Command, int], debounce_s: float) -> None:
        """Assign a button index to each command; negative: none. START and STOP may share one."""
        self._indices = {command: index for command, index in indices.items() if index >= 0}
        self._debounce_ns = round(debounce_s * 1e9)
        self._are_down: dict[int, bool] = {}
        self._pressed_ns: dict[int, int] = {}

    def commands(
        self,
        buttons: Sequence[int],
        now_ns: int,
        *,
        is_recording: bool,
        can_decide: bool = False,
        has_just_ended: bool = False,
    ) -> list[Command]:
        """Return the commands of the buttons that went down since the last call.

        Args:
            buttons: 0 or 1 by index, as in sensor_msgs/msg/Joy.
            now_ns: time of the message.
            is_recording: START is left out while an episode is running, STOP and DISCARD while none is.
            can_decide: the last episode ended by itself: STOP keeps it and DISCARD takes it back.
            has_just_ended: it did so a moment ago: who pressed a button for START and STOP wanted to stop.
        """
        pressed = {index for index in set(self._indices.values()) if self._goes_down(index, buttons, now_ns)}
        commands = [command for command, index in self._indices.items() if index in pressed]
        is_shared = self._indices.get(Command.START) == self._indices.get(Command.STOP)
        if is_recording or (has_just_ended and is_shared):
            left_out = {Command.START}
        elif not can_decide:
            left_out = set(RUNNING_ONLY)
        else:
            left_out = {Command.STOP} if is_shared else set()
        return [command for command in commands if command not in left_out]

    def _goes_down(self, index: int, buttons: Sequence[int], now_ns: int) -> bool:
        is_down = index < len(buttons) and bool(buttons[index])
        was_down = self._are_down.get(index, True)  # held when the joystick appeared: not a press
        self._are_down[index] = is_down
        if not is_down or was_down:
            return False
        last_ns = self._pressed_ns.get(index)
        if last_ns is not None and 0 <= now_ns - last_ns < self._debounce_ns:
            return False
        self._pressed_ns[index] = now_ns
        return True
