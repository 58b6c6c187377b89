# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""ROS domains of tests that run at the same time."""

import pytest

pytest.importorskip("rclpy")

from gr00t_recorder.ros.processes import NUM_DOMAINS, SHARE_VARIABLE, next_domain


@pytest.mark.parametrize("parts", [1, 2, 3, 16])
def test_processes_with_different_shares_never_use_the_same_domain(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for part in range(1, parts + 1):
        monkeypatch.setenv(SHARE_VARIABLE, f"{part}/{parts}")
        taken += {next_domain() for _ in range(2 * NUM_DOMAINS)}
    assert len(taken) == len(set(taken)) == parts * (NUM_DOMAINS // parts)
    assert min(taken) >= 1
    assert max(taken) <= NUM_DOMAINS
