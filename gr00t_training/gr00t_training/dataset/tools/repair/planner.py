# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Plan the repair of a dataset of any version; the one source for what repair can fix, for `repair` and `validate`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCodec
from gr00t_training.dataset.metadata.info import make_recorded_info, normalised_info
from gr00t_training.dataset.metadata.model import inspect_metadata
from gr00t_training.dataset.tools.repair.plan import Map, Plan
from gr00t_training.dataset.tools.repair.separate import SeparateFiles
from gr00t_training.dataset.tools.repair.shared import SharedFiles
from gr00t_training.dataset.tools.repair.tables import read_object, whole_lines
from gr00t_training.dataset.tools.repair.unfinished import find_unfinished
from gr00t_training.dataset.tools.validate.findings import ALL_ROWS, UNFINISHED, Finding, fault
from gr00t_training.dataset.tools.validate.videos import VideoFacts, scan_video
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.files import file_kind, is_lfs_pointer
from gr00t_training.io.text import printable

_FOLDERS = (schema.META, "data", "videos", "depth")
_SHOWN_HAZARDS = 20  # a clone without Git LFS, or a cache, has only such files
_WANTED = ("codebase_version", "features", "fps", "chunks_size", "data_path")


def plan_repair(root: Path, scanned: Mapping[Path, VideoFacts], run: Map = map) -> Plan:
    """Return what a repair of the dataset in the folder `root` would change; changes nothing.

    Args:
        root: folder of the dataset.
        scanned: known facts of videos, which are not read again.
        run: a `map` that may use several processes.

    Raises:
        DatasetError: its metadata is damaged, and nothing says what it was.
    """
    plan = Plan(root, scanned=dict(scanned))
    plan.hazards = _find_hazards(root)
    if plan.hazards:
        return plan
    try:
        plan.embodiment = _read_embodiment(root)
        plan.info = _read_info(root, plan.embodiment)
        if plan.info is not None:
            _plan_finished(plan, plan.info, run)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, pa.ArrowException) as error:
        raise DatasetError(
            f"{root}: its metadata is not of the expected form ({error!r}); restore it from a copy"
        ) from error
    if plan.refusals:  # something that follows from all rows may still be wrong
        plan.fixed.discard(ALL_ROWS)
    if any(item.num_frames for item in find_unfinished(root)[0]):
        plan.fixed.add(UNFINISHED)
    return plan


def _plan_finished(plan: Plan, info: dict[str, Any], run: Map) -> None:
    root = plan.root
    if info["codebase_version"] == schema.Version.V30.value:
        if not any(root.glob(schema.EPISODES_TABLE_PATTERN)):
            return
        metadata, problems = inspect_metadata(root, info)
        if metadata is None:
            raise DatasetError("; ".join(f"{root}: {problem.place}: {problem.error}" for problem in problems))
        SharedFiles(plan, info, metadata, run).make_plan()
    elif any(root.glob("data/**/*.parquet")) or whole_lines(root / schema.EPISODES_FILE):
        SeparateFiles(plan, info, run).make_plan()


def _find_hazards(root: Path) -> list[Finding]:
    """List everything without its own content: links, pipes, devices, Git LFS pointers."""
    found = []
    for folder in (*_FOLDERS, schema.STAGING):
        if (root / folder).is_symlink():
            found.append(_hazard(folder, f"is a symbolic link to {printable(os.readlink(root / folder))}"))
    for path in (path for folder in _FOLDERS for path in _walk(root / folder)):
        name = printable(path.relative_to(root).as_posix())
        if path.is_symlink():
            found.append(_hazard(name, f"is a symbolic link to {printable(os.readlink(path))}"))
        elif not path.is_file():
            found.append(_hazard(name, f"is a {file_kind(path.lstat().st_mode)}"))
        elif is_lfs_pointer(path):
            remedy = "run 'git lfs pull' in the clone; nothing was changed"
            found.append(fault(name, "is a Git LFS pointer, not the file", remedy=remedy))
    if len(found) > _SHOWN_HAZARDS:
        rest = _hazard(str(root), f"has {len(found) - _SHOWN_HAZARDS} more such files")
        found[_SHOWN_HAZARDS:] = [rest]
    return found


def _hazard(name: str, text: str) -> Finding:
    remedy = (
        "repair changes only datasets of regular files and changed nothing; put the file itself there, or remove it"
    )
    return fault(name, text, remedy=remedy)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is not a folder itself, sorted; links are not followed."""
    if folder.is_symlink():
        return
    for place, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in sorted([*names, *links]))


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
    if info is not None and all(name in info for name in _WANTED):
        complete = all("dtype" in feature and "shape" in feature for feature in info["features"].values())
        if complete and info["codebase_version"] in schema.READ_VERSIONS:
            if not float(info["fps"]) > 0 or int(info["chunks_size"]) < 1:
                raise DatasetError(
                    f"{root / schema.INFO_FILE}: fps is {info['fps']}, chunks_size {info['chunks_size']}, expected "
                    "positive numbers; correct them by hand, or restore the file"
                )
            return normalised_info(info, str(root / schema.INFO_FILE))
    is_v3 = any(root.glob(schema.EPISODES_TABLE_PATTERN))
    has_list = is_v3 or any((root / name).exists() for name in (schema.INFO_FILE, schema.EPISODES_FILE))
    if embodiment is not None and (has_list or any(root.glob("data/*/episode_*.parquet"))):
        has_stats = (root / schema.EPISODES_STATS_FILE).exists() or not (root / schema.INFO_FILE).exists()
        version = schema.Version.V30 if is_v3 else (schema.Version.V21 if has_stats else schema.Version.V20)
        codecs = [scan_video(path, decode=False).codec for path in sorted(root.glob("videos/*/*/*.mp4"))[:1]]
        return make_recorded_info(embodiment, codecs[0] if codecs else VideoCodec.H264.value, version, 0, 0, 0)
    if not has_list:
        return None
    raise DatasetError(
        f"{root / schema.INFO_FILE}: missing or damaged, and there is no {schema.EMBODIMENT_FILE} to make it of; "
        "restore it from a copy"
    )
