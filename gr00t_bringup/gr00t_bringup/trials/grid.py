# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Videos of trials: one small one each, and all of them side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gr00t_bringup.trials.table import Trial
from gr00t_training.dataset.media.video import VideoReader, VideoSettings, VideoWriter

FPS = 10
HEIGHT, WIDTH = 120, 160  # of one trial
BORDER = 4
MAX_TRIALS = 36
GREEN, RED, BACKGROUND = (40, 170, 80), (200, 50, 50), (24, 24, 24)


def write_video(path: Path, images: Sequence[np.ndarray]) -> None:
    """Write the `(H, W, 3)` uint8 RGB images of a trial, made small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, HEIGHT, WIDTH, FPS, VideoSettings(gop=FPS))
    try:
        for image in images:
            writer.add(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    finally:
        writer.close()


def write_grid(path: Path, shown: Sequence[tuple[Trial, Path]]) -> int:
    """Write a video with trials side by side, failed ones first; return how many it shows.

    Args:
        path: of the video.
        shown: trials with their videos; those without one are left out, and so are those beyond `MAX_TRIALS`.
    """
    chosen = sorted((each for each in shown if each[1].is_file()), key=lambda each: each[0].success)[:MAX_TRIALS]
    if not chosen:
        return 0
    videos = [_framed(trial, video) for trial, video in chosen]
    columns = math.ceil(math.sqrt(len(videos)))
    rows = math.ceil(len(videos) / columns)
    height, width = videos[0][0].shape[:2]
    writer = VideoWriter(path, rows * height, columns * width, FPS, VideoSettings(gop=FPS))
    try:
        for number in range(max(map(len, videos))):
            picture = np.full((rows * height, columns * width, 3), BACKGROUND, np.uint8)
            for place, images in enumerate(videos):
                row, column = divmod(place, columns)
                image = images[min(number, len(images) - 1)]  # the end stays
                picture[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
            writer.add(picture)
    finally:
        writer.close()
    return len(videos)


def _framed(trial: Trial, path: Path) -> np.ndarray:
    """Return the images of a trial in the color of its end, `(N, H, W, 3)`."""
    reader = VideoReader(path)
    try:
        images = reader.read(range(reader.num_frames))
    finally:
        reader.close()
    framed = np.full(
        (len(images), HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER, 3), GREEN if trial.success else RED, np.uint8
    )
    framed[:, BORDER:-BORDER, BORDER:-BORDER] = images
    for image in framed:
        place = (BORDER + 3, HEIGHT + BORDER - 4)
        cv2.putText(image, str(trial.spec.seed), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (235, 235, 235), 1, cv2.LINE_AA)
    return framed
