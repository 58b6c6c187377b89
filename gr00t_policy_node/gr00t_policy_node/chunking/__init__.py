# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Chunks of actions, and the motion that they make: which action is due, and how smooth the chunks are."""
