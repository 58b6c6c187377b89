# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Know that the disk will be full before it is: free space against a reserve and what a recording takes per second."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gr00t_training.embodiment import Embodiment

# H.264 at the default quality takes 0.01 to 0.2 bytes per pixel of camera images; a first guess had better be too high
GUESSED_BYTES_PER_PIXEL = 0.2
BYTES_PER_VALUE = 4
ENDING_S = 3.0  # recording goes on for so long between the decision to stop and the last byte of the episode
MEDIA_FOLDERS = ("data", "videos")
MIN_MEASURED_S = 10.0  # shorter recordings consist of file headers


class DiskBudget:
    """What a dataset's disk still has room for."""

    def __init__(
        self,
        path: Path,
        embodiment: Embodiment,
        *,
        reserve_bytes: int,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        """Guess the bytes per second of an episode from the embodiment; `measure` replaces the guess."""
        self.path = path
        self.reserve_bytes = reserve_bytes
        pixels = sum(video.height * video.width for video in embodiment.video.values())
        values = sum(key.dim for keys in (embodiment.state, embodiment.action) for key in keys.values())
        self.bytes_per_s = embodiment.fps * (pixels * GUESSED_BYTES_PER_PIXEL + values * BYTES_PER_VALUE)
        self.source = "guessed from the image sizes"
        self._fps = embodiment.fps
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(path).free)
        self._measured_frames = 0

    @property
    def free_bytes(self) -> int:
        """Free space at present."""
        return self._free_bytes()

    def measure(self, num_frames: int) -> None:
        """Learn the bytes per second from the `num_frames` rows that the dataset holds; again once it has doubled."""
        seconds = num_frames / self._fps
        if seconds < MIN_MEASURED_S or num_frames < 2 * self._measured_frames:
            return
        self._measured_frames = num_frames
        self.bytes_per_s = sum(folder_bytes(self.path / name) for name in MEDIA_FOLDERS) / seconds
        self.source = f"measured on {seconds:.0f} s of earlier episodes"

    def left_s(self, extra_bytes_per_s: float = 0.0) -> float:
        """Return how many seconds fit above the reserve; `extra_bytes_per_s` are written beside the dataset."""
        rate = self.bytes_per_s + extra_bytes_per_s
        room = self.free_bytes - self.reserve_bytes
        return max(room, 0) / rate if rate else math.inf

    def refusal(self, seconds: float, extra_bytes_per_s: float = 0.0) -> str:
        """Return why an episode of `seconds` should not be started; empty when it may."""
        free, rate = self.free_bytes, self.bytes_per_s + extra_bytes_per_s
        wanted = self.reserve_bytes + rate * seconds
        if free >= wanted:
            return ""
        return (
            f"{free / 1e9:.1f} GB free at {self.path}, {wanted / 1e9:.4g} wanted: a reserve of "
            f"{self.reserve_bytes / 1e9:g} and {seconds:g} s at {rate / 1e6:.1f} MB/s ({self.source}); make room, or "
            "lower 'min_free_disk_gb' or 'min_episode_s'"
        )

    def is_ending(self, waiting_s: float = 0.0, extra_bytes_per_s: float = 0.0) -> bool:
        """Whether a running episode must stop now so that it is saved before the reserve is touched.

        Args:
            waiting_s: length of what is recorded but not encoded yet.
            extra_bytes_per_s: written beside the dataset.
        """
        needed = self.bytes_per_s * (waiting_s + ENDING_S) + extra_bytes_per_s * ENDING_S
        return self.free_bytes < self.reserve_bytes + needed

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes may be written for a while without touching the reserve."""
        return self.free_bytes - num_bytes > self.reserve_bytes + self.bytes_per_s * ENDING_S


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; 0 when there is none."""
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue  # moved away meanwhile, or never made
    return total
