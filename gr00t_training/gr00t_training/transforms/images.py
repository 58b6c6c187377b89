# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert camera images to the model's pixels, for each of the families.

The steps follow the releases, including every pass through bytes: frames are uint8 between the video transforms and
the image processor of the vision-language model. `on_device` repeats both in tensor operations, bit for bit, so
that a policy need not scale images on the CPU.

Letters in shapes: I images, N images of one size, H and W size of a camera's image, h and w size of a frame, P side of
a square frame, L patches, D numbers of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.transforms.augmentation import JITTER, ImageDraw, draw_images, jitter_factors
from gr00t_training.transforms.device_augmentation import ColorJitter, DrawnTransform, crop_at
from gr00t_training.transforms.framing import Framing
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.resampling import (
    Resize,
    Size,
    antialiased_on_device,
    pillow_on_device,
    resize_antialiased,
    resize_pillow,
    resize_smooth,
    smooth_on_device,
)

__all__ = ["EagleImages", "ImageDraw", "ImageProcessor", "QwenImages", "SquareImages", "draw_images"]

CROP_SCALE = 0.95  # of height and width, N1 and N1.5
HALF_RANGES = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}  # N1 and N1.5; hue in turns
LARGEST_ASPECT = 200  # of the vision-language models' image processors
EAGLE_PATCH, QWEN_PATCH = 14, 16  # side of the releases' patches [px]
MERGE = 2  # patches along each side of what becomes one token, of the releases
EAGLE_PIXELS = (3136, 3211264)  # least and most of one image
QWEN_PIXELS = (65536, 16777216)  # the same, of the released Cosmos-Reason2 and Qwen3-VL
QWEN_FRAMES = 2  # of a patch, of the release


class ImageProcessor(Protocol):
    """What turns camera images to the pixels of one model."""

    def frames(self, images: Sequence[np.ndarray], draw: ImageDraw | None = None) -> list[Tensor]:
        """Crop and resize.

        Args:
            images: `(H, W, 3)` uint8 RGB each, of any sizes.
            draw: random choices for training; None: evaluation.

        Returns:
            `(3, h, w)` uint8 each.
        """
        ...

    def pixels(self, frames: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the model's `pixel_values` and `image_grid`: None for square images, else `(I, 2)` int64 patches."""
        ...

    def num_tokens(self, height: int, width: int) -> int:
        """Return how many tokens of the prompt an image of this raw size fills."""
        ...

    def grids(self, sizes: Sequence[Size]) -> Tensor | None:
        """Return the `image_grid` of images of these raw sizes."""
        ...

    def stored_size(self, height: int, width: int) -> Size:
        """Return the smallest size in which images of a raw size can be stored without a change of any result."""
        ...

    def stored(self, image: np.ndarray) -> np.ndarray:
        """Scale `(H, W, 3)` uint8 to its `stored_size`; what `frames` makes of the result is the same."""
        ...

    def augmented_on_device(self, sizes: Sequence[Size], device: torch.device) -> DrawnTransform:
        """Return `pixels(frames(...))[0]` in training for many samples, within a gray level.

        Args:
            sizes: raw height and width of each image of a sample.
            device: where images are and pixels are to be.

        Returns:
            Function of the images of all samples, `(B, bytes)` uint8: those of a sample one after another; and of their
            draws (`draw_numbers`). It can be captured in a CUDA graph.

        Raises:
            ConfigError: a step is done on the CPU only.
        """
        ...

    def on_device(self, sizes: Sequence[Size], device: torch.device) -> Callable[[Sequence[Tensor]], Tensor]:
        """Return `pixels(frames(...))[0]` in evaluation as operations on the device, bit for bit.

        Args:
            sizes: raw height and width of each image.
            device: where images are and pixels are to be.

        Returns:
            Function of the images `(H, W, 3)` uint8 in that order. Its shapes are fixed and it never waits for the
            device, so it can be captured in a CUDA graph.
        """
        ...


class SquareImages:
    """Square images with one channel after another, `(I, 3, P, P)` (N1, N1.5)."""

    def __init__(self, size: int, dtype: torch.dtype, *, tokens: int) -> None:
        """Prepare for a model.

        Args:
            size: side P of its images [px].
            dtype: that its release rounds pixels to.
            tokens: of the prompt, per image.
        """
        self._size = (size, size)
        self._tokens = tokens
        self._dtype = dtype

    def frames(self, images: Sequence[np.ndarray], draw: ImageDraw | None = None) -> list[Tensor]:
        """Crop and resize to `(3, P, P)` (`ImageProcessor.frames`)."""
        frames = []
        for image in images:
            height, width = image.shape[:2]
            top, left, rows, columns = _crop(height, width, draw)
            cropped = image[top : top + rows, left : left + columns].copy()
            frame = torch.from_numpy(cropped).permute(2, 0, 1)[None]
            frame = resize_smooth(frame.float() / 255, self._size)
            for name, factor in jitter_factors(draw, HALF_RANGES) if draw else ():
                frame = JITTER[name](frame, factor)
            frames.append((frame[0] * 255).to(torch.uint8))  # truncated, as in the release
        return frames

    def pixels(self, frames: Sequence[Tensor]) -> tuple[Tensor, None]:
        """Scale to [-1, 1] (`ImageProcessor.pixels`)."""
        return self._scale(torch.stack(list(frames))), None

    def num_tokens(self, height: int, width: int) -> int:
        """Return the same number for every size (`ImageProcessor.num_tokens`)."""
        return self._tokens

    def grids(self, sizes: Sequence[Size]) -> None:
        """Return None: all images are alike (`ImageProcessor.grids`)."""

    def stored_size(self, height: int, width: int) -> Size:
        """Return the raw size: the first step is a random crop (`ImageProcessor.stored_size`)."""
        return height, width

    def stored(self, image: np.ndarray) -> np.ndarray:
        """Return the image (`ImageProcessor.stored`)."""
        return image

    def on_device(self, sizes: Sequence[Size], device: torch.device) -> Callable[[Sequence[Tensor]], Tensor]:
        """Return both steps as operations on the device (`ImageProcessor.on_device`)."""
        shares = (torch.arange(256).float() / 255).to(device)  # a GPU would multiply by the reciprocal
        scaled = self._scale(torch.arange(256)).to(device)

        def prepare(size: Size) -> Resize:
            top, left, rows, columns = _crop(*size, None)
            resize = smooth_on_device((rows, columns), self._size, device)

            def transform(x: Tensor) -> Tensor:
                cropped = x[:, top : top + rows, left : left + columns]
                return (resize(_look_up(shares, cropped)) * 255).to(torch.uint8)

            return transform

        transform = _by_size(sizes, prepare)
        return lambda images: _look_up(scaled, torch.stack(transform(images)).permute(0, 3, 1, 2))

    def augmented_on_device(self, sizes: Sequence[Size], device: torch.device) -> DrawnTransform:
        """Return the steps of training as operations on the device (`ImageProcessor.augmented_on_device`)."""
        scaled = self._scale(torch.arange(256)).to(device)
        jitter = ColorJitter(HALF_RANGES, device)

        def prepare(size: Size) -> DrawnTransform:
            cut = _crop(*size, None)[2:]

            def transform(x: Tensor, draws: Tensor) -> Tensor:
                frames = crop_at(x, draws, cut).permute(0, 3, 1, 2).float() / 255
                return (jitter.floats(resize_smooth(frames, self._size), draws) * 255).to(torch.uint8)

            return transform

        transform = _drawn_by_size(sizes, prepare)
        return lambda images, draws: _look_up(scaled, torch.stack(transform(images, draws), 1).flatten(0, 1))

    def _scale(self, levels: Tensor) -> Tensor:
        return ((levels.float() / 255 - 0.5) / 0.5).to(self._dtype)


class _PackedImages:
    """Patches of all images one after another, `(L, D)` float32, of images of any size; base of the two below."""

    def __init__(self, options: ProcessorOptions, patch: int, merge: int = MERGE) -> None:
        self._framing = Framing(options)
        self._patch = patch  # side [px]
        self._merge = merge  # patches along each side of what becomes one token

    def frames(self, images: Sequence[np.ndarray], draw: ImageDraw | None = None) -> list[Tensor]:
        """Crop and resize (`ImageProcessor.frames`)."""
        return [self._framing.frame(image, draw) for image in images]

    def pixels(self, frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Resize to whole patches, scale to [-1, 1] and pack (`ImageProcessor.pixels`)."""
        sizes = [self._fit(*frame.shape[1:]) for frame in frames]
        resized = [self._resize(frame, size) for frame, size in zip(frames, sizes, strict=True)]
        patches = torch.cat([self._pack(image[None])[0] for image in resized])
        return _center(patches), self._grid(sizes)

    def num_tokens(self, height: int, width: int) -> int:
        """Return the number of merged patches (`ImageProcessor.num_tokens`)."""
        rows, columns = self._final_size((height, width))
        return rows * columns // (self._patch * self._merge) ** 2

    def grids(self, sizes: Sequence[Size]) -> Tensor:
        """Return rows and columns of patches (`ImageProcessor.grids`)."""
        return self._grid([self._final_size(size) for size in sizes])

    def stored_size(self, height: int, width: int) -> Size:
        """Return the size before the random crop, see `Framing.stored_size` (`ImageProcessor.stored_size`)."""
        return self._framing.stored_size(height, width)

    def stored(self, image: np.ndarray) -> np.ndarray:
        """Scale to that size (`ImageProcessor.stored`)."""
        return self._framing.stored(image)

    def on_device(self, sizes: Sequence[Size], device: torch.device) -> Callable[[Sequence[Tensor]], Tensor]:
        """Return both steps as operations on the device (`ImageProcessor.on_device`)."""
        centered = _center(torch.arange(256)).to(device)

        def prepare(size: Size) -> Resize:
            frame_size = self._framing.steps(*size).final
            frame = self._framing.on_device(size, device)
            resize = self._resize_on_device(frame_size, self._fit(*frame_size), device)
            return lambda x: self._pack(resize(frame(x)))

        transform = _by_size(sizes, prepare)
        return lambda images: _look_up(centered, torch.cat(transform(images)))

    def augmented_on_device(self, sizes: Sequence[Size], device: torch.device) -> DrawnTransform:
        """Return the steps of training as operations on the device (`ImageProcessor.augmented_on_device`)."""
        centered = _center(torch.arange(256)).to(device)

        def prepare(size: Size) -> DrawnTransform:
            frame_size = self._framing.steps(*size).final
            frame = self._framing.augmented_on_device(size, device)
            resize = self._resize_on_device(frame_size, self._fit(*frame_size), device)
            return lambda x, draws: self._pack(resize(frame(x, draws)))

        transform = _drawn_by_size(sizes, prepare)
        return lambda images, draws: _look_up(centered, torch.cat(transform(images, draws), 1).flatten(0, 1))

    def _final_size(self, size: Size) -> Size:
        return self._fit(*self._framing.steps(*size).final)

    def _grid(self, sizes: Sequence[Size]) -> Tensor:
        return torch.tensor([[side // self._patch for side in size] for size in sizes])

    def _fit(self, height: int, width: int) -> Size:
        """Return the size in whole tokens that a frame is scaled to."""
        raise NotImplementedError

    def _resize(self, frame: Tensor, size: Size) -> Tensor:
        """Scale `(3, h, w)` to `(h, w, 3)`, uint8."""
        raise NotImplementedError

    def _resize_on_device(self, source: Size, target: Size, device: torch.device) -> Resize:
        raise NotImplementedError

    def _pack(self, frames: Tensor) -> Tensor:
        """Cut `(N, h, w, 3)` into patches `(N, L, D)`."""
        raise NotImplementedError


class EagleImages(_PackedImages):
    """Patches row by row, each as (row, column, channel) (N1.6)."""

    def __init__(self, options: ProcessorOptions, *, patch: int = EAGLE_PATCH) -> None:
        """Prepare for a checkpoint with its options and the side of its patches [px]."""
        super().__init__(options, patch)

    def _fit(self, height: int, width: int) -> Size:
        _check_aspect(height, width)
        factor = self._patch * self._merge
        rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
        least, most = EAGLE_PIXELS
        if rows * columns > most:
            shrink = math.sqrt(rows * columns / most)
            return math.floor(rows / shrink / factor) * factor, math.floor(columns / shrink / factor) * factor
        if rows * columns < least:
            return _grow(height, width, factor, least)
        return rows, columns

    def _resize(self, frame: Tensor, size: Size) -> Tensor:
        return torch.from_numpy(resize_pillow(frame.permute(1, 2, 0).numpy(), size))

    def _resize_on_device(self, source: Size, target: Size, device: torch.device) -> Resize:
        return pillow_on_device(source, target, device)

    def _pack(self, frames: Tensor) -> Tensor:
        side = self._patch
        cut = frames.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (N, rows, 14, columns, 14, 3)
        return cut.transpose(2, 3).reshape(len(frames), -1, 3 * side**2)


class QwenImages(_PackedImages):
    """Patches of one token together, each as (channel, time, row, column) (N1.7)."""

    def __init__(
        self,
        options: ProcessorOptions,
        *,
        min_pixels: int = QWEN_PIXELS[0],
        max_pixels: int = QWEN_PIXELS[1],
        patch: int = QWEN_PATCH,
        merge: int = MERGE,
        frames: int = QWEN_FRAMES,
    ) -> None:
        """Prepare for a checkpoint.

        Args:
            options: of the checkpoint.
            patch: side of a patch [px].
            merge: patches along each side of a token.
            frames: of a patch; a still image is as many equal frames.
            min_pixels: of one image, `size.shortest_edge` in the backbone's preprocessor_config.json.
            max_pixels: largest size, `size.longest_edge`.

        Raises:
            ConfigError: the options or limits contradict each other.
        """
        super().__init__(options, patch, merge)
        self._frames = frames
        if not 0 < min_pixels <= max_pixels:
            raise ConfigError(
                f"preprocessor_config.json: at least {min_pixels} and at most {max_pixels} pixels per image; expected "
                "positive numbers, the first not above the second"
            )
        self._limits = (min_pixels, max_pixels)

    def _fit(self, height: int, width: int) -> Size:
        _check_aspect(height, width)
        factor = self._patch * self._merge
        rows, columns = (round(side / factor) * factor for side in (height, width))
        least, most = self._limits
        if rows * columns > most:
            shrink = math.sqrt(height * width / most)
            rows, columns = (math.floor(side / shrink / factor) * factor for side in (height, width))
            return max(factor, rows), max(factor, columns)
        if rows * columns < least:
            return _grow(height, width, factor, least)
        return rows, columns

    def _resize(self, frame: Tensor, size: Size) -> Tensor:
        return resize_antialiased(frame[None], size, "bicubic")[0].permute(1, 2, 0)

    def _resize_on_device(self, source: Size, target: Size, device: torch.device) -> Resize:
        return antialiased_on_device(source, target, "bicubic", device)

    def _pack(self, frames: Tensor) -> Tensor:
        token = (-1, self._merge, self._patch)
        cut = frames.unflatten(2, token).unflatten(1, token)
        # (N, rows, 2, 16, columns, 2, 16, 3) -> (N, rows, columns, 2, 2, 3, time, 16, 16)
        cut = cut.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6)
        cut = cut.expand(*[-1] * 6, self._frames, -1, -1)
        return cut.reshape(len(frames), -1, 3 * self._frames * self._patch**2)


def _crop(height: int, width: int, draw: ImageDraw | None) -> tuple[int, int, int, int]:
    """Return first row and column, and numbers of rows and columns (N1, N1.5)."""
    rows, columns = int(height * CROP_SCALE), int(width * CROP_SCALE)
    if draw is None:
        return round((height - rows) / 2), round((width - columns) / 2), rows, columns
    return int(draw.top * (height - rows + 1)), int(draw.left * (width - columns + 1)), rows, columns


def _center(levels: Tensor) -> Tensor:
    """Scale gray levels to [-1, 1] with the rounding of the releases' image processors."""
    return levels.float().sub_(127.5).div_(127.5)


def _check_aspect(height: int, width: int) -> None:
    if max(height, width) > LARGEST_ASPECT * min(height, width):
        raise ObservationError(
            f"image of {width}x{height}: sides of at most {LARGEST_ASPECT}:1 expected; crop it in the topic map"
        )


def _grow(height: int, width: int, factor: int, least: int) -> Size:
    """Return the smallest size in whole tokens that has `least` pixels and about the same aspect."""
    scale = math.sqrt(least / (height * width))
    return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor


def _look_up(table: Tensor, levels: Tensor) -> Tensor:
    """Return `table[levels]` for 256 entries; on a GPU nothing else equals the CPU's division."""
    places = levels.to(torch.int32, memory_format=torch.contiguous_format)
    return table.index_select(0, places.flatten()).view(places.shape)


def split_images(images: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Return the images `(B, H, W, 3)` of samples whose bytes `(B, bytes)` are one after another."""
    parts = images.split([height * width * 3 for height, width in sizes], dim=1)
    return [part.unflatten(1, (*size, 3)) for part, size in zip(parts, sizes, strict=True)]


def _drawn_by_size(
    sizes: Sequence[Size], prepare: Callable[[Size], DrawnTransform]
) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """Return a function that transforms the images of samples, those of one size together, and keeps their order."""
    groups = {size: [i for i, other in enumerate(sizes) if other == size] for size in sizes}
    transforms = {size: prepare(size) for size in groups}

    def transform(images: Tensor, draws: Tensor) -> list[Tensor]:
        parts, results = split_images(images, sizes), {}
        for size, places in groups.items():
            found = transforms[size](torch.cat([parts[i] for i in places]), draws.repeat(len(places), 1))
            results.update(zip(places, found.split(len(images)), strict=True))
        return [results[i] for i in range(len(sizes))]

    return transform


def _by_size(sizes: Sequence[Size], prepare: Callable[[Size], Resize]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return a function that transforms all images of one size together and keeps their order."""
    groups = {size: [i for i, other in enumerate(sizes) if other == size] for size in sizes}
    transforms = {size: prepare(size) for size in groups}

    def transform(images: Sequence[Tensor]) -> list[Tensor]:
        results: dict[int, Tensor] = {}
        for size, places in groups.items():
            stacked = torch.stack([images[i] for i in places]) if len(places) > 1 else images[places[0]][None]
            results.update(zip(places, transforms[size](stacked), strict=True))
        return [results[i] for i in range(len(sizes))]

    return transform
