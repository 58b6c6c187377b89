# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The short form of bench/repair_property.py."""

import pytest

bench = pytest.importorskip("bench.repair_property", reason="the benches are not part of an installed package")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_every_row_and_picture_survives_any_damage(tmp_path, seed):
    results = bench.run_cases(16, seed, tmp_path)
    assert results.problems == []
    assert sum(results.outcomes.values()) == 16
    assert results.outcomes["changed, whole"] >= 2


def test_repair_that_is_killed_is_finished_by_the_next(tmp_path):
    results = bench.run_cases(4, 3, tmp_path, interrupt=True)
    assert results.problems == []
