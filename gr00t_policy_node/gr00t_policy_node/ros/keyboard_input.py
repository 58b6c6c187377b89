# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the terminal's keys one by one, without waiting."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty

from gr00t_training.errors import ConfigError


class KeyboardInput:
    """The terminal of this process, which shows no keys until `close`."""

    def __init__(self) -> None:
        """Take the terminal.

        Raises:
            ConfigError: the process has none.
        """
        if not sys.stdin or not sys.stdin.isatty():
            raise ConfigError("keyboard: this process has no terminal; start teleop_node in one, not by a launch file")
        self._descriptor = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._descriptor)
        self.is_open = True
        tty.setcbreak(self._descriptor)

    def read(self) -> str:
        """Return the characters since the last call; a terminal that was closed stays silent."""
        found = b""
        while self.is_open and select.select([self._descriptor], [], [], 0.0)[0]:
            try:
                part = os.read(self._descriptor, 1024)
            except OSError:
                part = b""
            found += part
            self.is_open = bool(part)
        return found.decode("utf-8", "ignore")

    def close(self) -> None:
        """Restore the terminal."""
        if self.is_open:
            self.is_open = False
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
