# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether the person wants control: by a button, or by word."""

from __future__ import annotations

from collections.abc import Sequence

from gr00t_policy_node.teleop.teleop_file import EngageBy

SILENCE_S = 0.3  # a joystick whose button is held must say so at least this often


class Engagement:
    """Begins without a request: a restarted device must not give control back by itself."""

    def __init__(self, button: int = -1, by: EngageBy = EngageBy.TOGGLE) -> None:
        """Listen to a button; -1: none."""
        self.is_engaged = False
        self.is_known = False  # whether the person has said anything yet
        self._button, self._by = button, by
        self._was_down: bool | None = None  # what it was when the joystick appeared is no request
        self._heard_s = 0.0

    def set(self, is_engaged: bool) -> bool:
        """Take a person's word; return whether it is new."""
        is_new = is_engaged != self.is_engaged or not self.is_known
        self.is_engaged, self.is_known = is_engaged, True
        return is_new

    def fault(self, now_s: float) -> str:
        """Return why the person may have let go unheard, empty if not: a held button has to be confirmed."""
        if self._by is EngageBy.HOLD and self._button >= 0 and self.is_engaged and now_s - self._heard_s > SILENCE_S:
            return f"the joystick with the engage button is silent for more than {SILENCE_S:g} s"
        return ""

    def press(self, buttons: Sequence[int], now_s: float) -> bool:
        """Take the state of a joystick's buttons; return whether the person's request has changed."""
        self._heard_s = now_s
        if self._button < 0:
            return False
        is_down = self._button < len(buttons) and bool(buttons[self._button])
        has_changed, self._was_down = self._was_down is not None and is_down != self._was_down, is_down
        if self._by is EngageBy.HOLD:
            return has_changed and self.set(is_down)
        return has_changed and is_down and self.set(not self.is_engaged)
