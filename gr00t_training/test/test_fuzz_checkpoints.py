# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip("torch")

from gr00t_test_support.fuzzing import run_fuzz


@pytest.mark.slow
def test_hostile_checkpoints_end_as_promised() -> None:
    found = run_fuzz("checkpoints", cases=16, seed=11)
    assert (found.inputs, found.faults) == (16, 0)
    assert 0 < found.refused < found.commands
