# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Making episodes of what a killed recorder left: a journal of rows and videos that end somewhere.

An episode gets the rows that have a frame of every camera. Its videos are copied by the packet, so nothing is coded
twice. The folder it comes from stays, under a name that says that it was recovered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.depth import DepthReader
from gr00t_training.dataset.media.packets import cut_file
from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.repair.tables import read_object
from gr00t_training.dataset.tools.validate.videos import scan_video
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing.journal import JOURNAL_FILE, Journal, read_journal
from gr00t_training.embodiment import STATE_COLUMN, differences
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame

RECOVERED = "recovered_"  # what the folder's name begins with afterwards


@dataclass(frozen=True)
class Unfinished:
    """An episode that was never published."""

    folder: Path
    journal: Journal
    videos: Mapping[str, Path]  # by camera
    depths: Mapping[str, Path]  # by depth camera
    num_frames: int  # rows that have a frame of every camera

    @property
    def num_rows(self) -> int:
        """Number of rows in the journal."""
        return len(self.journal.frames)


def find_unfinished(root: Path) -> tuple[list[Unfinished], list[str]]:
    """Return the unfinished episodes in the staging folder of a dataset, oldest first, and what cannot be read."""
    found, problems = [], []
    for folder in _folders(root):
        try:
            journal = read_journal(folder / JOURNAL_FILE)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if journal.frames and not _is_published(root, journal):
            found.append(_measure(root, folder, journal))
    return found, problems


def _measure(root: Path, folder: Path, journal: Journal) -> Unfinished:
    videos, depths, counts = {}, {}, [len(journal.frames)]
    for key in journal.embodiment.video:
        feature = schema.image_feature(key)
        published = schema.video_path(journal.index, feature)
        videos[key], count = _find_file(root, folder, f"{feature}.mp4", published, f"videos_*{feature}*", journal)
        counts.append(count)
    for key in journal.embodiment.depth:
        published = schema.depth_path(journal.index, key)
        pattern = f"*{published.replace('/', '_')}*"
        depths[key], count = _find_file(root, folder, f"depth.{key}.mkv", published, pattern, journal)
        counts.append(count)
    return Unfinished(folder, journal, videos, depths, min(counts))


def recover(writer: DatasetWriter, item: Unfinished) -> int:
    """Add an unfinished episode to the dataset; return its index.

    Raises:
        DatasetError: it does not fit the dataset, or cannot be written; its files stay unchanged.
    """
    items = differences(item.journal.embodiment, writer.embodiment)
    if item.journal.codec != writer.video.codec.value:
        items.append(f"video: found {item.journal.codec}, expected {writer.video.codec.value}")
    if item.journal.has_source != writer.has_source:
        items.append(f"{schema.SOURCE_COLUMN}: found {item.journal.has_source}, expected {writer.has_source}")
    if items:
        raise DatasetError(f"{item.folder}: belongs to another dataset: {'; '.join(items)}; recover it into a new one")
    fps = item.journal.embodiment.fps
    task = item.journal.task
    episode = writer.start_episode(
        task, open_video=lambda key, path: _CopiedVideo(item.videos[key], path, item.num_frames, fps)
    )
    try:
        for frame in _frames(item):
            episode.add_frame(frame)
    except DatasetError:
        if episode.is_open:
            episode.discard()
        raise
    left_out = item.num_rows - item.num_frames
    note = f"recovered: recording ended before the episode was saved; {left_out} rows without images left out"
    index = episode.save({"source": "recovered", "note": note})
    _mark_recovered(item)
    return index


def _folders(root: Path) -> Iterator[Path]:
    places = [root / schema.IGNORED, root / schema.STAGING]
    folders = [path for place in places for path in place.glob("episode_*") if (path / JOURNAL_FILE).is_file()]
    yield from sorted(folders, key=lambda path: ((path / JOURNAL_FILE).stat().st_mtime_ns, path))


def _is_published(root: Path, journal: Journal) -> bool:
    """Whether the episode of a journal is in the dataset: saved, or recovered by a repair that was killed.

    A recovered episode may have another number, and fewer rows than the journal.
    """
    with contextlib.suppress(DatasetError):
        dataset = EpisodeDataset(root)
        keys = journal.embodiment.state
        rows = np.array([np.concatenate([frame.state[key] for key in keys]) for frame in journal.frames], np.float32)
        for episode in dataset.episodes:
            is_saved = episode.index == journal.index and episode.length == len(rows)
            if not is_saved and (episode.length > len(rows) or not _is_recovered(root, episode.index, journal)):
                continue
            if np.array_equal(dataset.column(episode.index, STATE_COLUMN), rows[: episode.length]):
                return True
    return False


def _is_recovered(root: Path, index: int, journal: Journal) -> bool:
    """Whether an episode was recovered from a journal with the first tick of this one."""
    quality = read_object(root / schema.quality_path(index)) or {}
    report = quality.get("report")
    is_recovered = isinstance(report, dict) and report.get("source") == "recovered"
    return is_recovered and quality.get("start_ns") == journal.frames[0].tick_ns


def _find_file(root: Path, folder: Path, name: str, published: str, pattern: str, journal: Journal) -> tuple[Path, int]:
    """Return the video `name` of an unfinished episode and how many frames it has.

    It may have been on its way to its place when the recorder was killed: then it is whole and has as many frames as
    there are rows. It is at the path `published`, or, after a writer opened the dataset, among the ignored files under
    a name that fits `pattern`.
    """
    path = folder / (name + schema.STAGED_SUFFIX)
    if path.is_file():
        return path, _num_frames(path)
    moved = [path for path in (root / schema.IGNORED).glob(pattern + schema.STAGED_SUFFIX + "*") if path.is_file()]
    moved.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for candidate in [root / published, *moved]:
        if candidate.is_file() and _num_frames(candidate) == len(journal.frames):
            return candidate, len(journal.frames)
    return path, 0


def _num_frames(path: Path) -> int:
    facts = scan_video(path, decode=False)
    return 0 if facts.failure else len(facts.times_s)


def _frames(item: Unfinished) -> Iterator[Frame]:
    readers = {key: VideoReader(path) for key, path in item.videos.items()}
    depths = {key: DepthReader(path) for key, path in item.depths.items()}
    try:
        for number, frame in enumerate(item.journal.frames[: item.num_frames]):
            images = {key: reader.read([number])[0] for key, reader in readers.items()}
            depth = {key: reader.read([number])[0] for key, reader in depths.items()}
            yield dataclasses.replace(frame, images=images, depth=depth)
    finally:
        for reader in (*readers.values(), *depths.values()):
            reader.close()


class _CopiedVideo:
    """A substitute for an encoder: copies encoded packets of another file."""

    def __init__(self, source: Path, target: Path, count: int, fps: float) -> None:
        self._source, self._target, self._count, self._fps = source, target, count, fps
        self._is_open = True

    def add(self, image: np.ndarray) -> None:
        """Take an image that the file has already."""

    def close(self) -> None:
        """Copy the packets; OSError or DatasetError when that fails."""
        if self._is_open:
            self._is_open = False
            cut_file(Span(self._source, 0, self._count), self._target, self._fps)


def _mark_recovered(item: Unfinished) -> None:
    """Rename the folder, so that its episode is not recovered twice, and put into it what belongs to it."""
    for path in (*item.videos.values(), *item.depths.values()):
        if path.parent != item.folder:
            os.rename(path, item.folder / path.name)
    first = item.folder.parent / (RECOVERED + item.folder.name)
    target, number = first, 1
    while target.exists():
        target, number = first.with_name(f"{first.name}-{number}"), number + 1
    os.rename(item.folder, target)
