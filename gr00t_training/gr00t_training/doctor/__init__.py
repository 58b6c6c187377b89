# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a machine, and what to do about it: the checks of `gr00t doctor`."""
