# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of trials: one row each, written when the trial is over, so that it also says what is left to do."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gr00t_bringup.trials.boundaries import Steps
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text

TABLE_LIMIT = 64 * 2**20  # [bytes]


@dataclass(frozen=True)
class Spec:
    """What is tried. A table has at most one trial of each."""

    checkpoint: str
    task: str  # what counts as success
    instruction: str  # that the policy gets
    seed: int  # of the scene; of a person's trials their number
    clock: str  # "lock-step" or "real"
    judge: str  # "sim" or "person"
    time_limit_s: float
    parameters: str = ""  # of the policy node, "NAME:=VALUE ..." as given; empty: the robot's


@dataclass(frozen=True)
class Trial:
    """A trial that is over."""

    spec: Spec
    begun: str  # date and time, ISO 8601
    success: bool
    time_s: float  # from the first observation that was answered to success, or to the end
    outcome: str
    chunks: int = 0
    holds: int = 0  # after the first chunk
    clamps: int = 0
    stops: int = 0
    takeovers: int = 0
    latency_p50_s: float | None = None  # from an observation to its chunk; None: not measured, or no chunk
    latency_p95_s: float | None = None
    asked: Steps = field(default_factory=Steps)
    sent: Steps = field(default_factory=Steps)
    note: str = ""

    def row(self) -> dict[str, Any]:
        """Return the cells by column."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        spec, asked, sent = own.pop("spec"), own.pop("asked"), own.pop("sent")
        for name, steps in (("asked", asked), ("sent", sent)):
            own |= {f"{name}_boundary": round(steps.boundary, 6), f"{name}_beside": round(steps.beside, 6)}
            own |= {f"{name}_boundaries": steps.count, f"{name}_reversals": steps.reversals}
        own["time_s"], own["success"] = round(self.time_s, 3), int(self.success)
        own |= {name: "" if own[name] is None else round(own[name], 4) for name in LATENCIES}
        return {**asdict(spec), **own}

    @classmethod
    def of_row(cls, cells: dict[str, str]) -> Trial:
        """Read cells that `row` gave.

        Raises:
            ValueError, KeyError: one is missing or no number.
        """
        given: dict[str, Any] = {each.name: cells[each.name] for each in fields(Spec)}
        spec = Spec(**{**given, "seed": int(cells["seed"]), "time_limit_s": float(cells["time_limit_s"])})
        read: dict[str, Any] = {name: int(cells[name]) for name in COUNTS}
        read |= {name: _steps(cells, name) for name in STEPS}
        read |= {name: float(cells[name]) if cells[name] else None for name in LATENCIES}
        read |= {name: cells[name] for name in ("begun", "outcome", "note")}
        return cls(spec=spec, success={"0": False, "1": True}[cells["success"]], time_s=float(cells["time_s"]), **read)


COUNTS = ("chunks", "holds", "clamps", "stops", "takeovers")
LATENCIES = ("latency_p50_s", "latency_p95_s")
STEPS = ("asked", "sent")
COLUMNS = tuple(Trial(Spec("", "", "", 0, "", "", 0.0), "", False, 0.0, "").row())


class TrialTable:
    """A CSV file that grows by one row a trial; a row is on the disk before the next trial begins."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last row that was cut off by a crash is dropped.

        Raises:
            ConfigError: it is another file, or cannot be read; names the line.
        """
        self.path = path
        self.trials: list[Trial] = []
        if path.exists():
            self._read()

    def missing(self, specs: Iterable[Spec]) -> list[Spec]:
        """Return those that have no trial yet."""
        done = {trial.spec for trial in self.trials}
        return [spec for spec in specs if spec not in done]

    def of(self, specs: Iterable[Spec]) -> list[Trial]:
        """Return the trials of these, in the order of the table."""
        wanted = set(specs)
        return [trial for trial in self.trials if trial.spec in wanted]

    def add(self, trial: Trial) -> None:
        """Append a trial.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                text = _line(trial.row().values())
                file.write(text if file.tell() else _line(COLUMNS) + text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror}); check path and rights") from error
        self.trials.append(trial)

    def _read(self) -> None:
        text = read_text(self.path, ConfigError, TABLE_LIMIT)
        if text and not text.endswith("\n"):  # a row that was being written
            text = text[: text.rfind("\n") + 1]
            with self.path.open("r+", encoding="utf-8") as file:
                file.truncate(len(text.encode()))
        rows = list(csv.reader(io.StringIO(text)))
        if rows and tuple(rows[0]) != COLUMNS:
            raise ConfigError(f"{self.path}: is no table of trials of this version; use another --output")
        for number, cells in enumerate(rows[1:], start=2):
            try:
                self.trials.append(Trial.of_row(dict(zip(COLUMNS, cells, strict=True))))
            except (ValueError, KeyError) as error:
                raise ConfigError(f"{self.path}: row {number} is damaged ({error}); correct or delete it") from error


def _steps(cells: dict[str, str], name: str) -> Steps:
    return Steps(
        float(cells[f"{name}_boundary"]),
        float(cells[f"{name}_beside"]),
        int(cells[f"{name}_boundaries"]),
        int(cells[f"{name}_reversals"]),
    )


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_plain(cell) for cell in cells])
    return text.getvalue()


def _plain(cell: Any) -> Any:
    return " ".join(cell.split()) if isinstance(cell, str) else cell


def plan(
    checkpoints: Sequence[str], tasks: Sequence[tuple[str, str]], seeds: Sequence[int], **common: Any
) -> list[Spec]:
    """Return every seed of every task with every checkpoint; tasks alternate.

    Args:
        checkpoints: one after another.
        tasks: what counts, and what the policy gets.
        seeds: the same for all.
        common: further fields of `Spec`.
    """
    return [
        Spec(checkpoint=checkpoint, task=task, instruction=instruction, seed=seed, **common)
        for checkpoint in checkpoints
        for seed in seeds
        for task, instruction in tasks
    ]
