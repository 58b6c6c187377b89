# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Trials without ROS: statistics, steps at the boundaries of chunks, table, summary and videos."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gr00t_bringup.trials.boundaries import ChunkTrack, Steps, asked_steps, sent_steps
from gr00t_bringup.trials.grid import BORDER, HEIGHT, WIDTH, write_grid, write_video
from gr00t_bringup.trials.statistics import Z_95, mcnemar, wilson
from gr00t_bringup.trials.summary import compare, summarize, summary_text
from gr00t_bringup.trials.table import Spec, Trial, TrialTable, plan
from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.errors import ConfigError

STEP_NS = 50_000_000
SPEC = Spec("a", "lift", "lift", 0, "lock-step", "sim", 20.0)


def made(success: bool, **spec: object) -> Trial:
    return Trial(replace(SPEC, **spec), "2026-01-01T00:00:00+00:00", success, 6.5, "done" if success else "stopped")


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_that_of_the_literature(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5.1e-5)
    mirrored = wilson(trials - successes, trials)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(wilson(successes, trials))


def test_interval_is_where_the_score_test_changes_its_mind() -> None:
    for bound in wilson(7, 10):
        assert abs(0.7 - bound) / math.sqrt(bound * (1 - bound) / 10) == pytest.approx(Z_95)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        wilson(3, 2)


def test_exact_test_counts_splits() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(5, 0) == mcnemar(0, 5)
    assert mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)


def line(start: int, velocity: float, offset: float = 0.0) -> ChunkTrack:
    """Return a chunk of one joint that follows `velocity` [rad/step] on the clock, moved by `offset`."""
    rows = (start + np.arange(10.0))[:, None] * velocity + offset
    return ChunkTrack(start * STEP_NS, STEP_NS, rows, start * STEP_NS)


def test_motion_that_goes_on_has_equal_steps() -> None:
    found = asked_steps([line(0, 0.1), line(4, 0.1), line(8, 0.1)])
    assert (found.ratio, found.count, found.reversals) == (pytest.approx(1.0), 2, 0)


def test_jump_and_fall_back_are_told_apart() -> None:
    jump = asked_steps([line(0, 0.1), line(4, 0.1, offset=0.2)])
    assert (jump.ratio, jump.reversals) == (pytest.approx(3.0), 0)
    fall = asked_steps([line(0, 0.1), line(4, 0.1, offset=-0.2)])  # saw-tooth: as long a step, the other way
    assert (fall.ratio, fall.reversals) == (pytest.approx(1.0), 1)
    assert (jump + fall).ratio == pytest.approx(2.0)


def test_boundary_that_is_none_is_not_counted() -> None:
    assert asked_steps([line(0, 0.1), line(30, 0.1)]) == Steps()
    assert Steps().ratio is None
    still = asked_steps([line(0, 0.0), line(4, 0.0)])
    assert (still.ratio, still.count, still.reversals) == (None, 1, 0)


def test_late_chunk_counts_from_when_it_took_over() -> None:
    late = replace(line(4, 0.1, offset=0.2), taken_ns=4 * STEP_NS + STEP_NS // 2)
    assert asked_steps([line(0, 0.1), late]).ratio == pytest.approx(3.0)


def test_what_was_sent_is_read_between_its_samples() -> None:
    times_ns = np.arange(0, 20) * STEP_NS // 2
    positions = times_ns[:, None] / STEP_NS * 0.1 + np.where(times_ns > 4 * STEP_NS, 0.2, 0.0)[:, None]
    found = sent_steps(times_ns, positions, [line(0, 0.1), line(4, 0.1)])
    assert found.ratio == pytest.approx(3.0)
    assert sent_steps(times_ns[:9], positions[:9], [line(0, 0.1), line(4, 0.1)]) == Steps()


def test_table_is_the_record_and_survives_a_cut(tmp_path: Path) -> None:
    specs = plan(
        ["a", "b"], [("lift", "lift"), ("turn, left", "lift")], range(2), clock="real", judge="sim", time_limit_s=5
    )
    assert len(set(specs)) == 8
    table = TrialTable(tmp_path / "trials.csv")
    for number, spec in enumerate(specs[:3]):
        steps = Steps(0.5 * number, 0.25, 4, number)
        trial = Trial(
            spec, "now", number != 1, 1.2345, "done", 7, 1, 2, 3, 4, 0.02, None, steps, steps, 'said "no",\ntwice'
        )
        table.add(trial)
    again = TrialTable(tmp_path / "trials.csv")
    assert again.missing(specs) == specs[3:]
    assert again.trials[0] == replace(table.trials[0], time_s=1.234, note='said "no", twice')
    text = (tmp_path / "trials.csv").read_text()
    (tmp_path / "trials.csv").write_text(text[:-20])
    cut = TrialTable(tmp_path / "trials.csv")
    assert cut.missing(specs) == specs[2:]
    cut.add(table.trials[2])
    assert (tmp_path / "trials.csv").read_text() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "a,b\n1,2\n", "is no table of trials of this version"),
        (lambda text: text.replace(",lock-step,", ",lock-step,x,"), "row 2 is damaged"),
        (lambda text: text.replace(",6.5,", ",soon,"), "row 2 is damaged .*'soon'"),
    ],
)
def test_table_that_is_none_is_told(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "trials.csv"
    TrialTable(path).add(made(True))
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=message):
        TrialTable(path)


def test_checkpoints_are_compared_on_the_scenes_that_both_have_tried() -> None:
    first = [made(seed < 6, seed=seed) for seed in range(8)]
    second = [made(seed >= 4, seed=seed, checkpoint="b") for seed in range(7)]
    assert compare([*first, *second], "a", "b") == {
        "first": "a",
        "second": "b",
        "scenes": 7,
        "both": 2,
        "only_first": 4,
        "only_second": 1,
        "p": mcnemar(4, 1),
    }


def test_summary_is_by_checkpoint_and_task() -> None:
    trials = [made(seed < 3, seed=seed, task=task) for seed in range(4) for task in ("lift", "turn")]
    trials += [replace(made(True, checkpoint="b"), asked=Steps(3.0, 2.0, 10, 4), holds=2)]
    timed = [(0.010, 0.020), (0.030, 0.090), (0.020, 0.040)]
    trials += [
        replace(made(True, seed=i, checkpoint="c"), latency_p50_s=p50, latency_p95_s=p95)
        for i, (p50, p95) in enumerate(timed)
    ]
    found = summarize(trials)
    groups = {(group["checkpoint"], group["task"]): group for group in found["groups"]}
    assert groups["a", "all tasks"]["successes"] == 6
    assert groups["a", "lift"]["interval"] == list(wilson(3, 4))
    assert groups["b", "lift"]["boundary_asked"] == pytest.approx(1.5)
    assert (groups["c", "lift"]["latency_p50_s"], groups["c", "lift"]["latency_p95_s"]) == (0.020, 0.040)
    assert groups["b", "lift"]["latency_p50_s"] is None
    assert len(groups) == 5
    text = summary_text(found)
    assert "on the same 1 scenes" in text and " 20/40 ms " in text and " -/- ms " in text
    assert any(row.split()[:7] == ["lift", "3", "of", "4", "75.0%", "30.1%-95.4%", "6.5"] for row in text.splitlines())


def test_grid_shows_failures_first_and_keeps_the_last_image(tmp_path: Path) -> None:
    shown = []
    for number, (success, length) in enumerate([(True, 3), (False, 5), (True, 1)]):
        path = tmp_path / f"{number}.mp4"
        write_video(path, [np.full((240, 320, 3), 120, np.uint8)] * length)
        shown.append((made(success, seed=number), path))
    shown.append((made(True), tmp_path / "missing.mp4"))
    assert write_grid(tmp_path / "grid.mp4", shown) == 3
    reader = VideoReader(tmp_path / "grid.mp4")
    assert reader.num_frames == 5
    height, width = HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER
    assert reader.size == (2 * height, 2 * width)
    last = reader.read([4])[0].astype(int)
    assert last[1, width // 2, 0] > last[1, width // 2, 1]  # red: the failed one
    assert last[1, width + width // 2, 0] < last[1, width + width // 2, 1]
    assert np.abs(last[height + HEIGHT // 2, WIDTH // 2] - 120).max() < 12
    assert write_grid(tmp_path / "none.mp4", shown[3:]) == 0
