# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Trials judged by a person at the page, in the table of `gr00t rollout --judge person`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gr00t_bringup.trials.summary import summarize
from gr00t_bringup.trials.table import Spec, Trial, TrialTable
from gr00t_console.robot import PolicyView
from gr00t_training.errors import ConfigError

MAX_SHOWN = 200  # newest trials on the page


@dataclass(frozen=True)
class Running:
    """A trial that is not over."""

    spec: Spec
    begun: str
    start_s: float  # steady clock
    before: PolicyView
    answered: PolicyView | None = None  # at the first chunk
    answered_s: float = 0.0


class TrialDesk:
    """The table and the trial that runs; any thread."""

    def __init__(self, path: Path) -> None:
        """Read the table if it is there; ConfigError if it is no table."""
        self._table = TrialTable(path)
        self._running: Running | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """File of the table."""
        return self._table.path

    @property
    def is_running(self) -> bool:
        """Whether a trial has begun."""
        return self._running is not None

    def begin(self, instruction: str, checkpoint: str, time_limit_s: float, view: PolicyView, now_s: float) -> None:
        """Begin a trial of a task that has been started."""
        with self._lock:
            numbers = [
                trial.spec.seed
                for trial in self._table.trials
                if (trial.spec.checkpoint, trial.spec.task, trial.spec.judge) == (checkpoint, instruction, "person")
            ]
            spec = Spec(
                checkpoint=checkpoint,
                task=instruction,
                instruction=instruction,
                seed=max(numbers, default=-1) + 1,
                clock="real",
                judge="person",
                time_limit_s=time_limit_s,
            )
            begun = datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
            self._running = Running(spec, begun, now_s, view)

    def observe(self, view: PolicyView, now_s: float) -> None:
        """Note the newest status: time counts from the first observation that was answered."""
        with self._lock:
            running = self._running
            if running is not None and running.answered is None and view.chunks > running.before.chunks:
                self._running = replace(running, answered=view, answered_s=now_s)

    def end(self, success: bool, note: str, view: PolicyView, now_s: float) -> Trial:
        """Judge the running trial and write its row.

        Raises:
            ConfigError: none runs, or the table cannot be written.
        """
        with self._lock:
            running = self._running
            if running is None:
                raise ConfigError("no trial is running; start one")
            since = running.answered or view
            trial = Trial(
                spec=running.spec,
                begun=running.begun,
                success=success,
                time_s=now_s - (running.answered_s if running.answered else running.start_s),
                outcome="judged",
                chunks=max(view.chunks - running.before.chunks, 0),
                holds=max(view.holds - since.holds, 0),
                clamps=max(view.clamps - running.before.clamps, 0),
                stops=max(view.stops - running.before.stops, 0),
                takeovers=max(view.takeovers - running.before.takeovers, 0),
                note=note,
            )
            self._table.add(trial)
            self._running = None
            return trial

    def cancel(self) -> None:
        """Forget the running trial."""
        with self._lock:
            self._running = None

    def section(self) -> dict[str, Any]:
        """Return what the page shows."""
        with self._lock:
            running, trials = self._running, list(self._table.trials)
        found = summarize(trials)
        return {
            "running": {"task": running.spec.task, "number": running.spec.seed} if running else None,
            "table": str(self._table.path),
            "groups": found["groups"],
            "pairs": found["pairs"],
            "trials": found["trials"][-MAX_SHOWN:],
        }

    def export(self) -> dict[str, Any]:
        """Return the summary with every trial, as `trials.json` of `gr00t rollout`."""
        with self._lock:
            return summarize(list(self._table.trials))
