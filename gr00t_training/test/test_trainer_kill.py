# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The short form of bench/kill_trainer.py."""

import pytest

pytest.importorskip("torch")
bench = pytest.importorskip("bench.kill_trainer", reason="the benches are not part of an installed package")


@pytest.mark.slow
def test_a_killed_run_leaves_usable_checkpoints_and_continues_exactly(tmp_path):
    results = bench.run_kills(tmp_path, kills=3, seed=2)
    assert results.faults == []
    assert results.kills.total() == 3
    assert results.num_steps >= 1
    assert results.num_checked >= 1
