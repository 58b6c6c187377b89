# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

from gr00t_test_support.fuzzing import run_fuzz


@pytest.mark.slow
def test_changed_datasets_end_as_promised():
    found = run_fuzz("datasets", cases=15, seed=7)
    assert (found.inputs, found.faults) == (15, 0)
