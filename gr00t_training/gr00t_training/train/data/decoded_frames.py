# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decoded frames in memory, so that a video with distant key frames is decoded in order and each frame once.

Frames stay as the decoder made them, which is half the bytes of RGB; an image is converted when a sample takes it. They
are those of a segment of `StreamOrder`, forgotten one by one when all its samples are made, or of whole episodes, kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.dataset.media.video import Pictures
from gr00t_training.dataset.reader import EpisodeDataset

_Key = tuple[int, str, int]  # episode, camera, first row of the segment


@dataclass
class _Decoded:
    pictures: Pictures
    uses: Counter[int] | None  # how often each frame is still needed; None: kept


class DecodedFrames:
    """Frames of one dataset; for one process."""

    def __init__(self, ticks: Sequence[int], limit_bytes: int, *, keeps_episodes: bool) -> None:
        """Prepare.

        Args:
            ticks: rows whose images a sample has, relative to its own.
            limit_bytes: of frames; what was not used for longest is forgotten first, and decoded again if needed.
            keeps_episodes: keep whole episodes instead of segments.
        """
        self.keeps_episodes = keeps_episodes
        self.num_bytes = 0
        self.num_decoded = 0  # frames so far
        self._ticks = tuple(ticks)
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[_Key, _Decoded] = OrderedDict()

    def images(
        self, dataset: EpisodeDataset, episode: int, key: str, rows: Sequence[int], segment: Sequence[int]
    ) -> np.ndarray:
        """Return the images of a camera at `rows`, `(T, H, W, 3)` uint8 RGB; rows outside the episode are clamped.

        Args:
            dataset: of the episode.
            episode: its index.
            key: of the camera.
            rows: of one sample.
            segment: rows of the samples of its segment; not used if episodes are kept.

        Raises:
            DatasetError: as `EpisodeDataset.images`.
        """
        span = dataset.video_span(episode, key)
        place = (episode, key, -1 if self.keeps_episodes else segment[0])
        found = self._kept.get(place)
        if found is None:
            found = self._kept[place] = self._decode(dataset, episode, key, segment, span.count)
        self._kept.move_to_end(place)
        wanted = [span.first + int(row) for row in np.clip(rows, 0, span.count - 1)]
        if any(frame not in found.pictures for frame in wanted):  # its samples were made before
            return dataset.images(episode, key, rows)
        images = np.stack([found.pictures.image(frame) for frame in wanted])
        self._forget(place, found, wanted)
        return images

    def __getstate__(self) -> dict[str, Any]:
        # frames stay in the process that decoded them
        return {**self.__dict__, "_kept": OrderedDict(), "num_bytes": 0, "num_decoded": 0}

    def _decode(self, dataset: EpisodeDataset, episode: int, key: str, segment: Sequence[int], count: int) -> _Decoded:
        first = dataset.video_span(episode, key).first
        if self.keeps_episodes:
            uses, frames = None, list(range(first, first + count))
        else:
            uses = Counter(first + min(max(row + tick, 0), count - 1) for row in segment for tick in self._ticks)
            frames = sorted(uses)
        pictures = dataset.decode(episode, key, frames)
        self.num_decoded += len(frames)
        self.num_bytes += pictures.num_bytes
        while self.num_bytes > self._limit_bytes and self._kept:
            self.num_bytes -= self._kept.popitem(last=False)[1].pictures.num_bytes
        return _Decoded(pictures, uses)

    def _forget(self, place: _Key, decoded: _Decoded, frames: Sequence[int]) -> None:
        """Count a use of each frame, and forget those that are not needed any more."""
        if decoded.uses is None:
            return
        for frame in frames:
            decoded.uses[frame] -= 1
            if not decoded.uses[frame]:
                self.num_bytes -= decoded.pictures.drop(frame)
        if not len(decoded.pictures):
            del self._kept[place]
