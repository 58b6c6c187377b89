# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a fake camera: its name, one bar per joint, and a mark that moves, so that a frozen picture is seen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

COLORS = ((38, 70, 83), (42, 107, 98), (122, 84, 42), (110, 52, 62))  # by camera, dark
BAR, MARK, TEXT = (233, 196, 106), (244, 162, 97), (240, 240, 240)
MARK_PERIOD_S = 2.0


class Picture:
    """The pictures of one camera."""

    def __init__(self, name: str, number: int, height: int, width: int) -> None:
        """Draw what stays: the background, in a color of the camera's number, and its name."""
        self._size = height, width
        self._base = np.full((height, width, 3), COLORS[number % len(COLORS)], np.uint8)
        scale = height / 400
        place = (round(0.04 * width), round(0.95 * height))
        cv2.putText(
            self._base, name, place, cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT, max(1, round(2 * scale)), cv2.LINE_AA
        )

    def draw(self, fractions: Sequence[float], seconds: float) -> np.ndarray:
        """Return the picture (H, W, 3) uint8 RGB of joints between their limits (0 to 1) at a time."""
        height, width = self._size
        image = self._base.copy()
        top, bottom = round(0.2 * height), round(0.8 * height)
        step = 0.92 * width / max(len(fractions), 1)
        for i, fraction in enumerate(fractions):
            left = round(0.04 * width + i * step)
            level = bottom - round(min(max(fraction, 0.0), 1.0) * (bottom - top))
            image[level : bottom + 2, left : left + max(2, round(0.7 * step))] = BAR
        side = max(2, height // 16)
        at = round((seconds / MARK_PERIOD_S % 1.0) * (width - side))
        image[side : 2 * side, at : at + side] = MARK
        return image
