# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of the images of v2.1's episodes; they also show when videos were exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset.media.video import VideoCache
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.tools.edit.statistics import describe_frames
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.validate.statistics import IMAGE_TOLERANCE
from gr00t_training.dataset.tools.validate.videos import VideoFacts
from gr00t_training.errors import DatasetError


@dataclass(frozen=True)
class _Images:
    """One video with what is stored of it."""

    name: str
    facts: VideoFacts
    stored: Any
    count: int  # frames that the episode has of the file


class DescribedImages:
    """Gathers the videos of all episodes, then describes their images."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan = plan
        self._root = root
        self._images: dict[tuple[int, str], _Images] = {}
        self._exchanged: set[tuple[int, str]] = set()

    def add(self, episode: int, camera: str, name: str, facts: VideoFacts, stored: Any, count: int) -> None:
        """Add the video `name` with its stored statistics."""
        self._images[episode, camera] = _Images(name, facts, stored, count)

    def find_exchanged(self) -> None:
        """Refuse two videos if the stored statistics of one fit the other and neither fits its own."""
        odd = {key: images for key, images in self._images.items() if _is_odd(images)}
        for key, images in odd.items():
            others = [other.name for other_key, other in odd.items() if other_key != key and _fits(images, other)]
            if others:
                text = f"its statistics are not those of its pictures, but those of {others[0]}; were they exchanged?"
                self._plan.refuse(images.name, text)
                self._exchanged.add(key)

    def describe(self, episode: int, camera: str) -> Any:
        """Return the statistics of an episode's images: the stored ones as long as they can be right."""
        key = episode, camera
        images = self._images[key]
        if key in self._exchanged or (_has_form(images.stored) and (not _is_readable(images) or _fits(images, images))):
            return images.stored
        try:
            with VideoCache() as videos:
                return describe_frames(Span(self._root / images.name, 0, images.count), videos, quantiles=False)
        except DatasetError:  # does not decode: validate names it
            return images.stored or {}


def _has_form(stored: Any) -> bool:
    names = ("min", "max", "mean", "std")
    return isinstance(stored, dict) and all(np.shape(stored.get(name, [])) == (3, 1, 1) for name in names)


def _is_readable(images: _Images) -> bool:
    """Whether all frames were decoded, so that stored statistics can be compared with them."""
    return _has_form(images.stored) and len(images.facts.mean_rgb) > 0 and bool(images.facts.is_decoded.all())


def _is_odd(images: _Images) -> bool:
    return _is_readable(images) and not _fits(images, images)


def _fits(described: _Images, video: _Images) -> bool:
    means = video.facts.mean_rgb[: video.count]
    if not len(means) or not _has_form(described.stored):
        return False
    return bool((np.abs(np.ravel(described.stored["mean"]) - means.mean(axis=0)) <= IMAGE_TOLERANCE).all())
