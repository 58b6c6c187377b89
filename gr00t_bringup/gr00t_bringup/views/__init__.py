# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a running robot sees, does and plans, for Rerun, Foxglove and RViz; without ROS."""
