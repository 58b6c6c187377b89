# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Predict a full disk: compare free space with a reserve and the bytes per second of a recording."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gr00t_training.embodiment import Embodiment

# H.264 at the default quality takes 0.01 to 0.2 bytes per pixel of camera images; the first estimate is rather too high
GUESSED_BYTES_PER_PIXEL = 0.2
BYTES_PER_VALUE = 4
ENDING_S = 3.0  # recording continues for this long between the decision to stop and the last byte of the episode
MEDIA_FOLDERS = ("data", "videos")
MIN_MEASURED_S = 10.0  # shorter recordings consist of file headers
MIN_RUNNING_S = 20.0  # an encoder holds a second or two back


class DiskBudget:
    """Room for recordings on the disk of a dataset."""

    def __init__(
        self,
        path: Path,
        embodiment: Embodiment,
        *,
        reserve_bytes: int,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        """Estimate the bytes per second from the embodiment; `measure` replaces the estimate."""
        self.path = path
        self.reserve_bytes = reserve_bytes
        pixels = sum(video.height * video.width for video in embodiment.video.values())
        values = sum(key.dim for keys in (embodiment.state, embodiment.action) for key in keys.values())
        self.bytes_per_s = embodiment.fps * (pixels * GUESSED_BYTES_PER_PIXEL + values * BYTES_PER_VALUE)
        self.source = "guessed from the image sizes"
        self._fps = embodiment.fps
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(path).free)
        self._measured_frames = 0
        self._running_s = 0.0  # of a running episode, when it was measured

    @property
    def free_bytes(self) -> int:
        """Free space at present; 0 when it cannot be read, for example when the folder was removed."""
        try:
            return self._free_bytes()
        except OSError:
            return 0

    def measure(self, num_frames: int) -> None:
        """Measure the bytes per second of the `num_frames` rows of the dataset, again when their number has doubled."""
        seconds = num_frames / self._fps
        if seconds < MIN_MEASURED_S or num_frames < 2 * self._measured_frames:
            return
        self._measured_frames = num_frames
        self.bytes_per_s = sum(folder_bytes(self.path / name) for name in MEDIA_FOLDERS) / seconds
        self.source = f"measured on {seconds:.0f} s of earlier episodes"

    def measure_running(self, folder: Path, num_frames: int) -> None:
        """Measure the files of a running episode with `num_frames` rows, as long as no other is saved."""
        seconds = num_frames / self._fps
        if self._measured_frames or seconds < max(MIN_RUNNING_S, 2 * self._running_s):
            return
        self._running_s = seconds
        self.bytes_per_s = folder_bytes(folder) / seconds
        self.source = f"measured on {seconds:.0f} s of the running episode"

    def left_s(self, extra_bytes_per_s: float = 0.0) -> float:
        """Return how many seconds fit above the reserve; `extra_bytes_per_s` are written in addition to the dataset."""
        rate = self.bytes_per_s + extra_bytes_per_s
        room = self.free_bytes - self.reserve_bytes
        return max(room, 0) / rate if rate else math.inf

    def refusal(self, seconds: float, extra_bytes_per_s: float = 0.0) -> str:
        """Return why an episode of `seconds` should not be started; empty if it may."""
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
            extra_bytes_per_s: written in addition to the dataset.
        """
        needed = self.bytes_per_s * (waiting_s + ENDING_S) + extra_bytes_per_s * ENDING_S
        return self.free_bytes < self.reserve_bytes + needed

    def has_room(self, num_bytes: int) -> bool:
        """Whether that many bytes may be written for some time without touching the reserve."""
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
            continue  # moved meanwhile, or never created
    return total
