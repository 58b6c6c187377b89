# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of the episodes that are kept, and of the dataset they make.

Those of numbers are computed from the rows as they are written; those of images are taken over while an episode keeps
all its frames, since a sample of the same frames gives the same numbers, and decoding is what takes time.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset.media.video import VideoCache
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.statistics.compute import (
    QUANTILES,
    ImageStatistics,
    describe_rows,
    join_described,
    sampled_images,
)
from gr00t_training.dataset.statistics.stored_rows import StoredRows
from gr00t_training.dataset.tools.edit.rows import column_values
from gr00t_training.errors import DatasetError


def column_numbers(table: pa.Table, subject: str) -> dict[str, np.ndarray]:
    """Return every column of numbers of the rows of an episode, `(N,)` or `(N, D)`.

    Raises:
        DatasetError: a column has empty values, NaN or infinity; `subject` names the rows.
    """
    columns = {}
    for name in table.column_names:
        values = _values(table, name, subject)
        if values is not None:
            columns[name] = values
    return columns


def describe_columns(columns: Mapping[str, np.ndarray], *, quantiles: bool) -> dict[str, dict[str, list]]:
    """Return lerobot's statistics of the columns of an episode; with v3.0's quantiles if asked."""
    return {name: describe_rows(values, quantiles=quantiles) for name, values in columns.items()}


def _values(table: pa.Table, name: str, subject: str) -> np.ndarray | None:
    try:
        values = column_values(table[name])
    except DatasetError as error:
        raise DatasetError(f"{subject}: column '{name}': {error}") from error
    if values is not None and not np.isfinite(values.astype(np.float32)).all():
        row = int(np.argwhere(~np.isfinite(values.astype(np.float32)))[0][0])
        raise DatasetError(
            f"{subject}: column '{name}' holds NaN, infinity or more than float32 can hold in row {row}; correct it "
            "or leave the episode out"
        )
    return values


def describe_frames(span: Span, videos: VideoCache, *, quantiles: bool, stride: int = 1) -> dict[str, list]:
    """Return lerobot's statistics of the frames of `span`, decoding only those that it samples.

    Args:
        span: which frames of which file.
        videos: opens the file, and keeps it open for the next span of it.
        quantiles: whether to give v3.0's quantiles too.
        stride: decode only every `stride`-th of them; `count` stays lerobot's, being the weight among episodes.

    Raises:
        DatasetError: one of them cannot be decoded.
    """
    together = ImageStatistics()
    single = []
    reader = videos.open(span.path)
    sampled = sampled_images(span.count).tolist()
    for number in sampled[::stride]:
        image = reader.read([span.first + number])[0]
        statistics = ImageStatistics()
        statistics.add(image)
        single.append(statistics.describe())
        if quantiles:
            together.add(image)
    entry = join_described(single) | {"count": [len(sampled)]}
    if quantiles:
        described = together.describe(quantiles=True)
        entry |= {name: described[name] for name in QUANTILES}
    return entry


class FrameDescriber:
    """Threads that describe images; each keeps files open, since those of v3.0 hold many episodes."""

    def __init__(self, num_cameras: int, *, quantiles: bool, stride: int) -> None:
        """Start a thread per core; `quantiles` and `stride` are those of `describe_frames`."""
        self._own = threading.local()
        self._caches: list[VideoCache] = []
        self._capacity = max(num_cameras, 1)
        self._describe = partial(describe_frames, quantiles=quantiles, stride=stride)
        # decoding leaves the interpreter alone
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=self._open_cache)

    def submit(self, span: Span) -> Future[dict[str, list]]:
        """Have the frames of `span` described."""
        return self._pool.submit(lambda: self._describe(span, self._own.videos))

    def close(self) -> None:
        """End the threads, whatever is left to do, and close the files."""
        self._pool.shutdown(cancel_futures=True)
        for cache in self._caches:
            cache.close()

    def _open_cache(self) -> None:
        self._own.videos = VideoCache(self._capacity)
        self._caches.append(self._own.videos)


class ImageEntries(Sequence[Mapping[str, Any]]):
    """Image statistics of many episodes as arrays: as lists they take ten times the memory."""

    def __init__(self) -> None:
        self._forms: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[tuple[str, tuple[int, ...]], ...]] = {}
        self._entries: list[Any] = []  # form and values; or the entry itself, where it is of another kind

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add the entry of an episode: name -> nested lists of numbers."""
        try:
            arrays = {name: np.asarray(values, np.float64) for name, values in entry.items()}
        except (ValueError, TypeError):
            self._entries.append(entry)
            return
        form = tuple((name, array.shape) for name, array in arrays.items())
        self._entries.append(
            (self._forms.setdefault(form, form), np.concatenate([array.ravel() for array in arrays.values()]))
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, position: Any) -> Any:
        kept = self._entries[position]
        if not isinstance(kept, tuple):
            return kept
        entry, start = {}, 0
        for name, shape in kept[0]:
            end = start + math.prod(shape)
            entry[name], start = kept[1][start:end].reshape(shape), end
        return entry


class DatasetStatistics:
    """Collects the statistics of `meta/stats.json` in bounded memory; close it."""

    def __init__(self, folder: Path) -> None:
        """Start without rows; `folder` is for temporary files without a name."""
        self._folder = folder
        self._columns: dict[str, StoredRows] = {}
        self._images: dict[str, ImageEntries] = {}

    def add_rows(self, columns: Mapping[str, np.ndarray], subject: str) -> None:
        """Add the rows of an episode; raises DatasetError for another width than before, `subject` names it."""
        for name, values in columns.items():
            rows = self._columns.setdefault(name, StoredRows(self._folder))
            if rows.count and rows.width != values.reshape(len(values), -1).shape[1]:
                raise DatasetError(f"{subject}: column '{name}' has another width than in the episodes before")
            rows.add(values)

    def add_images(self, entries: Mapping[str, Mapping[str, Any]], cameras: list[str]) -> None:
        """Add the image statistics of an episode; `entries` has them by feature."""
        for name in cameras:
            if name in entries:
                self._images.setdefault(name, ImageEntries()).append(entries[name])

    def to_mapping(self, *, is_v3: bool) -> dict[str, dict[str, list]]:
        """Return `stats.json`: of float columns, as GR00T computes it; in v3.0 of all columns and with images too."""
        entries: dict[str, dict[str, list]] = {}
        for name, rows in self._columns.items():
            if is_v3:
                entries[name] = rows.describe(quantiles=True)
            elif rows.is_float:
                entries[name] = {}
            if rows.is_float:
                entries[name] |= rows.statistics().to_mapping()
        for name, described in self._images.items():
            entries[name] = join_described(described)
        return entries

    def close(self) -> None:
        """Remove the temporary files."""
        for rows in self._columns.values():
            rows.close()
