# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The keys of a terminal, one by one."""

from __future__ import annotations

import io
import os
import sys
import termios

import pytest

pytest.importorskip("rclpy")

from gr00t_policy_node.ros.keyboard_input import KeyboardInput
from gr00t_training.errors import ConfigError


def test_keys_are_read_without_enter_and_the_terminal_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    person, terminal = os.openpty()
    with os.fdopen(terminal, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(terminal)
        keyboard = KeyboardInput()
        assert keyboard.read() == ""
        os.write(person, b"a d")
        assert keyboard.read() == "a d"
        keyboard.close()
        assert termios.tcgetattr(terminal) == before
        os.close(person)


def test_a_terminal_that_is_closed_makes_the_keyboard_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    person, terminal = os.openpty()
    with os.fdopen(terminal, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        keyboard = KeyboardInput()
        os.close(person)
        assert keyboard.read() == "" and not keyboard.is_open
        keyboard.close()


def test_a_process_without_a_terminal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigError, match="this process has no terminal; start teleop_node in one"):
        KeyboardInput()
