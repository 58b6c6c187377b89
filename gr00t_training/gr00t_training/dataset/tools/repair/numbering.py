# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Judge which episode and frame each row belongs to, from the numbers that the rows themselves carry.

A row has up to four numbers: `episode_index`, `frame_index`, `index` (over the whole dataset) and `timestamp`. Complete
numbers are the truth. A damaged column is set only where the other columns agree about it; where they contradict each
other, `UndecidedError` shows both sides. Positions in a file decide only where the rows carry no number at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.tools.repair.plan import CORRECT_FPS, Plan
from gr00t_training.dataset.tools.validate.metadata import TIME_TOLERANCE_S
from gr00t_training.errors import DatasetError

WHOLE_FRAME = 0.25  # of a frame period; a timestamp nearer to a tick than this belongs to that tick


class UndecidedError(Exception):
    """The numbers contradict each other; the text shows both sides."""


@dataclass(frozen=True)
class RowNumbers:
    """Numbers of the rows of one file, each `(N,)`; None if there is no such column or it is not all numbers."""

    count: int
    columns: frozenset[str]  # names that the file has, readable or not
    episode: np.ndarray | None
    frame: np.ndarray | None
    index: np.ndarray | None
    time_s: np.ndarray | None

    def slice(self, rows: np.ndarray) -> RowNumbers:
        """Return the numbers of some rows, in this order."""
        parts = [None if v is None else v[rows] for v in (self.episode, self.frame, self.index, self.time_s)]
        return RowNumbers(len(rows), self.columns, *parts)


def read_numbers(table: pa.Table) -> RowNumbers:
    """Return the numbers of the rows of `table`."""
    return RowNumbers(
        table.num_rows,
        frozenset(table.column_names),
        _column(table, "episode_index", "iu"),
        _column(table, "frame_index", "iu"),
        _column(table, "index", "iu"),
        _column(table, schema.TIMESTAMP_COLUMN, "iuf"),
    )


def is_complete(values: np.ndarray | None) -> bool:
    """Whether the values are 0 to n-1, each once, in any order."""
    return values is not None and bool(np.array_equal(np.sort(values), np.arange(len(values))))


def frames_of_times(times_s: np.ndarray | None, fps: float) -> np.ndarray | None:
    """Return the frame number that each timestamp stands for, counted from the earliest; None unless complete."""
    if times_s is None or not len(times_s) or not np.isfinite(times_s).all():
        return None
    ticks = (times_s - times_s.min()) * fps
    frames = np.round(ticks).astype(np.int64)
    return frames if (np.abs(ticks - frames) <= WHOLE_FRAME).all() and is_complete(frames) else None


def order_of_rows(numbers: RowNumbers, fps: float, subject: str) -> np.ndarray:
    """Return the rows of one episode in the order of their frames, as positions `(N,)`.

    Raises:
        UndecidedError: the numbers are incomplete or contradict each other.
    """
    by_time = frames_of_times(numbers.time_s, fps)
    by_index = None
    if numbers.index is not None and numbers.count:
        relative = numbers.index - numbers.index.min()
        by_index = relative if is_complete(relative) else None
    if is_complete(numbers.frame):
        frame = numbers.frame
        assert frame is not None
        if by_time is not None and not np.array_equal(by_time, frame):
            row = int(np.flatnonzero(by_time != frame)[0])
            assert numbers.time_s is not None
            raise UndecidedError(
                f"{subject}: row {row} has frame_index {frame[row]} but timestamp {numbers.time_s[row]:.6f} s, which "
                f"is frame {by_time[row]}"
            )
        return np.argsort(frame, kind="stable")
    position = np.arange(numbers.count)
    if "frame_index" not in numbers.columns:
        times = numbers.time_s
        rises = times is None or not (np.diff(times) <= 0).any()
        follows = numbers.index is None or (by_index is not None and np.array_equal(by_index, position))
        if rises and follows:
            return position
        if by_time is not None and by_index is not None and np.array_equal(by_time, by_index):
            return np.argsort(by_time, kind="stable")
        raise UndecidedError(f"{subject}: no frame_index, and timestamp and index do not follow the order of the rows")
    others = {"timestamp": by_time, "index": by_index}
    present = {name: value for name, value in others.items() if name in numbers.columns}
    if present and all(value is not None and np.array_equal(value, position) for value in present.values()):
        return position
    raise UndecidedError(f"{subject}: {_describe_frames(numbers.frame, numbers.count)}")


def check_rate(plan: Plan, numbers: Sequence[RowNumbers], fps: float, video_rates: Mapping[str, float]) -> bool:
    """Refuse to plan anything, and return False, where rows or all videos have another rate than `info.json`.

    Args:
        plan: that notes the refusal.
        numbers: of whole files or episodes, rows in any order.
        fps: rate that `info.json` states.
        video_rates: frames per second by camera, as the files say; 0: not known.
    """
    problem = _rate_problem(numbers, fps, {camera: rate for camera, rate in video_rates.items() if rate})
    if problem:
        plan.refuse(schema.INFO_FILE, problem, CORRECT_FPS)
    return not problem


def _rate_problem(numbers: Sequence[RowNumbers], fps: float, video_rates: Mapping[str, float]) -> str:
    """Return what contradicts the rate `fps` of info.json, with both sides; empty if nothing does."""
    said = _rate_of_rows(numbers, fps)
    if not said:
        has_times = any(item.time_s is not None for item in numbers)
        is_odd = [abs(rate - fps) > 0.01 * fps for rate in video_rates.values()]
        if has_times or not is_odd or not all(is_odd):
            return ""
        said = "rows have no timestamps"
    videos = "".join(f", {camera} has {rate:.6g} frames per second" for camera, rate in video_rates.items())
    return f"fps is {fps:g}, but {said}{videos}"


def _rate_of_rows(numbers: Sequence[RowNumbers], fps: float) -> str:
    steps = []
    for item in numbers:
        if item.time_s is None or item.count < 2 or not np.isfinite(item.time_s).all():
            continue
        parts = [item.time_s]
        if item.episode is not None:
            parts = [item.time_s[item.episode == episode] for episode in np.unique(item.episode)]
        steps += [np.diff(np.sort(part)) for part in parts if len(part) > 1]
    if not steps:
        return ""
    joined = np.concatenate(steps)
    step_s = float(np.median(joined))
    is_regular = float(np.median(np.abs(joined - step_s))) <= TIME_TOLERANCE_S
    # a regular clock shows its rate to better than a thousandth; float32 seconds are good to some microseconds
    if step_s <= 0 or abs(step_s - 1 / fps) <= max((5e-4 if is_regular else 0.05) / fps, 2e-6):
        return ""
    return f"timestamps in the rows step by {step_s:.6f} s ({1 / step_s:.6g} per second)"


def timestamps(times_s: np.ndarray | None, fps: float, subject: str, *, is_exact: bool) -> np.ndarray | None:
    """Return the timestamps that the rows of an episode, in order of frames, should have; None: those they have.

    Args:
        times_s: `(N,)` as stored; None: there are none.
        fps: rate of the dataset, which `rate_problem` found to be that of the rows.
        subject: names the episode in errors.
        is_exact: every video has exactly the frames of these rows, so that only 0 can be the start.

    Raises:
        UndecidedError: they do not fit a clock of this rate.
    """
    if times_s is None:
        raise UndecidedError(f"{subject}: no timestamps that can be read, and no rate to set them by")
    grid = np.arange(len(times_s)) / fps
    off = times_s - grid
    if (np.abs(off) <= TIME_TOLERANCE_S).all():
        return None
    start_s = float(np.median(off))
    on_grid = np.abs(off - start_s) <= TIME_TOLERANCE_S
    rises = bool((np.diff(times_s) > 0).all())
    is_near = bool((np.abs(off - start_s) * fps < 0.5).all()) and rises
    if not (2 * on_grid.sum() > len(times_s) or is_near):
        row = int(np.argmax(np.abs(off - start_s)))
        raise UndecidedError(
            f"{subject}: timestamp is {times_s[row]:.6f} s in frame {row}, which is {grid[row]:.6f} s at {fps:g} per "
            "second; most of its timestamps do not follow that rate"
        )
    if abs(start_s) > TIME_TOLERANCE_S and not is_exact:
        raise UndecidedError(
            f"{subject}: timestamps start at {times_s[0]:.6f} s, frame_index at 0, and a video has other frames than "
            "those of these rows"
        )
    return grid


def _column(table: pa.Table, name: str, kinds: str) -> np.ndarray | None:
    if name not in table.column_names:
        return None
    try:
        values = column_rows(table[name])
    except DatasetError:
        return None
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in kinds:
        return None
    return values.astype(np.float64 if "f" in kinds else np.int64)


def _describe_frames(frames: np.ndarray | None, count: int) -> str:
    if frames is None:
        return "frame_index cannot be read as whole numbers"
    values, counts = np.unique(frames, return_counts=True)
    repeated, missing = values[counts > 1], np.setdiff1d(np.arange(count), values)
    parts = [f"frame_index {repeated[0]} is there {counts[counts > 1][0]} times"] if repeated.size else []
    parts += [f"frame_index {missing[0]} is missing"] if missing.size else []
    return f"{' and '.join(parts)} in {count} rows"
