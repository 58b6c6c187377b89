# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Cut the idle ends off episodes: rows before anything moves and after everything has stopped.

A channel has moved when it is further from where it was at that end than a share of its range over the dataset: noise
and units do not matter, slow motion does. Ends are then moved outwards to where the videos can be cut by packets, if
that is near; else those videos are re-encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gr00t_training.dataset.media.packets import CodedVideos, part_of
from gr00t_training.dataset.metadata.episode_list import Episode, Span
from gr00t_training.dataset.tools.edit.kept import KeptEpisode
from gr00t_training.dataset.tools.edit.operations import write_kept
from gr00t_training.dataset.tools.edit.output import EditReport
from gr00t_training.dataset.tools.edit.rows import column_values
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN
from gr00t_training.errors import DatasetError
from gr00t_training.settings import setting

# Ends are moved outwards by up to this much so that no video has to be re-encoded.
MAX_SHIFT_S = 0.5


@dataclass(frozen=True)
class TrimSettings:
    """What counts as idle."""

    threshold: float = setting(0.02, "Share of a channel's range that it moves within while idle.", ge=1e-6, le=1.0)
    min_range: float = setting(
        0.01, "Channels with a smaller range over the dataset are noise [units of the dataset].", ge=0.0
    )
    margin_s: float = setting(0.3, "Time kept before the first motion and after the last [s].", ge=0.0, le=60.0)


@dataclass(frozen=True)
class IdleEnds:
    """What there is to cut off an episode."""

    episode: int
    length: int  # rows
    start: int  # first row that is kept
    stop: int  # end of the rows that are kept
    encoded: tuple[str, ...] = ()  # cameras with a video that has to be re-encoded
    is_still: bool = False  # nothing ever moves: kept unchanged

    @property
    def num_cut(self) -> int:
        """Number of rows that go."""
        return self.length - (self.stop - self.start)


def find_idle_ends(path: str | Path, settings: TrimSettings, episodes: Sequence[int] | None = None) -> list[IdleEnds]:
    """Return what can be cut off each requested episode (None: all).

    Raises:
        DatasetError: the dataset is damaged, has neither state nor action, or no such episode.
    """
    source = SourceDataset(path)
    return _idle_ends(source, settings, episodes)


def trim_dataset(
    path: str | Path, output: str | Path | None, settings: TrimSettings, episodes: Sequence[int] | None = None
) -> tuple[EditReport, list[IdleEnds]]:
    """Write a dataset without the idle ends of its episodes.

    Args:
        path: the dataset.
        output: new folder; None: in place.
        settings: what counts as idle.
        episodes: those to trim; None: all.

    Raises:
        DatasetError: as `find_idle_ends`, or `output` exists.
    """
    source = SourceDataset(path)
    ends = {found.episode: found for found in _idle_ends(source, settings, episodes)}
    kept = []
    for number in source.episodes.indices.tolist():
        found = ends.get(number)
        kept.append(KeptEpisode(source, number, found.start, found.stop) if found else KeptEpisode(source, number))
    return write_kept(kept, source, output), list(ends.values())


def moving_rows(values: np.ndarray, tolerance: np.ndarray) -> tuple[int, int] | None:
    """Return first row and end (half open) of the motion, None if there is none.

    Args:
        values: `(N, D)`.
        tolerance: `(D,)`: how far a channel may be from its first value, and from its last, while idle.
    """
    from_first = np.flatnonzero((np.abs(values - values[0]) > tolerance).any(axis=1))
    from_last = np.flatnonzero((np.abs(values - values[-1]) > tolerance).any(axis=1))
    if not from_first.size or not from_last.size:
        return None
    return int(from_first[0]), int(from_last[-1]) + 1


def _idle_ends(source: SourceDataset, settings: TrimSettings, episodes: Sequence[int] | None) -> list[IdleEnds]:
    chosen = source.episodes if episodes is None else [source.episode(index) for index in sorted(set(episodes))]
    low, high = _ranges(source)
    extent = high - low
    tolerance = np.where(extent >= max(settings.min_range, 1e-12), settings.threshold * extent, np.inf)
    margin = round(settings.margin_s * source.fps)
    found = []
    videos = CodedVideos()
    try:
        for episode in chosen:
            motion = moving_rows(_motion_columns(source, episode), tolerance)
            if motion is None:
                found.append(IdleEnds(episode.index, episode.length, 0, episode.length, is_still=True))
                continue
            start, stop = max(motion[0] - margin, 0), min(motion[1] + margin, episode.length)
            found.append(_at_key_frames(source, episode, start, stop, videos))
    finally:
        videos.close()
    return found


def _ranges(source: SourceDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the extremes of every channel over the dataset, `(D,)` each."""
    extremes = [
        (values.min(axis=0), values.max(axis=0))
        for values in (_motion_columns(source, episode) for episode in source.episodes)
    ]
    if not extremes:
        raise DatasetError(f"{source.path}: has no episode")
    widths = sorted({len(low) for low, _ in extremes})
    if len(widths) > 1:
        raise DatasetError(
            f"{source.path}: '{STATE_COLUMN}' and '{ACTION_COLUMN}' have {widths[0]} to {widths[-1]} channels in "
            "different episodes, expected one width; validate the dataset"
        )
    return np.min([low for low, _ in extremes], axis=0), np.max([high for _, high in extremes], axis=0)


def _motion_columns(source: SourceDataset, episode: Episode) -> np.ndarray:
    """Return state and action side by side, `(N, D)` float64."""
    table = source.read_rows(episode, [STATE_COLUMN, ACTION_COLUMN])
    parts = [column_values(table[name]) for name in table.column_names]
    numbers = [part.reshape(len(part), -1).astype(np.float64) for part in parts if part is not None]
    if not numbers or not episode.length:
        raise DatasetError(
            f"{source.path}: episode {episode.index} has no '{STATE_COLUMN}' or '{ACTION_COLUMN}' to see motion in"
        )
    return np.concatenate(numbers, axis=1)


def _at_key_frames(source: SourceDataset, episode: Episode, start: int, stop: int, videos: CodedVideos) -> IdleEnds:
    """Move the ends outwards to where all videos can be cut by packets, if that is near."""
    shift = round(MAX_SHIFT_S * source.fps)
    if (start, stop) == (0, episode.length) or not episode.videos:
        return IdleEnds(episode.index, episode.length, start, stop)
    for first, last in _outwards(start, stop, shift, episode.length):
        if not any(_must_encode(span, first, last, videos) for span in episode.videos.values()):
            return IdleEnds(episode.index, episode.length, first, last)
    encoded = [name for name, span in episode.videos.items() if _must_encode(span, start, stop, videos)]
    return IdleEnds(episode.index, episode.length, start, stop, tuple(encoded))


def _outwards(start: int, stop: int, shift: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield ends around (start, stop), those that add the fewest rows first."""
    starts = range(start, max(start - shift, 0) - 1, -1)
    stops = range(stop, min(stop + shift, length) + 1)
    yield from sorted(((first, last) for first in starts for last in stops), key=lambda ends: ends[1] - ends[0])


def _must_encode(span: Span, start: int, stop: int, videos: CodedVideos) -> bool:
    return not videos.open(span.path).can_cut(part_of(span, start, stop))
