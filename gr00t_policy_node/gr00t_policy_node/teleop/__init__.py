# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a person's device asks the robot for: leader arm, gamepad, keyboard. Knows no ROS."""
