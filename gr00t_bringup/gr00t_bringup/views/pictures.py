# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Small JPEG pictures of what cameras send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE
from gr00t_recorder.topics.images import decode_compressed, decode_raw

QUALITY = 70  # percent


def preview(message: Any, message_type: str, width: int, levels: Sequence[float] = ()) -> bytes:
    """Return a JPEG of an image message, at most `width` pixels wide.

    Raises:
        ObservationError: it cannot be decoded.
    """
    image = (decode_compressed if message_type == COMPRESSED_IMAGE_TYPE else decode_raw)(message, levels)
    return jpeg(image, width)


def jpeg(image: np.ndarray, width: int) -> bytes:
    """Return a JPEG of an image `(H, W, 3)` uint8 RGB, at most `width` pixels wide."""
    if image.shape[1] > width:
        height = max(round(image.shape[0] * width / image.shape[1]), 1)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return coded.tobytes()
