# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

from gr00t_test_support.fuzzing import run_fuzz


@pytest.mark.slow
def test_hostile_settings_end_as_promised() -> None:
    found = run_fuzz("settings", cases=80, seed=11)
    assert (found.inputs, found.faults) == (80, 0)
    assert 0 < found.refused < found.commands
