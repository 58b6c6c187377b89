# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Trials of any policy on the Meta-World robot by direct calls, without ROS.

Scenes, instructions, time limit, images and the rows of a chunk that are carried out are those of gr00t_rollout, and so
is the table. Processes share the trials; only the first one writes the table.
"""

from __future__ import annotations

import argparse
import atexit
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import numpy as np
from metaworld_tasks import JOINTS, STEP_HZ, TASKS

from gr00t_bringup.sim.simulation import Simulation
from gr00t_bringup.trials.summary import write_summary
from gr00t_bringup.trials.table import Spec, Trial, TrialTable, plan
from gr00t_training.cli.arguments import positive_int
from gr00t_training.errors import ConfigError

LIMIT_S = 20.0
ROWS = 4  # of each chunk that are carried out: inference_period_s of policy.yaml
STEPS_PER_ROW = STEP_HZ // 5  # embodiment.yaml has 5 rows a second


class DirectPolicy(Protocol):
    """A policy that is asked by direct calls."""

    def reset(self, seed: int) -> None:
        """Start an episode; `seed`: of its noise, where it draws some."""
        ...

    def rows(self, robot: Simulation) -> np.ndarray:
        """Return what is to be commanded in the rows from now on, `(H, 4)` in the order of `JOINTS`; `H` > `ROWS`."""
        ...


Load = Callable[[], DirectPolicy]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `carry_out`."""
    parser.add_argument("checkpoint", type=Path, help="Folder of the policy.")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="Finished trials are not repeated."
    )
    parser.add_argument("--num-trials", type=positive_int, default=10, metavar="N", help="Of each task.")
    parser.add_argument("--seed", type=int, default=1000, metavar="N", help="Of the first scene.")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="Processes that share the trials.")
    parser.add_argument(
        "--compare-with",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="Tables of other checkpoints, as gr00t_rollout and direct.py write them, to compare with on equal scenes.",
    )


def carry_out(load: Load, given: argparse.Namespace) -> None:
    """Carry out the trials that are missing and print the summary.

    Args:
        load: makes the policy; is called in each process, so it must be possible to send it there.
        given: what `add_arguments` reads.

    Raises:
        ConfigError: a table cannot be read or written.
    """
    others = [trial for path in given.compare_with for trial in _trials_of(path)]
    seeds = range(given.seed, given.seed + given.num_trials)
    common = {"clock": "direct", "judge": "sim", "time_limit_s": LIMIT_S}
    specs = plan([str(given.checkpoint.resolve())], [(task, task) for task in TASKS], seeds, **common)
    given.output.mkdir(parents=True, exist_ok=True)
    table = TrialTable(given.output / "trials.csv")
    with _results(load, table.missing(specs), given.jobs) as results:
        for trial in results:
            table.add(trial)
            print(f"seed {trial.spec.seed}: {trial.spec.task}: {trial.outcome} after {trial.time_s:.1f} s", flush=True)
    print(write_summary([*table.of(specs), *others], given.output / "trials.json"))


def attempt(policy: DirectPolicy, robot: Simulation) -> tuple[int, int]:
    """Let the policy act until the task is done at an image, or time is up; return numbers of steps and chunks."""
    rows, chunks = np.empty((0, len(JOINTS))), 0
    for step in range(round(LIMIT_S * STEP_HZ)):
        if step % (ROWS * STEPS_PER_ROW) == 0:
            rows = policy.rows(robot)
            chunks += 1
        at = step % (ROWS * STEPS_PER_ROW) / STEPS_PER_ROW
        target = np.array([np.interp(at, np.arange(len(rows)), column) for column in rows.T])
        target[3] = rows[int(at), 3]  # the gripper does not pass through what lies between
        robot.command(dict(zip(JOINTS, target.tolist(), strict=True)))
        robot.step(1 / STEP_HZ)
        if (step + 1) % STEPS_PER_ROW == 0 and robot.success():
            return step + 1, chunks
    return round(LIMIT_S * STEP_HZ), chunks


def _trials_of(path: Path) -> Sequence[Trial]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such table of trials; give the trials.csv of an --output")
    return TrialTable(path).trials


@contextmanager
def _results(load: Load, specs: Sequence[Spec], jobs: int) -> Iterator[Iterable[Trial]]:
    if jobs == 1:
        rig = _Rig(load)
        yield map(rig.trial, specs)
        rig.close()
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: more threads only wait for each other
    # spawned: a forked process cannot use the threads and the graphics of this one
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(load,)) as pool:
        yield pool.map(_trial, specs)


@dataclass
class _Rig:
    """Policy and robot of a process, made at its first trial: an error then arrives as that of the trial."""

    load: Load
    policy: DirectPolicy | None = None
    robot: Simulation | None = None

    def trial(self, spec: Spec) -> Trial:
        if self.policy is None or self.robot is None:
            from metaworld_robot import MetaworldRobot  # starts MuJoCo

            self.policy, self.robot = self.load(), MetaworldRobot()
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.policy.reset(spec.seed)
        self.robot.reset(spec.seed, spec.task)
        steps, chunks = attempt(self.policy, self.robot)
        is_done = self.robot.success()
        outcome = "done" if is_done else "time limit reached"
        return Trial(spec, begun, is_done, steps / STEP_HZ, outcome, chunks=chunks)

    def close(self) -> None:
        if self.robot is not None:
            self.robot.close()


def _begin(load: Load) -> None:
    global _rig
    _rig = _Rig(load)
    atexit.register(_rig.close)


def _trial(spec: Spec) -> Trial:
    return _rig.trial(spec)


_rig: _Rig
