# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera images as JPEG or PNG files, for links that are too narrow for raw images. Needs OpenCV, only when used."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import numpy as np

from gr00t_training.errors import ConfigError, ServerError
from gr00t_training.serve.wire import EncodedImages

JPEG_QUALITY = 95  # errors of a few grey levels; a 640x480 image has 50 to 150 kB instead of 920


class ImageForm(str, Enum):
    """How a client sends images."""

    RAW = "raw"
    JPEG = "jpeg"  # small, not exact
    PNG = "png"  # exact, slow


def encode_images(images: np.ndarray, form: ImageForm) -> np.ndarray | EncodedImages:
    """Return images `(..., H, W, 3)` uint8 RGB in the form in which they are sent.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    if form is ImageForm.RAW:
        return images
    cv2 = _opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if form is ImageForm.JPEG else []
    files = []
    for image in images.reshape(-1, *images.shape[-3:]):
        is_done, file = cv2.imencode(f".{form.value}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        if not is_done:
            raise ServerError(f"image of shape {image.shape}: cannot be written as {form.value}; send raw images")
        files.append(file.tobytes())
    return EncodedImages(images.shape, tuple(files))


def decode_images(encoded: EncodedImages, subject: str) -> np.ndarray:
    """Return the images, `encoded.shape` uint8 RGB; `subject` names them in errors.

    Raises:
        ServerError: a file is no image, or has another size than announced.
        ConfigError: OpenCV is not installed.
    """
    cv2 = _opencv()
    images = np.empty((math.prod(encoded.shape[:-3]), *encoded.shape[-3:]), np.uint8)
    for i, file in enumerate(encoded.files):
        try:
            image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:  # of an empty file, or of a size beyond its limits
            raise ServerError(f"{subject}: file {i} is no image ({error.err}); send JPEG or PNG") from error
        if image is None or image.shape != images.shape[1:]:
            found = "no JPEG or PNG" if image is None else f"an image of shape {image.shape}"
            raise ServerError(f"{subject}: file {i} is {found}, expected shape {images.shape[1:]}")
        images[i] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return images.reshape(encoded.shape)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(f"JPEG and PNG images need OpenCV ({error}); install opencv-python-headless") from error
    return cv2
