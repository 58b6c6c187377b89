# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Arrays on disk, mapped into memory without an open file for each: a cache has thousands of them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

HEADER_BYTES = 128  # of an array's file, of ours


def write_header(file: BinaryIO, descr: str, shape: tuple[int, ...]) -> None:
    """Write what comes before the values of an array in a file."""
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def map_array(path: Path) -> np.ndarray:
    """Return the array of a file, whose values are read when they are used.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged.
    """
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    if size != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path}: has {size} bytes, not those of {shape} values")
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)  # numpy would keep the file open
    return mapped.numpy()[start:].view(dtype).reshape(shape)
