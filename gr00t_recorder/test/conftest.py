# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from gr00t_training.testing import data_dir, fixtures_dir

__all__ = ["data_dir", "fixtures_dir"]
