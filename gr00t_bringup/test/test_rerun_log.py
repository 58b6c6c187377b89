# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot in a Rerun recording, read back: entities, values, stamps and ticks; without ROS."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from rerun_files import chunk, curve, read_rows

from gr00t_bringup.views.joints import JointRow
from gr00t_bringup.views.notes import PolicyNote, RecorderNote
from gr00t_bringup.views.rerun_log import LIMIT_PERIOD_NS, RerunLog, RerunTarget
from gr00t_training.errors import ConfigError

MS = 1_000_000
STEP_NS = 100 * MS
T0 = 1_700_000_000 * 1_000_000_000
ROWS = (
    JointRow("arm", "j0", "rad", True, -1.0, 0.0, 2.0),
    JointRow("arm", "linear.x", "m/s", True),
)


def log_to(path: Path) -> RerunLog:
    return RerunLog(RerunTarget(save=path), ROWS, ["front"], STEP_NS)


def test_joints_have_state_command_and_limits_with_their_stamps(tmp_path: Path) -> None:
    log = log_to(tmp_path / "run.rrd")
    for i in range(3):
        log.joints("state", T0 + 50 * i * MS, {"j0": 0.1 * i, "linear.x": 2.0 + i, "unknown": 1.0})
    log.flush()
    log.joints("command", T0 + 120 * MS, {"j0": 0.5})
    log.joints("state", T0 + LIMIT_PERIOD_NS, {"j0": 0.9})
    log.close()
    found = read_rows(tmp_path / "run.rrd")
    state = found["/joints/arm/j0/state"]
    assert [(row.stamp_ns - T0) // MS for row in state] == [0, 50, 100, 1000]
    assert [row.tick for row in state] == [0, 0, 1, 10]
    np.testing.assert_allclose([value for _, value in curve(state)], [0.0, 0.1, 0.2, 0.9])
    assert curve(found["/joints/arm/linear.x/state"]) == [(T0 + 50 * i * MS, 2.0 + i) for i in range(3)]
    assert curve(found["/joints/arm/j0/command"]) == [(T0 + 120 * MS, 0.5)]
    # a limit of zero is one; a line of two points a second apart
    assert curve(found["/joints/arm/j0/high"]) == [(T0, 0.0), (T0 + LIMIT_PERIOD_NS, 0.0)]
    assert curve(found["/joints/arm/j0/low"]) == [(T0, -1.0), (T0 + LIMIT_PERIOD_NS, -1.0)]
    assert not [entity for entity in found if "unknown" in entity or "linear.x/low" in entity]


def test_chunks_that_overlap_are_lines_of_their_own_that_end(tmp_path: Path) -> None:
    log = log_to(tmp_path / "run.rrd")
    rows = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]])
    for start_ms in (0, 200, 400):  # each has rows at +0, +100, +200 ms and ends at +300
        log.chunk(T0 + start_ms * MS, STEP_NS, ["j0", "linear.x"], rows)
    log.close()
    found = read_rows(tmp_path / "run.rrd")

    def line(slot: int) -> list[tuple[int, float | None]]:
        points = curve(found[f"/joints/arm/j0/chunk_{slot}"])
        return [((stamp - T0) // MS, None if math.isnan(value) else value) for stamp, value in points]

    first = [(0, 0.0), (100, 1.0), (200, 2.0), (300, None)]
    assert line(0) == [*first, *((at + 400, value) for at, value in first)]  # the third follows the end of the first
    assert line(1) == [(at + 200, value) for at, value in first]
    assert "/joints/arm/j0/chunk_2" not in found
    assert [row.tick for row in found["/joints/arm/linear.x/chunk_1"]] == [2, 3, 4, 5]


def test_pictures_are_kept_as_they_are(tmp_path: Path) -> None:
    log = log_to(tmp_path / "run.rrd")
    for i in range(2):
        log.picture("front", T0 + i * STEP_NS, bytes([0xFF, 0xD8, i]))
    log.close()
    rows = read_rows(tmp_path / "run.rrd")["/cameras/front"]
    assert [(row.tick, bytes(row.values["blob"][0])) for row in rows] == [(0, b"\xff\xd8\x00"), (1, b"\xff\xd8\x01")]
    assert rows[0].values["media_type"] == ["image/jpeg"]


def test_statuses_become_lines_and_numbers(tmp_path: Path) -> None:
    log = log_to(tmp_path / "run.rrd")
    log.policy(PolicyNote(T0, "running", counts={"hold": {"input": 1}}, latencies_s={"infer": (0.01, 0.02)}))
    log.policy(
        PolicyNote(T0 + STEP_NS, "holding", "front is stale", counts={"hold": {"input": 2}}, ages_s={"front": 0.5})
    )
    log.recorder(RecorderNote(T0, "recording", totals={"rows": 12}))
    log.close()
    found = read_rows(tmp_path / "run.rrd")
    lines = [(row.values["level"][0], row.values["text"][0], row.tick) for row in found["/policy/log"]]
    assert sorted(lines) == [("INFO", "running", 0), ("WARN", "hold: input", 1), ("WARN", "holding: front is stale", 1)]
    assert curve(found["/policy/counts/hold"]) == [(T0, 1.0), (T0 + STEP_NS, 2.0)]
    assert found["/policy/latency/infer"][0].values["scalars"] == [0.01, 0.02]
    assert curve(found["/policy/ages/front"]) == [(T0 + STEP_NS, 0.5)]
    assert curve(found["/recorder/totals/rows"]) == [(T0, 12.0)]


def test_the_recording_has_an_arrangement_of_its_own(tmp_path: Path) -> None:
    log_to(tmp_path / "run.rrd").close()
    assert [each.application_id for each in chunk.RrdReader(tmp_path / "run.rrd").blueprints()] == ["gr00t_view"]


def test_a_file_that_exists_and_a_viewer_that_does_not_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.rrd"
    path.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"run\.rrd: exists"):
        log_to(path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="no/such"):
        log_to(Path("/dev/null/no/such/run.rrd"))
