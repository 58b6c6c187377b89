# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Carry out a plan so that a kill at any instant leaves the dataset unchanged, or lets the next repair finish.

All new content is built in `.staging/repair`, synced and proved there. Then originals are linked into
`.staging/backup-<time>` and the list of steps is written; from that instant on the repair is decided, and
`finish_commit` carries out what is left of it. Every step is a rename or a removal that may be done twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.packets import cut_file
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.schema import REPAIR_FOLDER, REPAIR_STEPS
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.repair.proof import prove
from gr00t_training.dataset.tools.validate.metadata import TIME_TOLERANCE_S
from gr00t_training.dataset.tools.validate.videos import scan_video
from gr00t_training.dataset.writing.files import DatasetFiles, sync_file, sync_folder
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import check_name

Step = tuple[str, str, str]  # action, source, target


def apply_plan(plan: Plan, fps: float) -> Path | None:
    """Carry out `plan`; return the folder with the originals of replaced files, None if none was replaced.

    Args:
        plan: not empty; its dataset is locked by the caller.
        fps: rate of the dataset.

    Raises:
        DatasetError: the result would not hold the same rows and pictures; nothing was changed.
        OSError: something cannot be written; nothing was changed, or the next repair finishes it.
    """
    folder = plan.root / REPAIR_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a repair that was killed before it was decided
    folder.mkdir(parents=True)
    try:
        staged = _stage(plan, folder, fps)
        prove(plan, staged)
        backup = _keep_originals(plan)
        steps = _steps(plan, staged)
        with _signals_held():
            _decide(plan.root, steps)
            finish_commit(plan.root)
    except BaseException:
        if not (plan.root / REPAIR_STEPS).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return backup


def is_interrupted(root: Path) -> bool:
    """Whether a repair of the dataset was decided and not finished."""
    return (root / REPAIR_STEPS).exists()


def finish_commit(root: Path) -> int:
    """Carry out what is left of a repair that was decided; return the number of its steps, 0 if there is none.

    Raises:
        DatasetError: the list of steps is damaged.
        OSError: a file cannot be moved.
    """
    if not is_interrupted(root):
        return 0
    steps = _read_steps(root)
    folders = set()
    for action, source, target in steps:
        path = root / source
        if action == "remove":
            path.unlink(missing_ok=True)
        elif os.path.lexists(path):
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, root / target)
            folders.add((root / target).parent)
        folders.add(path.parent)
    for folder in folders:
        if folder.is_dir():
            sync_folder(folder)
    (root / REPAIR_STEPS).unlink()
    sync_folder(root / schema.STAGING)
    shutil.rmtree(root / REPAIR_FOLDER, ignore_errors=True)
    return len(steps)


def _stage(plan: Plan, folder: Path, fps: float) -> dict[str, Path]:
    """Build the new content of every file; return name -> where it is."""
    staged: dict[str, Path] = {}

    def place(name: str) -> Path:
        staged[name] = folder / f"{len(staged):06d}{Path(name).suffix}{schema.STAGED_SUFFIX}"
        return staged[name]

    for target, source in plan.moves.items():
        if target not in plan.tables and target not in plan.texts:
            _link(plan.root / source, place(target))
    for name, table in plan.tables.items():
        pq.write_table(table, place(name), compression="snappy")
    for name, text in plan.texts.items():
        place(name).write_text(text, encoding="utf-8")
    for name, count in plan.retimed.items():
        _retime(plan.root / plan.moves.get(name, name), place(name), count, fps)
    for path in staged.values():
        sync_file(path)
    sync_folder(folder)
    return staged


def _retime(source: Path, target: Path, count: int, fps: float) -> None:
    """Copy the packets of a video with the times of its frames set to k / fps."""
    target.unlink(missing_ok=True)
    cut_file(Span(source, 0, count), target, fps)
    times_s = scan_video(target, decode=False).times_s
    if len(times_s) != count or (np.abs(times_s - np.arange(count) / fps) > TIME_TOLERANCE_S).any():
        raise DatasetError(f"{source}: its frames cannot be put at their times by packets; encode it again as h264")


def _keep_originals(plan: Plan) -> Path | None:
    """Link or copy the originals of files that get other content, or changed content under another name."""
    moved_whole = {source for target, source in plan.moves.items() if target not in {*plan.tables, *plan.retimed}}
    names = [*plan.texts, *plan.tables, *plan.retimed, *plan.moves, *plan.moves.values()]
    names = [name for name in dict.fromkeys(names) if name not in moved_whole and (plan.root / name).is_file()]
    if not names:
        return None
    backup = _new_folder(plan.root)
    for name in names:
        kept = backup / (name + schema.STAGED_SUFFIX)
        kept.parent.mkdir(parents=True, exist_ok=True)
        _link(plan.root / name, kept)
    return backup


def _steps(plan: Plan, staged: dict[str, Path]) -> list[Step]:
    root = plan.root
    files = DatasetFiles(root)
    steps: list[Step] = [("move", path.relative_to(root).as_posix(), name) for name, path in staged.items()]
    steps += [("remove", name, "") for name in dict.fromkeys(plan.moves.values()) if name not in staged]
    taken: set[Path] = set()
    for name in plan.aside:
        target = files.ignored_path(name.replace("/", "_") + schema.STAGED_SUFFIX, taken)
        taken.add(target)
        if name in staged:  # another file takes its name: move it out first
            steps.insert(0, ("move", _aside_link(root, name, len(taken)), target.relative_to(root).as_posix()))
        else:
            steps.append(("move", name, target.relative_to(root).as_posix()))
    return steps


def _aside_link(root: Path, name: str, number: int) -> str:
    link = root / REPAIR_FOLDER / f"aside-{number:06d}{schema.STAGED_SUFFIX}"
    _link(root / name, link)
    return link.relative_to(root).as_posix()


def _decide(root: Path, steps: list[Step]) -> None:
    path = root / REPAIR_STEPS
    part = path.with_name(path.name + schema.STAGED_SUFFIX)
    part.write_text(schema.json_text([list(step) for step in steps]), encoding="utf-8")
    sync_file(part)
    sync_folder(root / REPAIR_FOLDER)
    os.replace(part, path)
    sync_folder(root / schema.STAGING)


def _read_steps(root: Path) -> list[Step]:
    path = root / REPAIR_STEPS
    try:
        steps = [(str(action), str(source), str(target)) for action, source, target in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error}); put the originals back from .staging/backup-*"
        ) from error
    for action, *names in steps:
        for name in names if action == "move" else names[:1]:
            check_name(name, DatasetError, str(path))
    return steps


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)  # replaced, never changed: the link keeps the content
    except OSError:  # file systems without links
        shutil.copy2(source, target)


def _new_folder(root: Path) -> Path:
    first = root / schema.STAGING / time.strftime("backup-%Y%m%d-%H%M%S")
    path, number = first, 1
    while path.exists():
        path, number = first.with_name(f"{first.name}-{number}"), number + 1
    path.mkdir(parents=True)
    return path


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and Ctrl-C wait for the renames, which take no time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
