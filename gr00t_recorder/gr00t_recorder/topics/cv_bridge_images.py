# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decode image encodings that our table does not have with cv_bridge, where ROS provides it.

cv_bridge is optional: our own decoding needs neither ROS nor a matching NumPy, and both are compared by a test where
cv_bridge is installed.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from gr00t_training.errors import ObservationError
from gr00t_training.io.text import one_line, printable

logger = logging.getLogger(__name__)

Decoder = Callable[[Any], np.ndarray]  # sensor_msgs/msg/Image -> (H, W, 3) uint8 RGB
MISSING = "cv_bridge would decode others, install it (ros-<distribution>-cv-bridge)"


@functools.cache
def cv_bridge_decoder() -> Decoder | None:
    """Return cv_bridge's decoder to RGB, None where cv_bridge is not installed or cannot be loaded."""
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except ModuleNotFoundError:
        return None
    except Exception as error:  # built for another NumPy, or another module of that name
        logger.warning("cv_bridge cannot be loaded (%s); image encodings of our own table only", one_line(error))
        return None
    return lambda message: bridge.imgmsg_to_cv2(message, desired_encoding="rgb8")


def decode_other(message: Any, decoder: Decoder | None) -> np.ndarray:
    """Decode an image with `decoder`.

    Raises:
        ObservationError: there is none, it does not know the encoding either, or it returns no RGB image.
    """
    subject = f"image encoding '{printable(message.encoding)}'"
    if decoder is None:
        raise ObservationError(f"{subject} is not supported; {MISSING}")
    try:
        pixels = np.asarray(decoder(message))
    except Exception as error:  # CvBridgeError, and what OpenCV and NumPy raise for damaged data
        raise ObservationError(f"{subject} cannot be decoded by cv_bridge: {printable(one_line(error))}") from error
    if pixels.shape != (message.height, message.width, 3) or pixels.dtype != np.uint8:
        raise ObservationError(
            f"{subject}: cv_bridge gives {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape "
            f"({message.height}, {message.width}, 3)"
        )
    return pixels
