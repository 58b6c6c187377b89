# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the teleoperation node."""

from __future__ import annotations

from dataclasses import dataclass

from gr00t_training.settings import setting


@dataclass(frozen=True)
class TeleopParameters:
    """Parameters of the teleoperation node."""

    teleop_file: str = setting("", "Device and mapping (YAML); empty is refused.", read_only=True)
    policy: str = setting("policy", "Name of the policy node that is taken over from.", read_only=True)
    keyboard_rate_hz: float = setting(
        50.0, "Rate of targets from the keyboard [Hz].", ge=10.0, le=1000.0, read_only=True
    )
