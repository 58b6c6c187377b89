# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Drive a robot with a GR00T policy.

Data flow, one room per step:

    topics -> observing -> inference -> chunking -> control (every command passes safety) -> ros/outputs -> robot

`urdf` reads limits, `timing` measures all steps. Only `ros` knows ROS; it connects the rooms and runs the threads.
"""
