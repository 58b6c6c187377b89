# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot without hardware: the topics, rates and commands of any topic map, played by `ros/fake_robot_node.py`."""
