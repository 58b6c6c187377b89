# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn the image messages of one camera or depth camera into arrays of the embodiment's size."""

from __future__ import annotations

from collections import deque
from typing import Any

import cv2
import numpy as np

from gr00t_recorder.topics.bindings import DepthBinding, VideoBinding
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, IMAGE_TYPES
from gr00t_recorder.topics.images import (
    check_compressed,
    check_measured,
    check_raw,
    decode_compressed,
    decode_measured,
    decode_raw,
)
from gr00t_training.embodiment import DepthKey, VideoKey
from gr00t_training.errors import ConfigError, ObservationError

MAX_COUNT = 65535  # of 16 bits


class ImageCodec:
    """Turns image messages of one camera into `(H, W, 3)` uint8 RGB."""

    _interpolation = cv2.INTER_AREA

    def __init__(
        self,
        subject: str,
        message_type: str,
        binding: VideoBinding | DepthBinding,
        size: VideoKey | DepthKey,
        *,
        num_kept: int = 1,
    ) -> None:
        """Choose the decoder; the last `num_kept` images are kept. ConfigError for a type that is not an image."""
        if message_type not in IMAGE_TYPES:
            raise ConfigError(f"{subject}: type {message_type} is not an image; expected {' or '.join(IMAGE_TYPES)}")
        self._is_compressed = message_type == COMPRESSED_IMAGE_TYPE
        self._resize = binding.resize
        self._levels = binding.levels if isinstance(binding, VideoBinding) else ()
        self._size = (size.height, size.width)
        self._kept: deque[tuple[Any, np.ndarray]] = deque(maxlen=num_kept)  # held images are not decoded again

    def check(self, message: Any) -> None:
        """Refuse what can be seen without decoding; ObservationError gives the reason."""
        self._check_form(message)
        if not self._is_compressed:
            self._check_size(message.height, message.width)

    def decode(self, message: Any) -> np.ndarray:
        """Return the image, contiguous; callers share it and must not write to it.

        Raises:
            ObservationError: damaged, unsupported encoding, or another size than the embodiment's.
        """
        for held, image in tuple(self._kept):
            if held is message:
                return image
        image = self._pixels(message)
        self._check_size(*image.shape[:2])
        if image.shape[:2] != self._size:
            image = cv2.resize(image, self._size[::-1], interpolation=self._interpolation)
        image = np.ascontiguousarray(image)
        self._kept.append((message, image))
        return image

    def _check_form(self, message: Any) -> None:
        (check_compressed if self._is_compressed else check_raw)(message, self._levels)

    def _pixels(self, message: Any) -> np.ndarray:
        return (decode_compressed if self._is_compressed else decode_raw)(message, self._levels)

    def _check_size(self, height: int, width: int) -> None:
        if not self._resize and (height, width) != self._size:
            raise ObservationError(
                f"image is {width}x{height}, the embodiment expects {self._size[1]}x{self._size[0]}; "
                "set 'resize: true' in the topic map or correct the embodiment"
            )


class DepthCodec(ImageCodec):
    """Turns depth images into `(H, W)` uint16 counts of the key's unit; 0 means no measurement.

    NaN, infinity, negative values and values above 65535 counts also mean no measurement.
    """

    _interpolation = cv2.INTER_NEAREST_EXACT  # a mean of near and far would be a place where nothing is

    def __init__(
        self, subject: str, message_type: str, binding: DepthBinding, depth: DepthKey, *, num_kept: int = 1
    ) -> None:
        """Choose the decoder; ConfigError for a type that is not an image."""
        super().__init__(subject, message_type, binding, depth, num_kept=num_kept)
        self._count_m, self._unit_m = binding.unit_m, depth.unit_m

    def _check_form(self, message: Any) -> None:
        check_measured(message)

    def _pixels(self, message: Any) -> np.ndarray:
        measured = decode_measured(message)
        if measured.dtype == np.uint16:
            if self._count_m == self._unit_m:
                return measured
            measured = measured * np.float64(self._count_m)
        with np.errstate(invalid="ignore", over="ignore"):
            counts = np.rint(measured.astype(np.float64) / self._unit_m)
            return np.where((counts > 0) & (counts <= MAX_COUNT), counts, 0).astype(np.uint16)
