# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import threading

import numpy as np
import pytest

from gr00t_policy_node.timing import (
    Measurements,
    Quantiles,
    RecentValues,
    Stage,
    StageTimers,
    Summarizer,
    TickWatch,
    format_table,
)

PERIOD_NS = 20_000_000


def test_quantiles_are_those_of_what_was_added() -> None:
    values = RecentValues()
    for value in range(101):
        values.add(float(value))
    assert values.describe("x") == Quantiles("x", 101, 50.0, 95.0, 99.0, 100.0)
    assert values.describe("x", small_is_bad=True) == Quantiles("x", 101, 50.0, 5.0, 1.0, 0.0)
    assert values.quantiles(0.25, 0.75) == [25.0, 75.0]
    assert values.newest() == 100.0


def test_nothing_measured_is_zero() -> None:
    assert RecentValues().describe("x") == Quantiles("x", 0, 0.0, 0.0, 0.0, 0.0)
    assert RecentValues().quantiles(0.5) == [0.0]
    assert RecentValues().newest() == 0.0


def test_old_values_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    values = RecentValues(window_s=60.0)
    values.add(7.0)
    now_s[0] += 59.0
    values.add(1.0)
    assert values.describe("x").worst == 7.0
    now_s[0] += 2.0
    assert values.describe("x") == Quantiles("x", 1, 1.0, 1.0, 1.0, 1.0)


def test_the_newest_are_kept_when_there_is_no_room() -> None:
    values = RecentValues(size=4)
    for value in (9.0, 8.0, 1.0, 2.0, 3.0, 4.0):
        values.add(value)
    assert values.describe("x") == Quantiles("x", 4, 2.5, pytest.approx(3.85), pytest.approx(3.97), 4.0)
    assert values.newest() == 4.0


def test_threads_lose_no_measurement() -> None:
    values = RecentValues()
    threads = [threading.Thread(target=lambda: [values.add(1.0) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values.describe("x").count == 8000


def test_stages_are_told_in_their_order_with_a_line_for_every_stream() -> None:
    timers = StageTimers(["joints", "front"])
    timers.add_received("front", 0.002)
    timers.add_used("joints", 0.030)
    timers.add(Stage.INFER, 0.1)
    found = timers.describe()
    assert [each.name for each in found[:5]] == [
        "receive joints", "receive front", "age joints", "age front", "ingest",
    ]  # fmt: skip
    assert [each.name for each in found[4:]] == [stage.value for stage in Stage]
    assert {each.name: each.p50 for each in found if each.count} == {
        "receive front": 0.002, "age joints": 0.030, "infer": 0.1,
    }  # fmt: skip
    assert timers.newest(Stage.INFER) == 0.1
    assert timers.quantiles(Stage.INFER, 0.95) == [0.1]


def test_quantiles_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 1000):
        values, recent = rng.normal(size=count), RecentValues()
        for value in values:
            recent.add(value)
        shares = (0.0, 0.05, 0.5, 0.95, 0.99, 1.0)
        assert recent.quantiles(*shares) == pytest.approx(np.quantile(values, shares).tolist(), rel=1e-12)


def test_summary_follows_the_measurements_until_it_is_closed() -> None:
    timers, has_seen = StageTimers([]), threading.Event()
    timers.add(Stage.DECODE, 0.5)

    def measure() -> Measurements:
        has_seen.set()
        return Measurements(tuple(timers.describe()))

    summarizer = Summarizer(measure, 0.001)
    assert has_seen.wait(120)
    summarizer.close()
    assert summarizer.newest.stage(Stage.DECODE) == Quantiles("decode", 1, 0.5, 0.5, 0.5, 0.5)
    assert summarizer.newest.stage(Stage.INFER) == Quantiles("infer")
    assert "summary" not in [thread.name for thread in threading.enumerate()]


def test_table_has_a_line_for_what_was_measured() -> None:
    table = format_table([Quantiles("decode", 3, 0.001, 0.002, 0.003, 0.004), Quantiles("infer")], scale=1e3)
    head, line = table.splitlines()
    assert head.split() == ["count", "p50", "p95", "p99", "worst"]
    assert line.split() == ["decode", "3", "1.00", "2.00", "3.00", "4.00"]


def ticks(*times_ms: float) -> list[tuple[float, float]]:
    """Return lateness and jitter [ms] of ticks of a 20 ms timer."""
    watch = TickWatch(PERIOD_NS)
    found = [watch.tick(round(time_ms * 1e6)) for time_ms in times_ms]
    return [(round(lateness_s * 1e3, 6), round(jitter_s * 1e3, 6)) for lateness_s, jitter_s in found]


def test_timer_that_keeps_its_grid_is_late_by_what_it_fires_behind_it() -> None:
    assert ticks(0, 20, 43, 60, 80.5) == [(0, 0), (0, 0), (3, 3), (0, 3), (0.5, 0.5)]


def test_first_tick_that_was_late_does_not_shift_the_grid_for_good() -> None:
    assert ticks(5, 20, 41) == [(0, 0), (0, 5), (1, 1)]


def test_ticks_left_out_count_as_one_that_is_late() -> None:
    # due at 40: it comes at 95, and the timer continues with the grid at 100
    assert ticks(0, 20, 95, 101) == [(0, 0), (0, 0), (55, 55), (1, 14)]


def test_clock_set_back_begins_a_new_grid() -> None:
    assert ticks(1000, 1020, 7, 28)[2:] == [(0, 1033), (1, 1)]
