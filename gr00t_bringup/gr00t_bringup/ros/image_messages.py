# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Image messages of pictures that this package renders or draws."""

from __future__ import annotations

import array

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image


def raw_image(pixels: np.ndarray) -> Image:
    """Return the message of a picture (H, W, 3) uint8 RGB, without a header."""
    height, width, channels = pixels.shape
    return Image(height=height, width=width, encoding="rgb8", step=width * channels, data=_bytes(pixels))


def jpeg_image(pixels: np.ndarray, quality: int) -> CompressedImage:
    """Return the JPEG message of a picture (H, W, 3) uint8 RGB, without a header; quality from 1 to 100."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(format="rgb8; jpeg compressed bgr8", data=_bytes(encoded))


def _bytes(values: np.ndarray) -> array.array:
    # the one type that a uint8[] field takes without converting element by element
    data = array.array("B")
    data.frombytes(values.tobytes())
    return data
