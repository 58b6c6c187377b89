# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Image resizes that the releases use, each twice: with its library on the CPU, and in tensor operations on any device.

A gray level more or less in a resize is enough to change an action, so the second form repeats the arithmetic of the
library: the same weights, the same intermediate rounding and, where floats are added, the same order. It makes no
decision from values and waits for nothing, so it can be captured in a CUDA graph. Every pass gathers all taps of an
axis at once, since a launch costs more than the little memory.

Letters in shapes: N images of one size, H and W their size, n places of a resized axis, K taps of each place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Size = tuple[int, int]  # height and width [px]
Resize = Callable[[Tensor], Tensor]  # (N, H, W, 3) to another size

ROWS, COLUMNS = 1, 2  # axes of (N, H, W, 3)
PILLOW_BITS = 22  # fraction of Pillow's weights for 8-bit images
OPENCV_BITS = 11  # fraction of OpenCV's weights for 8-bit bilinear resizes
# torch's float kernel rounds this many products at a time before it adds them and fuses the rest; found by trying on
# x86-64
_PLAIN_GROUP = 4


@dataclass(frozen=True)
class Taps:
    """For each place of a resized axis, the source places and their weights; short rows end with weight 0."""

    index: Tensor  # (n, K) int64
    weight: Tensor  # (n, K)

    def to(self, device: torch.device) -> Taps:
        """Return the same taps on a device."""
        return Taps(self.index.to(device), self.weight.to(device))

    def products(self, x: Tensor, axis: int) -> Tensor:
        """Return source times weight, `(..., n, K, ...)` in the place of `axis`."""
        gathered = x.index_select(axis, self.index.flatten()).unflatten(axis, self.index.shape)
        return gathered * self.weight.view(*self.index.shape, *[1] * (x.ndim - axis - 1))


def _pad_taps(first: np.ndarray, count: np.ndarray, weight: np.ndarray, length: int) -> Taps:
    """Make taps from the first place `(n,)`, the number of places `(n,)` and weights `(n, >= K)` in a long row."""
    place = np.arange(max(int(count.max()), 1))
    index = np.minimum(first[:, None] + place, length - 1)
    weight = np.where(place < count[:, None], weight[:, : len(place)], 0)
    return Taps(torch.from_numpy(index), torch.from_numpy(weight))


# Antialiased kernels: a triangle or a cubic, stretched by the scale (torch and Pillow have the same formulas) ---------


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}


def _antialias_taps(
    source: int, target: int, mode: str, number: type[np.floating] = np.float64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first place, number of places and weights of an antialiased resize, computed in `number`'s precision."""
    kernel, reach = _KERNELS[mode]
    scale = number(source) / number(target)
    stretch = max(scale, number(1))
    support = number(reach * stretch)
    # float32 is widened where torch adds 0.5: that is a double in its source
    center = (np.float64(scale) * (np.arange(target) + 0.5)).astype(number)
    first = np.maximum(((center - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    longest = math.ceil(support) * 2 + 1
    last = np.minimum(((center + support).astype(np.float64) + 0.5).astype(np.int64), source)
    count = np.clip(last - first, 0, longest)
    place = np.arange(longest)
    offset = ((first[:, None] + place).astype(number) - center[:, None]).astype(np.float64) + 0.5
    weight = kernel((offset * np.float64(number(1) / stretch)).astype(number)).astype(number)
    weight[place >= count[:, None]] = 0
    total = np.zeros(target, number)
    for k in place:  # in order: the sum's rounding counts
        total += weight[:, k]
    return first, count, weight / total[:, None]


# Antialiased, in fixed point ------------------------------------------------------------------------------------------


def resize_antialiased(frames: Tensor, size: Size, mode: str) -> Tensor:
    """Resize `(N, 3, H, W)` uint8 with torch's antialiased kernel for bytes, as torchvision does on CPUs.

    Args:
        frames: on the CPU.
        size: of the result.
        mode: "bilinear" or "bicubic".
    """
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode=mode, antialias=True, align_corners=False)


def antialiased_on_device(source: Size, target: Size, mode: str, device: torch.device) -> Resize:
    """Return `resize_antialiased` for one size, `(N, H, W, 3)` uint8."""

    def taps(axis: int) -> tuple[Taps, int]:
        first, count, weight = _antialias_taps(source[axis], target[axis], mode)
        bits = 0  # as many as the largest weight leaves in 16 bits with sign
        while bits < 22 and int(0.5 + weight.max() * (1 << bits + 1)) < 1 << 15:
            bits += 1
        return _fixed_point_taps(first, count, weight, source[axis], bits), bits

    return _fixed_point_on_device(source, target, taps, device)


def resize_pillow(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize `(H, W, 3)` uint8 with Pillow's bicubic kernel, columns first.

    Asked for both at once, Pillow 13 takes the rows first where they become fewer and the columns more; the release
    is older.
    """
    from PIL import Image  # here: only N1.6 needs it

    if image.shape[:2] == size:
        return image
    wide = Image.fromarray(image).resize((size[1], image.shape[0]), Image.Resampling.BICUBIC)
    return np.array(wide.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def pillow_on_device(source: Size, target: Size, device: torch.device) -> Resize:
    """Return `resize_pillow` for one size, `(N, H, W, 3)` uint8."""

    def taps(axis: int) -> tuple[Taps, int]:
        first, count, weight = _antialias_taps(source[axis], target[axis], "bicubic")
        return _fixed_point_taps(first, count, weight, source[axis], PILLOW_BITS), PILLOW_BITS

    return _fixed_point_on_device(source, target, taps, device)


def _fixed_point_taps(first: np.ndarray, count: np.ndarray, weight: np.ndarray, length: int, bits: int) -> Taps:
    rounded = np.trunc(weight * (1 << bits) + np.copysign(0.5, weight))
    return _pad_taps(first, count, rounded.astype(np.int32), length)


def _fixed_point_on_device(
    source: Size, target: Size, taps: Callable[[int], tuple[Taps, int]], device: torch.device
) -> Resize:
    """Columns first, then rows; between them values are bytes again."""
    passes = [
        (axis, found.to(device), bits)
        for axis, place in ((COLUMNS, 1), (ROWS, 0))
        if source[place] != target[place]
        for found, bits in [taps(place)]
    ]

    def resize(x: Tensor) -> Tensor:
        for axis, found, bits in passes:
            total = found.products(x, axis).sum(axis + 1, dtype=torch.int32)  # integers: any order gives the same
            x = ((total + (1 << bits - 1)) >> bits).clamp(0, 255)
        return x.to(torch.uint8)

    return resize


# Antialiased, in floats -----------------------------------------------------------------------------------------------


def resize_smooth(frame: Tensor, size: Size) -> Tensor:
    """Resize `(N, 3, H, W)` float32 with torch's antialiased bilinear kernel; on the CPU."""
    return F.interpolate(frame, size, mode="bilinear", antialias=True, align_corners=False)


def smooth_on_device(source: Size, target: Size, device: torch.device) -> Resize:
    """Return `resize_smooth` for one size, `(N, H, W, 3)` float32.

    Equal to torch's on x86-64 CPUs; elsewhere `_PLAIN_GROUP` may differ and an image by one gray level.
    """
    passes = [
        (axis, taps.to(device), plain.to(device))
        for axis, place in ((COLUMNS, 1), (ROWS, 0))
        if source[place] != target[place]
        for taps, plain in [_smooth_taps(source[place], target[place])]
    ]

    def resize(x: Tensor) -> Tensor:
        for axis, taps, plain in passes:
            x = _add_in_order(x, taps, plain, axis)
        return x

    return resize


def _smooth_taps(source: int, target: int) -> tuple[Taps, Tensor]:
    """Return taps with float64 copies of float32 weights, and which products are rounded before they are added."""
    first, count, weight = _antialias_taps(source, target, "bilinear", np.float32)
    taps = _pad_taps(first, count, weight.astype(np.float64), source)
    place = torch.arange(taps.index.shape[1])
    whole_groups = torch.from_numpy((count - 1) // _PLAIN_GROUP * _PLAIN_GROUP)
    return taps, place <= whole_groups[:, None]


def _add_in_order(x: Tensor, taps: Taps, plain: Tensor, axis: int) -> Tensor:
    """Add products of float32 one after another, each sum rounded to float32.

    A product of two float32 numbers is exact in float64. Rounding it before the addition gives an ordinary
    multiplication and addition, not rounding it a fused one.
    """
    products = taps.products(x, axis)
    products = torch.where(plain.view(*plain.shape, *[1] * (x.ndim - axis - 1)), products.float(), products)
    first, *others = products.unbind(axis + 1)
    total = first.float()
    for product in others:
        total = (total + product).float()
    return total


# Area -----------------------------------------------------------------------------------------------------------------


def resize_area(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize `(H, W, 3)` uint8 with OpenCV's area interpolation."""
    import cv2  # here: only N1.6 and N1.7 need it

    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def area_on_device(source: Size, target: Size, device: torch.device) -> Resize:
    """Return `resize_area` for one size, `(N, H, W, 3)` uint8.

    OpenCV averages areas only where neither side grows; otherwise it interpolates between two places of each axis.
    """
    if source == target:
        return lambda x: x
    if target[0] > source[0] or target[1] > source[1]:
        return _blend_on_device(source, target, device)
    if source[0] % target[0] == 0 and source[1] % target[1] == 0:
        return _block_mean(source[0] // target[0], source[1] // target[1])
    passes = [(axis, _area_taps(source[place], target[place]).to(device)) for axis, place in ((COLUMNS, 1), (ROWS, 0))]

    def resize(x: Tensor) -> Tensor:
        for axis, taps in passes:
            x, *others = taps.products(x, axis).unbind(axis + 1)
            for product in others:  # floats: the order counts
                x = x + product
        return x.round().to(torch.uint8)

    return resize


def _block_mean(rows: int, columns: int) -> Resize:
    scale = float(np.float32(1 / (rows * columns)))

    def resize(x: Tensor) -> Tensor:
        blocks = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))  # (N, h, rows, w, columns, 3)
        total = blocks.sum((2, 4), dtype=torch.int32)
        if rows == columns == 2:  # OpenCV rounds half up here, elsewhere half to even
            return ((total + 2) >> 2).to(torch.uint8)
        return (total * scale).round().to(torch.uint8)

    return resize


def _area_taps(source: int, target: int) -> Taps:
    """Share of each source place in a target place; OpenCV leaves out shares of less than a thousandth."""
    scale = 1 / (target / source)
    first, count, weight = np.zeros(target, np.int64), np.zeros(target, np.int64), []
    for i in range(target):
        start, end = i * scale, i * scale + scale
        width = min(scale, source - start)
        stop = min(math.floor(end), source - 1)
        begin = min(math.ceil(start), stop)
        shares = [1 / width] * (stop - begin)
        if begin - start > 1e-3:
            shares.insert(0, (begin - start) / width)
            begin -= 1
        if end - stop > 1e-3:
            shares.append(min(end - stop, 1.0, width) / width)
        first[i], count[i] = begin, len(shares)
        weight.append(shares)
    longest = max(map(len, weight))
    padded = np.array([shares + [0.0] * (longest - len(shares)) for shares in weight], np.float32)
    return _pad_taps(first, count, padded, source)


def _blend_on_device(source: Size, target: Size, device: torch.device) -> Resize:
    """Between the passes four bits are dropped and at the end 16 and two, as OpenCV does for bytes."""
    columns, rows = _blend_taps(source[1], target[1]).to(device), _blend_taps(source[0], target[0]).to(device)

    def resize(x: Tensor) -> Tensor:
        x = columns.products(x, COLUMNS).sum(COLUMNS + 1, dtype=torch.int32)
        parts = rows.products(x >> 4, ROWS) >> 16
        return ((parts.sum(ROWS + 1, dtype=torch.int32) + 2) >> 2).to(torch.uint8)

    return resize


def _blend_taps(source: int, target: int) -> Taps:
    """Two neighbors and their weights; a pixel keeps its value over most of the area that it grew to."""
    grow = target / source
    scale = 1 / grow
    place = np.arange(target)
    first = np.floor(place * scale).astype(np.int64)
    share = (place + 1 - (first + 1) * grow).astype(np.float32)
    share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    share[first >= source - 1] = 0
    first = np.minimum(first, source - 1)
    weight = np.stack([1 - share, share], 1) * np.float32(1 << OPENCV_BITS)
    return _pad_taps(first, np.full(target, 2), np.rint(weight).astype(np.int32), source)
