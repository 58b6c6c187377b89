# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets on this machine: list them, look into episodes, trim, delete and retask.

A page names a dataset by a digest of its path, so it reaches only what the console was given. Everything is done by the
functions of `gr00t dataset`; one edit runs at a time, and never in the dataset that a recorder writes.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.model import read_metadata
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.edit.operations import delete_episodes, retask_episodes
from gr00t_training.dataset.tools.edit.output import EditReport
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.edit.trim import TrimSettings, trim_dataset
from gr00t_training.errors import DatasetError
from gr00t_training.types import VECTOR_KINDS, KeyRef

MAX_POINTS = 400  # of a curve
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Clip:
    """Where the video of an episode is."""

    path: Path
    start_s: float
    end_s: float


class Shelf:
    """The datasets that pages may see; any thread."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take folders that are datasets or contain some."""
        self._folders = [folder.resolve() for folder in folders]
        self._recording: Path | None = None
        self._marks: dict[Path, tuple[float, dict[str, Any]]] = {}
        self._editing = threading.Lock()

    def set_recording(self, path: str) -> None:
        """Note the dataset of a recorder that is active; empty: there is none."""
        self._recording = Path(path).resolve() if path else None

    def list(self) -> list[dict[str, str]]:
        """Return id and path of every dataset, the recorder's first."""
        return [{"id": _id(path), "name": path.name, "path": str(path)} for path in self._paths()]

    def find(self, dataset: str) -> Path:
        """Return the folder of a dataset by its id.

        Raises:
            DatasetError: there is none.
        """
        for path in self._paths():
            if _id(path) == dataset:
                return path
        raise DatasetError("no such dataset any more; reload the page")

    def describe(self, dataset: str) -> dict[str, Any]:
        """Return rate, cameras, keys and all episodes of a dataset; DatasetError as for reading it."""
        path = self.find(dataset)
        source = SourceDataset(path)
        return {
            "id": dataset,
            "path": str(path),
            "fps": source.fps,
            "version": source.version,
            "embodiment": source.embodiment.name if source.embodiment else "",
            "cameras": list(EpisodeDataset(path).modality.video),
            "tasks": list(dict.fromkeys(source.tasks.values())),
            "is_recording": path == self._recording,
            "episodes": [
                {
                    "index": episode.index,
                    "rows": episode.length,
                    "seconds": episode.length / source.fps,
                    "tasks": list(episode.tasks),
                    **self._quality(
                        source.side_files(episode.index).get(schema.quality_path(episode.index)), source, episode
                    ),
                }
                for episode in source.episodes
            ],
        }

    def curves(self, dataset: str, episode: int) -> dict[str, Any]:
        """Return state and action over an episode, at most `MAX_POINTS` rows of it."""
        opened = EpisodeDataset(self.find(dataset))
        length = opened.episode(episode).length
        if not length:
            return {"t": [], "keys": {}, "person": []}
        rows = np.unique(np.linspace(0, length - 1, min(length, MAX_POINTS)).astype(int))
        keys = {}
        for kind in VECTOR_KINDS:
            for key, part in opened.modality.vectors(kind).items():
                values = opened.vectors(KeyRef(kind, key), episode)[rows]
                names = opened.embodiment.vectors(kind)[key].names if opened.embodiment else range(part.dim)
                keys[f"{kind.value}.{key}"] = {"names": [str(name) for name in names], "rows": values.tolist()}
        person = opened.interventions(episode)
        return {
            "t": (rows / opened.fps).tolist(),
            "keys": keys,
            "person": [] if person is None else person[rows].astype(int).tolist(),
        }

    def clip(self, dataset: str, episode: int, camera: str) -> Clip:
        """Return where the video of a camera of an episode is."""
        opened = EpisodeDataset(self.find(dataset))
        span = opened.video_span(episode, camera)
        return Clip(span.path, span.first / opened.fps, (span.first + span.count) / opened.fps)

    def task_counts(self, path: str) -> list[tuple[str, int]]:
        """Return the tasks of a dataset with their numbers of episodes; none where it cannot be read here."""
        try:
            episodes = read_metadata(Path(path)).episodes
        except (DatasetError, OSError):
            return []
        counts: dict[str, int] = {}
        for episode in episodes:
            for task in episode.tasks[:1]:
                counts[task] = counts.get(task, 0) + 1
        return sorted(counts.items())

    def edit(self, kind: str, dataset: str, episodes: Sequence[int], text: str, output: str) -> str:
        """Trim, delete or retask episodes; return what was done.

        Args:
            kind: one of `EDITS`.
            dataset: its id.
            episodes: indices.
            text: the new task of a retask.
            output: name of the new dataset next to this one; empty: in place.

        Raises:
            DatasetError: refused, or the dataset is damaged.
        """
        path = self.find(dataset)
        if kind not in EDITS:
            raise DatasetError(f"edit '{kind[:40]}' is unknown; reload the page")
        if not episodes:
            raise DatasetError(f"{path}: no episode is chosen; choose some")
        if path == self._recording:
            raise DatasetError(f"{path}: a recorder has this dataset open; clean it up, or choose another")
        if output and not NAME.fullmatch(output):
            raise DatasetError(f"name '{output[:40]}': expected letters, digits, dots, dashes and underscores")
        if not self._editing.acquire(blocking=False):
            raise DatasetError("another edit is running; wait for its end")
        try:
            report = EDITS[kind](path, list(episodes), text, path.parent / output if output else None)
        finally:
            self._editing.release()
        where = f"{path.parent / output}" if output else f"{path}"
        return f"{where}: {report.num_episodes} episodes, {report.num_frames} rows"

    def _paths(self) -> list[Path]:
        found = [self._recording] if self._recording is not None and _is_dataset(self._recording) else []
        for folder in self._folders:
            children = [] if _is_dataset(folder) or not folder.is_dir() else sorted(folder.iterdir())
            found += [path for path in (folder, *children) if _is_dataset(path)]
        return list(dict.fromkeys(found))

    def _quality(self, file: Path | None, source: SourceDataset, episode: Any) -> dict[str, Any]:
        """Return marks and the share of rows with a filled value; remembered, since it is a file per episode."""
        if file is None:
            return {"success": None, "valid": None, "note": "", "filled": None}
        time_s = file.stat().st_mtime
        known = self._marks.get(file)
        if known is None or known[0] != time_s:
            members = source.quality(episode.index)
            marks = source.marks(episode.index)
            filled = {row for rows in (members.get("filled_rows") or {}).values() for row in rows}
            facts = {
                "success": marks.is_success,
                "valid": marks.is_valid,
                "note": marks.note,
                "filled": len(filled) / max(episode.length, 1),
            }
            known = self._marks[file] = (time_s, facts)
        return known[1]


def _trim(path: Path, episodes: list[int], text: str, output: Path | None) -> EditReport:
    return trim_dataset(path, output, TrimSettings(), episodes)[0]


def _delete(path: Path, episodes: list[int], text: str, output: Path | None) -> EditReport:
    return delete_episodes(path, episodes, output)


def _retask(path: Path, episodes: list[int], text: str, output: Path | None) -> EditReport:
    return retask_episodes(path, episodes, text, output)


EDITS: dict[str, Callable[[Path, list[int], str, Path | None], EditReport]] = {
    "trim": _trim,
    "delete": _delete,
    "retask": _retask,
}


def _is_dataset(path: Path) -> bool:
    return (path / schema.INFO_FILE).is_file()


def _id(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]
