# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Crop and scale a camera's image for the image processor of the vision-language model (N1.6, N1.7).

The releases have two image paths. With `use_albumentations` the shortest side is scaled by area, a fraction of both
sides is cut out and scaled again; without, everything is scaled to one size with torchvision's antialiased kernel. In
both, black borders come first where `letter_box_transform` says so.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gr00t_training.errors import ConfigError
from gr00t_training.transforms.augmentation import ImageDraw, jitter_bytes, jitter_factors, rotate_bytes
from gr00t_training.transforms.device_augmentation import ColorJitter, DrawnTransform, crop_at
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.resampling import (
    Resize,
    Size,
    antialiased_on_device,
    area_on_device,
    resize_antialiased,
    resize_area,
)


@dataclass(frozen=True)
class Steps:
    """What an image of one size goes through: sizes as (height, width), [px]."""

    padded: Size
    resized: Size
    cropped: Size
    final: Size


class Framing:
    """Letter box, resize, crop and resize, in training also rotation and colors."""

    def __init__(self, options: ProcessorOptions) -> None:
        """Prepare for a checkpoint's options.

        Raises:
            ConfigError: the options leave out a size or contradict each other.
        """
        self._options = options
        crop, target = options.image_crop_size, options.image_target_size
        if not options.use_albumentations:
            if crop is None or target is None or min(crop) < 1 or crop[0] > target[0] or crop[1] > target[1]:
                raise ConfigError(
                    f"processor_config.json: image_crop_size {crop} and image_target_size {target}; expected both, "
                    "with the crop within the target"
                )
            return
        edge = options.shortest_image_edge or (target and target[0])
        fraction = options.crop_fraction or (crop and target and crop[0] / target[0])
        if not edge or not fraction or edge < 1 or not 0 < fraction <= 1:
            raise ConfigError(
                f"processor_config.json: images are scaled to {edge} px and cut to {fraction} of that; expected "
                "shortest_image_edge (or image_target_size) above 0 and crop_fraction (or image_crop_size) of at most 1"
            )
        self._edge, self._fraction = edge, fraction

    def steps(self, height: int, width: int) -> Steps:
        """Return the sizes that a raw image goes through."""
        options = self._options
        side = max(height, width)
        padded = (side, side) if options.letter_box_transform else (height, width)
        if not options.use_albumentations:
            target, crop = options.image_target_size, options.image_crop_size
            assert target and crop  # checked at construction
            resized = target[0], target[1]
            return Steps(padded, resized, (crop[0], crop[1]), resized)
        resized = _shortest(padded, self._edge)
        cropped = max(1, int(resized[0] * self._fraction)), max(1, int(resized[1] * self._fraction))
        return Steps(padded, resized, cropped, _shortest(cropped, self._edge))

    def stored_size(self, height: int, width: int) -> Size:
        """Return the smallest size in which images of a raw size can be stored without a change of any result.

        It is that after the steps before the first random one, if an image of that size goes through them unchanged
        and has fewer pixels; else the raw size.
        """
        steps = self.steps(height, width)
        is_same = self.steps(*steps.resized) == dataclasses.replace(steps, padded=steps.resized)
        return steps.resized if is_same and math.prod(steps.resized) < height * width else (height, width)

    def stored(self, image: np.ndarray) -> np.ndarray:
        """Scale `(H, W, 3)` uint8 to its `stored_size`."""
        size = self.stored_size(*image.shape[:2])
        if size == image.shape[:2]:
            return image
        return self._resize(_letter_box(image, self.steps(*image.shape[:2]).padded), size)

    def frame(self, image: np.ndarray, draw: ImageDraw | None = None) -> Tensor:
        """Transform one image.

        Args:
            image: `(H, W, 3)` uint8 RGB.
            draw: random choices for training; None: center crop, nothing else random.

        Returns:
            `(3, h, w)` uint8.
        """
        options = self._options
        steps = self.steps(*image.shape[:2])
        top, left = self._corner(steps, draw)
        rows, columns = steps.cropped
        image = self._resize(_letter_box(image, steps.padded), steps.resized)
        image = self._resize(image[top : top + rows, left : left + columns], steps.final)
        if draw and options.random_rotation_angle:
            angle = (2 * draw.rotation - 1) * options.random_rotation_angle
            image = rotate_bytes(image, angle, is_smooth=options.use_albumentations)
        if draw and options.color_jitter_params:
            image = jitter_bytes(image, jitter_factors(draw, options.color_jitter_params))
        return torch.from_numpy(image.copy()).permute(2, 0, 1)

    def on_device(self, size: Size, device: torch.device) -> Resize:
        """Return the evaluation transform of images of one raw size, `(N, H, W, 3)` to `(N, h, w, 3)` uint8."""
        steps = self.steps(*size)
        top, left = self._corner(steps, None)
        rows, columns = steps.cropped
        vertical, horizontal = _borders(size, steps.padded)
        borders = (0, 0, *horizontal, *vertical)
        resize = self._resize_on_device(steps.padded, steps.resized, device)
        resize_again = self._resize_on_device(steps.cropped, steps.final, device)

        def transform(x: Tensor) -> Tensor:
            if any(borders):
                x = F.pad(x, borders)
            return resize_again(resize(x)[:, top : top + rows, left : left + columns])

        return transform

    def augmented_on_device(self, size: Size, device: torch.device) -> DrawnTransform:
        """Return the training transform of images of one raw size, `(N, H, W, 3)` to `(N, h, w, 3)` uint8.

        Raises:
            ConfigError: the checkpoint's images are turned, which is done on the CPU only.
        """
        options, steps = self._options, self.steps(*size)
        if options.random_rotation_angle:
            raise ConfigError(
                f"processor_config.json: random_rotation_angle is {options.random_rotation_angle}; images are turned "
                "on the CPU only, leave out --augment-on-gpu"
            )
        vertical, horizontal = _borders(size, steps.padded)
        resize = self._resize_on_device(steps.padded, steps.resized, device)
        resize_again = self._resize_on_device(steps.cropped, steps.final, device)
        jitter = ColorJitter(options.color_jitter_params or {}, device)

        def transform(x: Tensor, draws: Tensor) -> Tensor:
            x = crop_at(resize(F.pad(x, (0, 0, *horizontal, *vertical))), draws, steps.cropped)
            x = resize_again(x)
            return jitter.bytes(x, draws) if options.color_jitter_params else x

        return transform

    def _corner(self, steps: Steps, draw: ImageDraw | None) -> tuple[int, int]:
        """Return first row and column of the crop."""
        rest = steps.resized[0] - steps.cropped[0], steps.resized[1] - steps.cropped[1]
        if draw is not None:
            return int(draw.top * (rest[0] + 1)), int(draw.left * (rest[1] + 1))
        if self._options.use_albumentations:
            return rest[0] // 2, rest[1] // 2
        return round(rest[0] / 2), round(rest[1] / 2)  # half to even

    def _resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        if self._options.use_albumentations:
            return resize_area(image, size)
        frame = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        return resize_antialiased(frame, size, "bilinear")[0].permute(1, 2, 0).numpy()

    def _resize_on_device(self, source: Size, target: Size, device: torch.device) -> Resize:
        if self._options.use_albumentations:
            return area_on_device(source, target, device)
        return antialiased_on_device(source, target, "bilinear", device)


def _shortest(size: Size, edge: int) -> Size:
    """Scale a size so that its shorter side becomes `edge`."""
    scale = edge / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def _borders(size: Size, padded: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return rows before and after, columns before and after; an odd pixel comes after."""
    rows, columns = padded[0] - size[0], padded[1] - size[1]
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def _letter_box(image: np.ndarray, padded: Size) -> np.ndarray:
    vertical, horizontal = _borders(image.shape[:2], padded)
    return np.pad(image, (vertical, horizontal, (0, 0))) if any((*vertical, *horizontal)) else image
