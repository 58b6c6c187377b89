# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t_rollout`: try a policy many times through ROS 2 topics, and count its successes."""

from __future__ import annotations

import argparse
import hashlib
import os
from itertools import groupby
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from gr00t_bringup.rollout import Rollout, checked, make_parser, start_processes
from gr00t_bringup.ros.person_trials import PersonTrials, QuitError
from gr00t_bringup.ros.trial_driver import SimTrials
from gr00t_bringup.runner import Runner, ros_environment
from gr00t_bringup.trials.grid import write_grid, write_video
from gr00t_bringup.trials.summary import write_summary
from gr00t_bringup.trials.table import Spec, Trial, TrialTable
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_training.cli.command import run_command
from gr00t_training.io.text import printable

START_TIMEOUT_S = 300.0
CONTINUES = "interrupted; the same command continues where it ended"


def main(args: list[str] | None = None) -> int:
    """Carry out the trials that are missing, and print what all of them say."""
    parser = make_parser()
    return run_command("gr00t_rollout", lambda: _rollout(*parse_with_ros_args(parser, args)), interrupted=CONTINUES)


def _rollout(given: argparse.Namespace, ros: list[str]) -> None:
    asked = checked(given)
    asked.folder.mkdir(parents=True, exist_ok=True)
    table = TrialTable(asked.folder / "trials.csv")
    missing = table.missing(asked.specs)
    done = len(asked.specs) - len(missing)
    print(f"== {len(asked.specs)} trials, {done} of them done before; table in {table.path}", flush=True)
    try:
        for _, specs in groupby(missing, key=lambda spec: spec.checkpoint):
            _try(asked, list(specs), table, ros)
    except QuitError:
        print("ended; the same command continues", flush=True)
    finally:
        trials = table.of(asked.specs)
        if trials:
            print(f"\n{write_summary(trials, asked.folder / 'trials.json')}", flush=True)
    if asked.has_video:
        shown = write_grid(asked.folder / "trials.mp4", [(trial, _video(asked, trial.spec)) for trial in trials])
        if shown:
            print(f"\nvideo of {shown} trials: {asked.folder / 'trials.mp4'}")


def _try(asked: Rollout, specs: list[Spec], table: TrialTable, ros: list[str]) -> None:
    """Carry out trials of one checkpoint."""
    if asked.robot is None:
        _drive(asked, specs, table, ros, None)
        return
    with Runner(asked.folder / "logs") as runner:
        start_processes(runner, asked.robot, specs[0], asked.dataset, asked.folder)
        os.environ.update(ros_environment())  # this process is a node as well
        _drive(asked, specs, table, ros, runner)


def _drive(asked: Rollout, specs: list[Spec], table: TrialTable, ros: list[str], runner: Runner | None) -> None:
    # keep the signal handlers of the command: they end it with its processes
    rclpy.init(args=ros, signal_handler_options=SignalHandlerOptions.NO)
    if asked.robot is None:
        driver: PersonTrials | SimTrials = PersonTrials(asked.dataset, asked.joystick)
    else:
        driver = SimTrials(asked.robot, asked.dataset, keeps_images=asked.has_video)
    recorder = "" if asked.dataset is None else ", idle recorder"
    try:

        def is_ready() -> bool:
            if runner is not None:
                runner.check()
            return driver.is_ready()

        driver.wait_for(f"robot, active policy node{recorder}", is_ready, START_TIMEOUT_S)
        for number, spec in enumerate(specs, start=1):
            if runner is not None:
                runner.check()
            trial = driver.run(spec)
            if driver.watched.images:
                write_video(_video(asked, spec), driver.watched.images)
            table.add(trial)
            print(f"{number} of {len(specs)}: {_described(trial)}", flush=True)
    finally:
        driver.close()
        driver.destroy_node()
        try_shutdown()


def _described(trial: Trial) -> str:
    told = "" if trial.spec.instruction == trial.spec.task else f", told to {printable(trial.spec.instruction)}"
    ending = f"done in {trial.time_s:.1f} s" if trial.success else f"not done ({printable(trial.outcome)})"
    note = f"; {printable(trial.note)}" if trial.note else ""
    return f"seed {trial.spec.seed}: {printable(trial.spec.task)}{told}: {ending}{note}"


def _video(asked: Rollout, spec: Spec) -> Path:
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()
    return asked.folder / "videos" / f"seed_{spec.seed}_{digest[:12]}.mp4"
