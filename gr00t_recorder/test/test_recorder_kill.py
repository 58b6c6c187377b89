# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The short form of bench/kill_recorder.py."""

import pytest

bench = pytest.importorskip("bench.kill_recorder", reason="the benches are not part of an installed package")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("version", "kills"), [("v2.1", 6), ("v3.0", 4)])
def test_killed_writer_loses_no_finished_episode(tmp_path, version, kills):
    path = tmp_path / "dataset"
    results = bench.run_kills(bench.PlainWriter(path, version), path, kills=kills, seed=1, repair_every=3)
    assert results.kills.total() == kills
    assert results.num_lost == 0
    assert results.num_saved >= 1
    assert results.num_recovered >= 1


def test_killed_node_loses_no_finished_episode(tmp_path):
    pytest.importorskip("rclpy")
    path = tmp_path / "dataset"
    recorder = bench.NodeUnderTest(path, tmp_path)
    try:
        results = bench.run_kills(recorder, path, kills=2, seed=3, repair_every=1)
    finally:
        recorder.close()
    assert results.num_lost == 0
    assert results.num_episodes >= 1
