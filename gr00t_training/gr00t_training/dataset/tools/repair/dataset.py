# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Repair a damaged dataset as far as its files allow, without losing data.

Rows with complete numbers are the truth; lists, places, file names and statistics are corrected from them. Rows, lists
and videos that contradict each other are refused, with both sides. A repair is planned (`planner`), proved on a copy
(`proof`) and then carried out at once (`commit`); originals of changed files are kept. What a
killed recorder left unfinished becomes episodes at the end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCodec, VideoSettings
from gr00t_training.dataset.tools.repair.commit import apply_plan, finish_commit, is_interrupted
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.repair.planner import plan_repair
from gr00t_training.dataset.tools.repair.unfinished import Unfinished, find_unfinished, recover
from gr00t_training.dataset.tools.validate.dataset import Finding, validate_scanned, workers
from gr00t_training.dataset.tools.validate.videos import VideoFacts
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing.files import staging_folder
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.object_storage import refuse_remote


@dataclass(frozen=True)
class Recovered:
    """An unfinished episode that was made part of the dataset, or would be."""

    source: Path  # folder it was found in
    index: int | None  # of the episode; None in a dry run
    num_frames: int
    num_rows: int  # that were recorded; those without an image of every camera are left out


@dataclass
class RepairReport:
    """What was done, or would be."""

    path: Path
    is_dry_run: bool
    changes: list[str] = field(default_factory=list)  # one line each
    relisted: list[int] = field(default_factory=list)  # episodes with complete files that were not listed
    recovered: list[Recovered] = field(default_factory=list)
    remaining: list[Finding] = field(default_factory=list)  # faults that stay; a dry run knows only what is refused
    backup: Path | None = None  # where the originals of changed files are

    def __str__(self) -> str:
        verb = "would be recovered" if self.is_dry_run else "recovered"
        lines = [f"{'would change' if self.is_dry_run else 'changed'}: {line}" for line in self.changes]
        for item in self.recovered:
            place = "" if item.index is None else f" as episode {item.index}"
            lines.append(f"{verb}{place}: {item.num_frames} of {item.num_rows} rows of {item.source.name}")
        lines += [f"not repaired: {finding}" for finding in self.remaining]
        if self.backup is not None:
            lines.append(f"originals of changed files: {self.backup}")
        return "\n".join(lines or ["nothing to repair"])


def repair_dataset(path: str | Path, *, dry_run: bool = False, jobs: int = 1) -> RepairReport:
    """Repair the dataset in the folder `path`.

    Args:
        path: folder of the dataset.
        dry_run: change nothing, only report.
        jobs: processes that read videos.

    Raises:
        DatasetError: not a dataset, being written, or something cannot be written.
    """
    refuse_remote(path)
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(f"{root}: is not a folder; give the folder of a dataset")
    report = RepairReport(root, dry_run)
    try:
        with _locked(root):
            plan = _repair_finished(report, jobs)
        report.remaining += [*plan.hazards, *plan.refusals]
        if not plan.hazards:
            _add_faults(report, plan.scanned, jobs)
            _recover_unfinished(report, plan.embodiment, plan.info)
        if report.recovered:
            _add_faults(report, {}, jobs)  # recovering an episode joins files
    except OSError as error:
        raise DatasetError(f"{root}: cannot be repaired ({error}); check the disk, then repair it again") from error
    return report


def _add_faults(report: RepairReport, scanned: Mapping[Path, VideoFacts], jobs: int) -> None:
    """Add what `validate` still finds."""
    if report.is_dry_run or not (report.path / schema.INFO_FILE).exists():
        return
    known = {(finding.subject, finding.text) for finding in report.remaining}
    for finding in validate_scanned(report.path, scanned, jobs=jobs):
        if finding.is_fault and (finding.subject, finding.text) not in known:
            report.remaining.append(finding)


def _repair_finished(report: RepairReport, jobs: int) -> Plan:
    """Finish a repair that was interrupted, then plan and carry out what is left to do."""
    root = report.path
    if is_interrupted(root):
        report.changes.append(f"{schema.REPAIR_STEPS}: finished the repair that was interrupted")
        if report.is_dry_run:
            return Plan(root)
        finish_commit(root)
    with workers(jobs) as run:
        plan = plan_repair(root, {}, run)
    report.changes += plan.notes
    report.relisted = plan.relisted
    if not plan.is_empty and not report.is_dry_run:
        with _locked(root, make=True):
            report.backup = apply_plan(plan, float((plan.info or {})["fps"]))
        changed = {*plan.retimed, *plan.moves, *plan.moves.values(), *plan.aside}
        plan.scanned = {file: facts for file, facts in plan.scanned.items() if _name(root, file) not in changed}
    return plan


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


@contextmanager
def _locked(root: Path, *, make: bool = False) -> Iterator[None]:
    """Keep writers out.

    Args:
        root: folder of the dataset.
        make: create a missing lock file, if the dataset was never written by this suite; False: no lock then.

    Raises:
        DatasetError: a writer has it open.
    """
    path = root / schema.STAGING / "lock"
    if path.exists() == make:  # nothing to lock, or locked by the caller already
        yield
        return
    if make:
        staging_folder(root)
    # a link or a pipe of that name is not followed and not waited for
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"{root}: a writer has it open; stop the recorder first") from error
        yield


def _recover_unfinished(report: RepairReport, embodiment: Embodiment | None, info: Mapping[str, Any] | None) -> None:
    """Make episodes of what killed recorders left, unless there are faults, which writing would build on."""
    found, problems = find_unfinished(report.path)
    recoverable = [item for item in found if item.num_frames]
    if report.remaining:
        problems += [f"{item.folder}: not recovered while there are faults; fix them first" for item in recoverable]
    elif report.is_dry_run:
        report.recovered += [Recovered(item.folder, None, item.num_frames, item.num_rows) for item in recoverable]
    elif found:
        try:
            # opening the dataset finds files that were on their way
            _recover_all(report, embodiment or found[0].journal.embodiment, found[0], info)
        except DatasetError as error:
            problems.append(f"unfinished episodes cannot be recovered: {error}")
        found = find_unfinished(report.path)[0]
    problems += [
        f"{item.folder}: {item.num_rows} rows without images of every camera: nothing to recover"
        for item in found
        if not item.num_frames
    ]
    report.remaining += [Finding(False, schema.STAGING, problem) for problem in problems]


def _recover_all(
    report: RepairReport, embodiment: Embodiment, first: Unfinished, info: Mapping[str, Any] | None
) -> None:
    with _open_writer(report.path, embodiment, first, info) as writer:
        for item in find_unfinished(report.path)[0]:
            _recover_one(report, writer, item)


def _recover_one(report: RepairReport, writer: DatasetWriter, item: Unfinished) -> None:
    if not item.num_frames:
        return
    try:
        index = recover(writer, item)
    except DatasetError as error:
        text = f"cannot be recovered: {error}"
        report.remaining.append(Finding(True, item.folder.name, text, remedy="it stays in .staging/ignored"))
    else:
        report.recovered.append(Recovered(item.folder, index, item.num_frames, item.num_rows))


def _open_writer(root: Path, embodiment: Embodiment, item: Unfinished, info: Mapping[str, Any] | None) -> DatasetWriter:
    info = info or {}
    version = info.get("codebase_version", item.journal.version)
    codecs = [feature["info"]["video.codec"] for feature in info.get("features", {}).values() if "info" in feature]
    # of a dataset without a finished episode nothing is known but what the journal says
    is_new = not info.get("total_episodes")
    video = VideoSettings(codec=VideoCodec(item.journal.codec if is_new or not codecs else codecs[0]))
    has_source = item.journal.has_source if is_new else schema.SOURCE_COLUMN in info.get("features", {})
    return DatasetWriter(root, embodiment, video=video, version=schema.Version(version), has_source=has_source)
