# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera images to the model's pixels: crop, resize, in training colour jitter, and the image processor's scaling.

All cameras of a sample get the same random draw. The steps follow the release, including the pass through uint8
between its video transforms and its image processor.

Letters in shapes: V cameras, H and W size of a camera's image, P side of the model's image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CROP_SCALE = 0.95  # of height and width
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.3, 0.4, 0.5, 0.08  # half ranges of the colour jitter; hue in turns
_LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in a grey value (ITU-R BT.601)


@dataclass(frozen=True)
class ImageDraw:
    """The random choices of one sample."""

    top: float  # place of the crop, 0 (top) to 1 (bottom)
    left: float
    jitter: tuple[tuple[str, float], ...]  # steps in order, each with its factor


def draw_images(rng: np.random.Generator) -> ImageDraw:
    """Draw crop place, order of the jitter steps, and their factors."""
    factors = [
        ("brightness", rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)),
        ("contrast", rng.uniform(1 - CONTRAST, 1 + CONTRAST)),
        ("saturation", rng.uniform(1 - SATURATION, 1 + SATURATION)),
        ("hue", rng.uniform(-HUE, HUE)),
    ]
    order = rng.permutation(len(factors))
    return ImageDraw(rng.random(), rng.random(), tuple(factors[i] for i in order))


def to_model_size(images: Sequence[np.ndarray], size: int, draw: ImageDraw | None = None) -> Tensor:
    """Crop and resize one image per camera.

    Args:
        images: V arrays `(H, W, 3)` uint8 RGB.
        size: side P of the result.
        draw: random choices for training; None: centre crop, no jitter.

    Returns:
        `(V, 3, P, P)` uint8.
    """
    frames = []
    for image in images:
        frame = torch.tensor(image).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
        frame = F.interpolate(_crop(frame, draw), (size, size), mode="bilinear", antialias=True, align_corners=False)
        for name, factor in draw.jitter if draw else ():
            frame = JITTER[name](frame, factor)
        frames.append((frame * 255).to(torch.uint8))  # truncated, as in the release
    return torch.cat(frames)


def to_pixels(frames: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Scale uint8 frames `(V, 3, P, P)` to [-1, 1], rounded to the type that the model's release uses."""
    return ((frames.float() / 255 - 0.5) / 0.5).to(dtype)


def _crop(frame: Tensor, draw: ImageDraw | None) -> Tensor:
    height, width = frame.shape[-2:]
    rows, columns = int(height * CROP_SCALE), int(width * CROP_SCALE)
    if draw is None:
        top, left = round((height - rows) / 2), round((width - columns) / 2)
    else:
        top, left = int(draw.top * (height - rows + 1)), int(draw.left * (width - columns + 1))
    return frame[..., top : top + rows, left : left + columns]


def adjust_brightness(frame: Tensor, factor: float) -> Tensor:
    """Scale `(..., 3, H, W)` in [0, 1]."""
    return (frame * factor).clamp(0, 1)


def adjust_contrast(frame: Tensor, factor: float) -> Tensor:
    """Blend with the mean grey value of each image."""
    mean = _grey(frame).mean((-2, -1), keepdim=True)
    return (mean + (frame - mean) * factor).clamp(0, 1)


def adjust_saturation(frame: Tensor, factor: float) -> Tensor:
    """Blend with the grey image."""
    grey = _grey(frame)
    return (grey + (frame - grey) * factor).clamp(0, 1)


def adjust_hue(frame: Tensor, shift: float) -> Tensor:
    """Turn the hue by `shift` turns, in the HSV colour space (Smith 1978)."""
    red, green, blue = frame.unbind(-3)
    value, chroma = frame.amax(-3), frame.amax(-3) - frame.amin(-3)
    safe = chroma.clamp_min(1e-12)  # grey has no hue: any finite number does
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift  # in sixths of a turn
    # channel n of 5, 3, 1 (red, green, blue) is the value less the chroma times a trapezoid of the hue
    channels = []
    for n in (5, 3, 1):
        k = (n + hue) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, -3)


JITTER: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def _grey(frame: Tensor) -> Tensor:
    return sum(weight * channel for weight, channel in zip(_LUMA, frame.split(1, -3), strict=True))  # type: ignore[return-value]
