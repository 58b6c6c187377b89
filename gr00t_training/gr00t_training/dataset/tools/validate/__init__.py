# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The parts of `gr00t_training.dataset.tools.validate.dataset`."""
