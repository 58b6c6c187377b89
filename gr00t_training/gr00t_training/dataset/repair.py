# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Making a damaged dataset whole again, as far as what is on disk allows, without losing anything.

Finished episodes are listed again, numbered, timed and described as their files say; what a killed recorder left
unfinished becomes episodes at the end. Originals of changed files are kept (`repairing.changes`). What cannot be
repaired - rows or pictures that are gone or were never right - is named, with the remedy.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.repairing.changes import Changes
from gr00t_training.dataset.repairing.separate import SeparateFiles
from gr00t_training.dataset.repairing.shared import SharedFiles
from gr00t_training.dataset.repairing.tables import read_object, whole_lines
from gr00t_training.dataset.repairing.unfinished import Unfinished, find_unfinished, recover
from gr00t_training.dataset.validate import Finding, validate_scanned, workers
from gr00t_training.dataset.validation.videos import VideoFacts, scan_video
from gr00t_training.dataset.video import VideoCodec, VideoSettings
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import ConfigError, DatasetError


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
    relisted: list[int] = field(default_factory=list)  # episodes whose files were whole, but that were not listed
    recovered: list[Recovered] = field(default_factory=list)
    remaining: list[Finding] = field(default_factory=list)  # faults that cannot be repaired; not told by a dry run
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
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(f"{root}: is no folder; give the folder of a dataset")
    changes = Changes(root, dry_run)
    report = RepairReport(root, dry_run)
    try:
        with _locked(root):
            embodiment = _read_embodiment(root)
            info = _read_info(root, embodiment)
            scanned = {} if info is None else _repair_finished(changes, report, info, embodiment, jobs)
        report.changes, report.backup = changes.done, changes.backup
        _recover_unfinished(report, embodiment, info)
    except OSError as error:
        raise DatasetError(f"{root}: cannot be repaired ({error}); check the disk, then repair it again") from error
    if not dry_run and (root / schema.INFO_FILE).exists():
        report.remaining += [finding for finding in validate_scanned(root, scanned, jobs=jobs) if finding.is_fault]
    return report


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep writers out; a dataset that has never been written by this suite has no lock, and nobody who asks."""
    path = root / schema.STAGING / "lock"
    if not path.exists():
        yield
        return
    with open(path, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"{root}: a writer has it open; stop the recorder first") from error
        yield


def _read_embodiment(root: Path) -> Embodiment | None:
    try:
        return load_embodiment(root / schema.EMBODIMENT_FILE)
    except ConfigError:
        return None


def _read_info(root: Path, embodiment: Embodiment | None) -> dict[str, Any] | None:
    """Return `info.json`, or what it has to be; None for a dataset without a finished episode.

    Raises:
        DatasetError: it is damaged, and nothing says what it was.
    """
    info = read_object(root / schema.INFO_FILE)
    wanted = ("codebase_version", "features", "fps", "chunks_size", "data_path")
    if info is not None and all(name in info for name in wanted):
        complete = all("dtype" in feature and "shape" in feature for feature in info["features"].values())
        if complete and info["codebase_version"] in schema.READ_VERSIONS:
            return info
    is_v3 = any(root.glob(schema.EPISODES_TABLE_PATTERN))
    has_list = is_v3 or any((root / name).exists() for name in (schema.INFO_FILE, schema.EPISODES_FILE))
    if embodiment is not None and (has_list or any(root.glob("data/*/episode_*.parquet"))):
        has_stats = (root / schema.EPISODES_STATS_FILE).exists() or not (root / schema.INFO_FILE).exists()
        version = schema.Version.V30 if is_v3 else (schema.Version.V21 if has_stats else schema.Version.V20)
        codecs = [scan_video(path, decode=False).codec for path in sorted(root.glob("videos/*/*/*.mp4"))[:1]]
        return schema.make_info(embodiment, codecs[0] if codecs else VideoCodec.H264.value, 0, 0, 0, version)
    if not has_list:
        return None
    raise DatasetError(
        f"{root / schema.INFO_FILE}: missing or damaged, and there is no {schema.EMBODIMENT_FILE} to make it of; "
        "restore it from a copy"
    )


def _repair_finished(
    changes: Changes, report: RepairReport, info: dict[str, Any], embodiment: Embodiment | None, jobs: int
) -> Mapping[Path, VideoFacts]:
    """Repair the finished episodes; return what was found out about videos."""
    if info["codebase_version"] == schema.Version.V30.value:
        if any(changes.root.glob(schema.EPISODES_TABLE_PATTERN)):
            SharedFiles(changes, info).repair()
    elif any(changes.root.glob("data/*/*.parquet")) or whole_lines(changes.root / schema.EPISODES_FILE):
        with workers(jobs) as run:
            files = SeparateFiles(changes, info, embodiment, run)
            files.repair()
        report.relisted = files.relisted
        return files.scanned
    return {}


def _recover_unfinished(report: RepairReport, embodiment: Embodiment | None, info: Mapping[str, Any] | None) -> None:
    found, problems = find_unfinished(report.path)
    if found and not report.is_dry_run:
        with _open_writer(report.path, embodiment or found[0].journal.embodiment, found[0], info) as writer:
            # opening has moved the folders, and files that were on their way
            found, problems = find_unfinished(report.path)
            for item in found:
                _recover_one(report, writer, item)
    for item in found:
        if not item.num_frames:
            problems.append(f"{item.folder}: {item.num_rows} rows without images of every camera: nothing to recover")
        elif report.is_dry_run:
            report.recovered.append(Recovered(item.folder, None, item.num_frames, item.num_rows))
    report.remaining += [Finding(False, schema.STAGING, problem) for problem in problems]


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
    return DatasetWriter(root, embodiment, video=video, version=schema.Version(version))
