# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

from gr00t_test_support.fuzzing import run_fuzz


@pytest.mark.slow
def test_hostile_bags_end_as_promised():
    found = run_fuzz("bags", cases=24, seed=20)
    assert (found.inputs, found.faults) == (24, 0)
    assert 0 < found.refused < found.commands
