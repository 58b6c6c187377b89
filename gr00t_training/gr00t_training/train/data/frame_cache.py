# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decoded frames of a dataset's videos on disk, so that reading one costs no seek.

A file holds the images of one camera in one episode, in the smallest size that changes no result (see
`ImageProcessor.stored_size`). It is made by the first process that needs it, in one pass through the video, and named
by a digest of the video file and of what was done to its images: a video that changes gets other files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.cache_folder import CacheFolder
from gr00t_training.io.files import open_regular, replacing
from gr00t_training.io.mirror import mirror_of
from gr00t_training.train.data.mapped import HEADER_BYTES, map_array, write_header
from gr00t_training.transforms.images import ImageProcessor
from gr00t_training.transforms.resampling import Size

logger = logging.getLogger(__name__)

_OPEN_FILES = 4096  # mapped at the same time in a process; the kernel allows about 65,000
_FRAMES_AT_ONCE = 16  # that a build decodes before it writes them
_HASHING_THREADS = 8
_BLOCK = 2**22  # [bytes] hashed at once


@dataclass(frozen=True)
class FileState:
    """What a file's content is recognized by; while size and time are the same, the digest is believed."""

    size: int
    mtime_ns: int
    sha256: str


class FrameCache:
    """Images of a dataset from the cache; may be sent to other processes."""

    def __init__(
        self,
        cache: CacheFolder,
        dataset: EpisodeDataset,
        episodes: Sequence[int],
        embodiment: Embodiment,
        processor: ImageProcessor,
    ) -> None:
        """Name the files and reserve their space; nothing is decoded yet.

        Args:
            cache: that holds them.
            dataset: whose videos are cached.
            episodes: that are read.
            embodiment: cameras that are read, and their sizes.
            processor: what follows; decides the size that is stored.

        Raises:
            ConfigError: the cache has no room.
            DatasetError: a video is missing.
        """
        self._cache = cache
        self._processor = processor
        self._checked = [key for key in embodiment.video_keys if not embodiment.video[key].is_any_size]
        self._names: dict[tuple[int, str], str] = {}
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        spans = {
            (episode, key): dataset.video_span(episode, key)
            for episode in episodes
            if dataset.episode(episode).length
            for key in embodiment.video_keys
        }
        self._files = file_states({span.path for span in spans.values()}, cache.folder, dataset.path)
        steps = {key: self._step(dataset.video_size(key)) for key in embodiment.video_keys}
        sizes = {}
        for (episode, key), span in spans.items():
            (height, width), step = steps[key]
            parts = (self._files[span.path].sha256, span.first, span.count, step)
            name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32] + ".npy"
            self._names[episode, key] = name
            sizes[name] = span.count * height * width * 3 + HEADER_BYTES
        cache.reserve(sizes)
        missing = sum(cache.find(name) is None for name in sizes)
        if missing:
            logger.info(
                "%s: decoding %d of %d videos into the cache on first use (%.1f GiB in all)",
                dataset.path,
                missing,
                len(sizes),
                sum(sizes.values()) / 2**30,
            )

    def images(self, dataset: EpisodeDataset, episode: int, key: str, rows: Sequence[int]) -> np.ndarray:
        """Return the images of a camera at `rows`, `(T, H, W, 3)` uint8 RGB; rows outside the episode are clamped.

        Raises:
            DatasetError: the video cannot be read, has another size than declared, or changed during the run.
            ConfigError: the cache cannot be written.
        """
        name = self._names[episode, key]
        frames = self._maps.pop(name, None)
        if frames is None:
            frames = self._map(name, dataset, episode, key)
        self._maps[name] = frames
        if len(self._maps) > _OPEN_FILES:
            self._maps.popitem(last=False)
        return frames[np.clip(rows, 0, len(frames) - 1)]

    def holds(self, episode: int, key: str) -> bool:
        """Whether the images of a camera in an episode are decoded already."""
        return self._cache.find(self._names[episode, key]) is not None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def _step(self, size: Size) -> tuple[Size, str]:
        """Return the size that images are stored in, and a digest of what scales them to it."""
        stored = self._processor.stored_size(*size)
        pattern = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        return stored, hashlib.sha256(self._processor.stored(pattern).tobytes()).hexdigest()[:16]

    def _map(self, name: str, dataset: EpisodeDataset, episode: int, key: str) -> np.ndarray:
        count = dataset.video_span(episode, key).count
        for _ in range(2):
            path = self._cache.make(name, lambda file: self._write(file, dataset, episode, key))
            try:
                frames = map_array(path)
                if frames.ndim == 4 and frames.shape[0] == count and frames.dtype == np.uint8:
                    return frames
            except (OSError, ValueError, RuntimeError):
                pass
            path.unlink(missing_ok=True)  # damaged, or removed since: make it again
        raise DatasetError(
            f"{self._cache.folder / name}: the cached images are damaged again and again; check the disk"
        )

    def _write(self, file: BinaryIO, dataset: EpisodeDataset, episode: int, key: str) -> None:
        span = dataset.video_span(episode, key)
        self._check_unchanged(span.path)
        shape: tuple[int, ...] = ()
        for start in range(0, span.count, _FRAMES_AT_ONCE):
            images = dataset.images(episode, key, range(start, min(start + _FRAMES_AT_ONCE, span.count)))
            if key in self._checked and images.shape[1:3] != dataset.video_size(key):
                (found_height, found_width), (height, width) = images.shape[1:3], dataset.video_size(key)
                raise DatasetError(
                    f"{span.path}: images of {found_width}x{found_height}, expected {width}x{height} as in "
                    "meta/info.json; validate the dataset"
                )
            stored = np.stack([self._processor.stored(image) for image in images])
            if not shape:
                shape = (span.count, *stored.shape[1:])
                write_header(file, "|u1", shape)
            if stored.shape[1:] != shape[1:]:
                raise DatasetError(f"{span.path}: images of several sizes; validate the dataset")
            file.write(stored.data)
        self._check_unchanged(span.path)

    def _check_unchanged(self, path: Path) -> None:
        if mirror_of(path) is not None:
            return  # never changes
        known, now = self._files[path], os.stat(path)
        if (now.st_size, now.st_mtime_ns) != (known.size, known.mtime_ns):
            raise DatasetError(f"{path}: changed during the run; start the run again")


def file_states(paths: Iterable[Path], folder: Path, subject: Path) -> dict[Path, FileState]:
    """Return the states of files; their digests are kept in `folder` and computed again only where a file changed.

    Args:
        paths: files.
        folder: of the cache.
        subject: dataset that they belong to.

    Raises:
        DatasetError: a file is missing.
    """
    index = folder / f".{hashlib.sha256(str(subject.resolve()).encode()).hexdigest()[:32]}.digests"
    known = _read_index(index)
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        listed = sorted(paths)
        found = pool.map(lambda path: _state(path, known.get(str(path.resolve()))), listed)
        states = dict(zip(listed, found, strict=True))
    current = {str(path.resolve()): state for path, state in states.items()}
    if any(known.get(path) != state for path, state in current.items()):
        content = {path: [state.size, state.mtime_ns, state.sha256] for path, state in {**known, **current}.items()}
        with replacing(index, f".{os.getpid()}.new") as file:
            file.write(json.dumps(content).encode())
    return states


def _read_index(path: Path) -> Mapping[str, FileState]:
    try:
        content = json.loads(path.read_bytes())
        return {name: FileState(int(size), int(time), str(digest)) for name, (size, time, digest) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged
        return {}


def _state(path: Path, known: FileState | None) -> FileState:
    mirror = mirror_of(path)
    if mirror is not None:  # not fetched for it
        digest, state = mirror.digest_of(path), mirror.objects[mirror.name_of(path)]
        return FileState(state.size, state.modified_s * 10**9, digest)
    with open_regular(path, DatasetError) as file:
        status = os.fstat(file.fileno())
        if known and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return known
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
        return FileState(status.st_size, status.st_mtime_ns, digest.hexdigest())
