# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Plan courses: check what is asked for, and make the rows from the pose where the robot is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gr00t_policy_node.chunking.player import ChunkError
from gr00t_policy_node.control.course import Course, CourseCause, CourseError
from gr00t_policy_node.control.setup import ControlSetup
from gr00t_training.types import ActionChunk

# Peak speed and acceleration of a minimum-jerk motion over a distance of 1 in a time of 1 (Flash and Hogan 1985).
_PEAK_SPEED, _PEAK_ACCELERATION = 1.875, 5.7735
_MOVE_ROWS = 500  # of a move: between them the motion is straight
LONGEST_S = 3600.0
MOST_ROWS = 200_000


def move(setup: ControlSetup, number: int, pose: Mapping[str, float], speed: float) -> Course:
    """Return the course to a pose: channel -> position.

    Raises:
        CourseError: a channel or position cannot be used.
    """
    if not 0.0 < speed <= 1.0:
        raise CourseError(CourseCause.INVALID, f"speed is {speed:g}, expected more than 0 and at most 1")
    if not pose:
        raise CourseError(CourseCause.INVALID, "the pose names no channel; expected at least one")
    goal = np.full(len(setup.guard.names), np.nan)
    for name, position in pose.items():
        if name not in setup.measured_names:
            known = ", ".join(setup.measured_names)
            raise CourseError(CourseCause.INVALID, f"'{name}' is no channel that has a position; expected {known}")
        place = setup.guard.names.index(name)
        if not setup.low[place] <= position <= setup.high[place]:
            limits = f"limits {setup.low[place]:g} to {setup.high[place]:g}"
            raise CourseError(CourseCause.INVALID, f"'{name}': position {position:g} is not allowed ({limits})")
        goal[place] = position
    _check_rotations(setup, pose)
    return Course(number, speed, goal=goal)


def replay(
    setup: ControlSetup, number: int, names: Sequence[str], rows: np.ndarray, step_ns: int, speed: float
) -> Course:
    """Return the course along rows (T, len(names)).

    Raises:
        CourseError: channels, rows, step or speed cannot be used.
    """
    if not 0.0 < speed <= 1.0:
        raise CourseError(CourseCause.INVALID, f"speed is {speed:g}, expected more than 0 and at most 1")
    unknown = [name for name in names if name not in setup.guard.names]
    if unknown or not names or len(set(names)) != len(names):
        found = f"channel '{unknown[0]}'" if unknown else f"channels [{', '.join(names)}]"
        expected = ", ".join(setup.guard.names)
        raise CourseError(CourseCause.INVALID, f"{found} cannot be replayed; expected some of {expected}, each once")
    if not 1 <= len(rows) <= MOST_ROWS or step_ns <= 0 or len(rows) * step_ns / speed > LONGEST_S * 1e9:
        found = f"{len(rows)} rows with a step of {step_ns / 1e9:g} s"
        raise CourseError(
            CourseCause.INVALID, f"{found}: expected 1 to {MOST_ROWS} rows within {LONGEST_S:g} s; replay a part"
        )
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
        raise CourseError(CourseCause.INVALID, f"row {row}: '{names[column]}' is not finite, expected numbers")
    _check_rotations(setup, names)
    every = np.full((len(rows), len(setup.guard.names)), np.nan)
    every[:, [setup.guard.names.index(name) for name in names]] = rows
    every[:, ~setup.is_measured] *= speed  # a slow replay leads a base as far
    return Course(number, speed, rows=every, step_ns=step_ns)


def planned(setup: ControlSetup, course: Course, start: np.ndarray) -> Course:
    """Return the course with its plan from the command `start` (N,).

    Raises:
        CourseError: the robot is not near the first row, or a row cannot be executed.
    """
    rest = np.where(setup.is_measured, start, 0.0)  # a rate is zero where nothing is asked of it
    if course.rows is not None:
        rows, step_ns = np.where(np.isnan(course.rows), rest, course.rows), course.step_ns
        check_near(setup, rows[0], start, "the first row")
    else:
        assert course.goal is not None
        rows, step_ns = _move_rows(setup, rest, np.where(np.isnan(course.goal), rest, course.goal), course.speed)
    actions = dict(zip(setup.keys, np.split(rows, setup.ends[:-1], axis=1), strict=True))
    try:
        plan = setup.player.accept((), ActionChunk(actions, 0, step_ns))
    except ChunkError as error:
        raise CourseError(CourseCause.INVALID, str(error)) from error
    assert plan is not None
    return replace(course, plan=plan, passed_ns=0)


def check_near(setup: ControlSetup, row: np.ndarray, last: np.ndarray, what: str) -> None:
    """Refuse a row (N,) of a replay that the robot, which is at `last` (N,), is not near.

    Raises:
        CourseError: it is not.
    """
    row = setup.nearest(row, last)
    far = setup.far(row, last)
    if far:
        name = setup.guard.names[far[0]]
        found = f"'{name}' is at {last[far[0]]:.4g}, {what} is {row[far[0]]:.4g}"
        raise CourseError(CourseCause.NOT_ALIGNED, f"{found}; move to the first row first")


def _check_rotations(setup: ControlSetup, names: Collection[str]) -> None:
    part = setup.part_of_rotation(names)
    if part:
        found = f"{', '.join(part)} are one rotation"
        raise CourseError(CourseCause.INVALID, f"{found}; expected all of them or none")


def _move_rows(setup: ControlSetup, start: np.ndarray, goal: np.ndarray, speed: float) -> tuple[np.ndarray, int]:
    """Return rows (T, N) from rest to rest with minimum jerk, and their step [ns]; all channels arrive together."""
    way = np.where(setup.is_measured, setup.nearest(goal, start) - start, 0.0)
    at_speed = _PEAK_SPEED * np.abs(way) / (speed * setup.speed)
    at_acceleration = np.sqrt(_PEAK_ACCELERATION * np.abs(way) / (speed * setup.acceleration))
    duration_s = max(float(at_speed.max()), float(at_acceleration.max()), 2 * setup.period_s)
    share = np.linspace(0.0, 1.0, _MOVE_ROWS)[:, None]
    rows = start + way * (10 * share**3 - 15 * share**4 + 6 * share**5)
    return rows, max(round(duration_s * 1e9 / (_MOVE_ROWS - 1)), 1)
