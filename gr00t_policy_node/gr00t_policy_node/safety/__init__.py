# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Limits of every command: position, velocity, acceleration and jerk, whatever the policy asks for."""
