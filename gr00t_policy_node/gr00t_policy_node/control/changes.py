# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Log and publish changes of the state without flooding, where a reason alternates at the control rate."""

from __future__ import annotations

REPEAT_S = 5.0  # the same text is logged again after this time
STATUS_GAP_S = 0.1  # mean time between the statuses of many changes
STATUS_BURST = 5  # consecutive changes with a status that is published at once


class ChangeFilter:
    """Decides when a change is reported; a lasting one is reported at the latest after `REPEAT_S`."""

    def __init__(self) -> None:
        """Begin with nothing logged."""
        self._logged = ""  # the state of the newest log line
        self._now = ""  # the current state
        self._logged_s: dict[str, float] = {}  # by text, when it was logged
        self._num_quiet = 0  # changes since the newest log line
        self._allowed = float(STATUS_BURST)
        self._asked_s = 0.0
        self._is_status_due = False

    def note(self, text: str, now_s: float) -> str | None:
        """Note the current state; return the end of the log line to write, None for no line.

        Args:
            text: state and reason, without numbers.
            now_s: steady time.
        """
        if text != self._now:
            self._now = text
            self._is_status_due = True
            self._num_quiet += 1
        if text == self._logged or now_s - self._logged_s.get(text, -REPEAT_S) < REPEAT_S:
            return None
        self._logged_s = {each: time_s for each, time_s in self._logged_s.items() if now_s - time_s < REPEAT_S}
        self._logged_s[text] = now_s
        num_quiet, self._num_quiet, self._logged = self._num_quiet - 1, 0, text
        return f" ({num_quiet} changes before were not logged)" if num_quiet > 0 else ""

    def is_status_due(self, now_s: float) -> bool:
        """Whether a status of the newest change is to be published now; True once."""
        self._allowed = min(self._allowed + max(now_s - self._asked_s, 0.0) / STATUS_GAP_S, STATUS_BURST)
        self._asked_s = now_s
        if not self._is_status_due or self._allowed < 1.0:
            return False
        self._is_status_due = False
        self._allowed -= 1.0
        return True
