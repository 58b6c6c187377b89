# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The random changes of `augmentation.py` for many images at once, each with its own draw, on any device.

The order of the color steps differs between images, so each of the four passes computes every step and takes that of
the image. No decision is made from values and nothing waits for the device: it can be captured in a CUDA graph. The
draws are those of the CPU, and so are the images, within a gray level except for less than one value in a hundred:
sums are added in another order, and OpenCV rounds the last columns of an image otherwise than the others.

Letters in shapes: N images of one size, H and W their size, S color steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gr00t_training.transforms.augmentation import HUES, JITTER, ImageDraw, adjust_hue, gray_of
from gr00t_training.transforms.resampling import Size

DrawnTransform = Callable[[Tensor, Tensor], Tensor]  # images (N, H, W, 3) uint8 and their draws

_STEPS = tuple(JITTER)  # numbered in this order
_BRIGHTNESS, _CONTRAST, _HUE = (_STEPS.index(name) for name in ("brightness", "contrast", "hue"))
# OpenCV's integer arithmetic of bytes
_GRAY_BITS = 15
_GRAY_SHARES = (9798, 19235, 3735)
_HSV_BITS = 12
# where red, green and blue are among the levels of each sixth of a turn
_SECTORS = ((0, 3, 1), (2, 0, 1), (1, 0, 3), (1, 2, 0), (3, 1, 0), (0, 1, 2))


def draw_numbers(draw: ImageDraw) -> Tensor:
    """Return a draw as `(2 + 2 S,)` float64: place of the crop, color steps in order, their shares."""
    steps, shares = [_STEPS.index(name) for name, _ in draw.jitter], [share for _, share in draw.jitter]
    return torch.tensor([draw.top, draw.left, *steps, *shares], dtype=torch.float64)


def crop_at(images: Tensor, draws: Tensor, size: Size) -> Tensor:
    """Cut `(N, h, w, 3)` of the given size out of `(N, H, W, 3)` uint8, each at the place of its draw."""
    rest = [whole - part for whole, part in zip(images.shape[1:3], size, strict=True)]
    rows, columns = (
        (draws[:, i, None] * (rest[i] + 1)).long() + torch.arange(size[i], device=images.device) for i in (0, 1)
    )
    number = torch.arange(len(images), device=images.device)[:, None, None]
    return images[number, rows[:, :, None], columns[:, None]]


class ColorJitter:
    """The color steps of one family; its tables are on the device before a graph is captured."""

    def __init__(self, half_ranges: Mapping[str, float], device: torch.device) -> None:
        """Prepare; `half_ranges`: see `jitter_factors`."""
        half = torch.tensor([half_ranges.get(name, 0.0) for name in _STEPS], dtype=torch.float64)
        low, high = (1 - half).clamp(min=0), 1 + half
        low[_HUE], high[_HUE] = -half[_HUE], half[_HUE]
        self._low, self._range, self._is_used = low.to(device), (high - low).to(device), (half > 0).to(device)
        self._levels = torch.arange(256, dtype=torch.float64).to(device)
        count = torch.arange(256).double().clamp(min=1)
        self._hue_shares = ((HUES << _HSV_BITS) / (6 * count)).round().int().to(device)
        self._saturation_shares = ((255 << _HSV_BITS) / count).round().int().to(device)
        self._sectors = torch.tensor(_SECTORS).to(device)

    def floats(self, frames: Tensor, draws: Tensor) -> Tensor:
        """Change the colors of `(N, 3, H, W)` in [0, 1] (N1, N1.5); `draws`: `(N, 2 + 2 S)`."""
        for kind, factor, is_used in self._passes(draws, 4):
            gray, factor = gray_of(frames), factor.to(frames.dtype)
            mean = gray.mean((-2, -1), keepdim=True)
            # brightness, contrast and saturation blend with black, the mean gray and the gray image
            base = torch.where(kind == _BRIGHTNESS, torch.zeros_like(mean), torch.where(kind == _CONTRAST, mean, gray))
            blended = (base + (frames - base) * factor).clamp(0, 1)
            changed = torch.where(kind == _HUE, adjust_hue(frames, factor[:, 0]), blended)
            frames = torch.where(is_used, changed, frames)
        return frames

    def bytes(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change the colors of `(N, H, W, 3)` uint8 (N1.6, N1.7); `draws`: `(N, 2 + 2 S)`."""
        for kind, factor, is_used in self._passes(draws, 4):
            gray = _gray_bytes(images)
            mean = gray.double().mean((1, 2))[:, None]  # (N, 1)
            base = torch.where(kind.view(-1, 1) == _BRIGHTNESS, torch.zeros_like(mean), mean)
            table = base + (self._levels - base) * factor.view(-1, 1)  # (N, 256)
            by_level = _to_bytes(table).gather(1, images.flatten(1).long()).view(images.shape)
            mixed = _to_bytes(images * factor.float() + gray[..., None] * (1 - factor).float())
            turned = self._turned(images, (HUES * factor[..., 0]).round().long())
            changed = torch.where(kind == _HUE, turned, torch.where(kind <= _CONTRAST, by_level, mixed))
            images = torch.where(is_used, changed, images)
        return images

    def _passes(self, draws: Tensor, dims: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return number, factor and use of the step of each pass, `(N, 1, ...)` with `dims` dimensions."""
        shape, passes = (-1, *[1] * (dims - 1)), []
        for place in range(2, 2 + len(_STEPS)):
            kind, share = draws[:, place].long(), draws[:, place + len(_STEPS)]
            factor = self._low[kind] + self._range[kind] * share
            passes.append((kind.view(shape), factor.view(shape), self._is_used[kind].view(shape)))
        return passes

    def _turned(self, images: Tensor, shift: Tensor) -> Tensor:
        """Turn the hue of `(N, H, W, 3)` uint8 by `shift` `(N, 1, 1)` of 180 steps, through OpenCV's HSV in bytes."""
        red, green, blue = images.int().unbind(-1)
        value = images.amax(-1).int()
        chroma = value - images.amin(-1).int()
        hue = torch.where(
            value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
        )
        hue = _scaled(hue, self._hue_shares[chroma])
        hue = ((hue + HUES * (hue < 0) + shift) % HUES).float() * (6 / HUES)  # in sixths of a turn
        sector, one_255th = hue.long(), 1 / 255
        rest = hue - sector
        saturation, value = _scaled(chroma, self._saturation_shares[value]) * one_255th, value * one_255th
        candidates = [1 - saturation, 1 - saturation * rest, 1 - saturation * (1 - rest)]
        levels = torch.stack([value, *(value * candidate for candidate in candidates)], -1) * 255  # truncated below
        return levels.gather(-1, self._sectors[sector]).to(torch.uint8)


def _gray_bytes(images: Tensor) -> Tensor:
    """Return the gray levels `(N, H, W)` int32 of `(N, H, W, 3)` uint8 as OpenCV computes them."""
    red, green, blue = (images[..., i].int() * share for i, share in enumerate(_GRAY_SHARES))
    return (red + green + blue + (1 << _GRAY_BITS - 1)) >> _GRAY_BITS


def _to_bytes(levels: Tensor) -> Tensor:
    return levels.round().clamp(0, 255).to(torch.uint8)


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor + (1 << _HSV_BITS - 1)) >> _HSV_BITS
