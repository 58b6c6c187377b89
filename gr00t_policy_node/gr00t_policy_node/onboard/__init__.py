# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The first files of a robot, and their check: against each other, a bag, a running robot, a checkpoint."""
