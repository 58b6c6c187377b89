# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Giving memory back that the C library keeps."""

from __future__ import annotations

import ctypes

TRIM_BYTES = 256 << 20


class HeapTrimmer:
    """Gives memory back that glibc keeps: images freed between the encoder's blocks pile up to gigabytes else.

    Measured with two cameras 640x480: without it up to 0.9 MB a row, with it nothing, for no time worth naming.
    """

    def __init__(self) -> None:
        self._num_bytes = 0
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError):  # another C library
            self._trim = None

    def count(self, num_bytes: int) -> None:
        """Note images that were made and freed; trim when they are many."""
        self._num_bytes += num_bytes
        if self._trim is not None and self._num_bytes > TRIM_BYTES:
            self._num_bytes = 0
            self._trim(0)
