# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from gr00t_test_support.reference_files import bags_dir, data_dir, fixtures_dir, spec_dir

__all__ = ["bags_dir", "data_dir", "fixtures_dir", "spec_dir"]
