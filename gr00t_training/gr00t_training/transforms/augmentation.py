# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of camera images in training: crop place, rotation and color.

A draw holds shares between 0 and 1, not crops or factors: the model defines what they scale. All images
of a sample get the same draw. Colors change in floats for N1 and N1.5 and in bytes for N1.6 and N1.7, as in the
releases; the distributions are theirs, the random numbers are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in a gray value (ITU-R BT.601)
HUES = 180  # OpenCV's steps of a full turn in bytes


@dataclass(frozen=True)
class ImageDraw:
    """The random choices of one sample."""

    top: float  # place of the crop, 0 (top) to 1 (bottom)
    left: float
    jitter: tuple[tuple[str, float], ...]  # color steps in order, each with its place in the range, 0 to 1
    rotation: float = 0.5  # place in the range, 0 to 1; 0.5: none


def draw_images(rng: np.random.Generator) -> ImageDraw:
    """Draw crop place, order of the color steps and their strength, and rotation."""
    steps = [(name, rng.random()) for name in JITTER]
    order = rng.permutation(len(steps))
    return ImageDraw(rng.random(), rng.random(), tuple(steps[i] for i in order), rng.random())


def jitter_factors(draw: ImageDraw, half_ranges: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the color steps of a draw in order with their factors; for hue the shift in turns.

    Args:
        draw: of the sample.
        half_ranges: of "brightness", "contrast", "saturation" and "hue" (turns); missing: the step is left out.
    """
    factors = []
    for name, share in draw.jitter:
        half = half_ranges.get(name, 0.0)
        low, high = (-half, half) if name == "hue" else (max(0.0, 1 - half), 1 + half)
        if half:
            factors.append((name, low + (high - low) * share))
    return factors


# In floats ------------------------------------------------------------------------------------------------------------


def adjust_brightness(frame: Tensor, factor: float) -> Tensor:
    """Scale `(..., 3, H, W)` in [0, 1]."""
    return (frame * factor).clamp_(0, 1)


def adjust_contrast(frame: Tensor, factor: float) -> Tensor:
    """Blend with the mean gray value of each image."""
    mean = gray_of(frame).mean((-2, -1), keepdim=True)
    return (frame - mean).mul_(factor).add_(mean).clamp_(0, 1)


def adjust_saturation(frame: Tensor, factor: float) -> Tensor:
    """Blend with the gray image."""
    gray = gray_of(frame)
    return (frame - gray).mul_(factor).add_(gray).clamp_(0, 1)


def adjust_hue(frame: Tensor, shift: float | Tensor) -> Tensor:
    """Turn the hue by `shift` turns, in the HSV color space (Smith 1978); a tensor fits `(..., H, W)`."""
    red, green, blue = frame.unbind(-3)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = chroma.clamp_min(1e-12)  # gray has no hue: any finite number does
    hue = torch.where(
        value == red,
        (green - blue).div_(safe),
        torch.where(value == green, (blue - red).div_(safe).add_(2), (red - green).div_(safe).add_(4)),
    )
    hue = hue + 6 * shift  # in sixths of a turn
    # channel n of 5, 3, 1 (red, green, blue) is the value less the chroma times a trapezoid of the hue
    turned = torch.empty_like(frame)
    for n, channel in zip((5, 3, 1), turned.unbind(-3), strict=True):
        k = hue + n
        k.sub_(torch.floor(k / 6).mul_(6))  # the remainder, which takes twice as long
        torch.sub(value, torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma), out=channel)
    return turned


JITTER: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def gray_of(frame: Tensor) -> Tensor:
    """Return the gray values `(..., 1, H, W)` of `(..., 3, H, W)`."""
    red, green, blue = (channel * weight for weight, channel in zip(_LUMA, frame.split(1, -3), strict=True))
    return red.add_(green).add_(blue)


# In bytes -------------------------------------------------------------------------------------------------------------


def jitter_bytes(image: np.ndarray, factors: list[tuple[str, float]]) -> np.ndarray:
    """Change the colors of `(H, W, 3)` uint8, step by step as `jitter_factors` lists them."""
    import cv2  # here: only N1.6 and N1.7 need it

    levels = np.arange(256)
    for name, factor in factors:
        if name == "brightness":
            image = cv2.LUT(image, _to_bytes(levels * factor))
        elif name == "contrast":
            mean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
            image = cv2.LUT(image, _to_bytes(mean + (levels - mean) * factor))
        elif name == "saturation":
            gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, factor, gray, 1 - factor, 0)
        else:
            turned = ((levels + round(HUES * factor)) % HUES).astype(np.uint8)
            kept = levels.astype(np.uint8)
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            image = cv2.cvtColor(cv2.LUT(hsv, np.stack([turned, kept, kept], -1)[None]), cv2.COLOR_HSV2RGB)
    return image


def rotate_bytes(image: np.ndarray, angle_deg: float, *, is_smooth: bool) -> np.ndarray:
    """Turn `(H, W, 3)` uint8 about its center, counter-clockwise.

    Args:
        image: to turn.
        angle_deg: degrees.
        is_smooth: interpolate and mirror at the border; otherwise nearest neighbors and black.
    """
    import cv2  # here: only N1.6 and N1.7 need it

    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1.0)
    method, border = (
        (cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101) if is_smooth else (cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    )
    return cv2.warpAffine(image, turn, (width, height), flags=method, borderMode=border)


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
