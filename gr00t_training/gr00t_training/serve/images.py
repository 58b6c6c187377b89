# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera images as JPEG or PNG files, for networks that are too slow for raw images. OpenCV is imported when used."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from gr00t_training.errors import ConfigError, ServerError
from gr00t_training.io.image_header import read_header
from gr00t_training.serve.wire import EncodedImages

MAX_JPEG_SCANS = 64  # progressive files have about 10
_JPEG_SCAN = b"\xff\xda"
JPEG_QUALITY = 95  # errors of a few gray levels; a 640x480 image has 50 to 150 kB instead of 920


class ImageForm(str, Enum):
    """Format in which a client sends images."""

    RAW = "raw"
    JPEG = "jpeg"  # small, not exact
    PNG = "png"  # exact, slow


def encode_images(images: np.ndarray, form: ImageForm) -> np.ndarray | EncodedImages:
    """Return images `(..., H, W, 3)` uint8 RGB in the format in which they are sent.

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

    Kind and size of every file are checked before the first is decoded.

    Raises:
        ServerError: a file is not a JPEG or PNG, or has another size than announced.
        ConfigError: OpenCV is not installed.
    """
    shape = encoded.shape[-3:]
    for i, file in enumerate(encoded.files):
        _check_file(file, shape, f"{subject}: file {i}")
    cv2 = _opencv()
    images = []
    for i, file in enumerate(encoded.files):
        try:
            image = _decode(cv2, np.frombuffer(file, np.uint8))
        except cv2.error as error:  # its own limits of size
            raise ServerError(f"{subject}: file {i} is not an image ({error.err}); send JPEG or PNG") from error
        if image is None or image.shape != shape:
            found = "not a JPEG or PNG that can be decoded" if image is None else f"an image of shape {image.shape}"
            raise ServerError(f"{subject}: file {i} is {found}, expected shape {shape}")
        images.append(image)
    return (images[0] if len(images) == 1 else np.array(images, np.uint8)).reshape(encoded.shape)  # one needs no copy


def _decode(cv2: Any, file: np.ndarray) -> np.ndarray | None:
    """Return the RGB image of a file; None: it cannot be decoded."""
    in_rgb = getattr(cv2, "IMREAD_COLOR_RGB", None)  # from OpenCV 4.11 on
    if in_rgb is not None:
        return cv2.imdecode(file, in_rgb)
    image = cv2.imdecode(file, cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_file(file: bytes | memoryview, shape: tuple[int, ...], subject: str) -> None:
    try:
        header = read_header(file)
    except ValueError as error:
        raise ServerError(f"{subject} is not a readable JPEG or PNG ({error}); send JPEG or PNG") from error
    found = (header.height, header.width, 3)
    if found != shape:
        raise ServerError(f"{subject} is an image of shape {found}, expected shape {shape}")
    # the marker cannot occur in the coded data; each scan goes over the whole image
    num_scans = bytes(file).count(_JPEG_SCAN) if header.kind == "jpeg" else 0
    if num_scans > MAX_JPEG_SCANS:
        raise ServerError(f"{subject} has {num_scans} scans (limit {MAX_JPEG_SCANS}); send a plain JPEG")


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(f"JPEG and PNG images need OpenCV ({error}); install opencv-python-headless") from error
    return cv2
