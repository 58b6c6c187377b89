# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Task, hold and stop: what the robot is commanded at each control tick."""
