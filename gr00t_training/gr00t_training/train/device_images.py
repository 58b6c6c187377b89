# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Augmenting and scaling images on the training device: the loader sends their bytes and their random choices.

Everything has static shapes and waits for nothing, so it is part of a captured step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gr00t_training.transforms.images import ImageProcessor, split_images
from gr00t_training.transforms.resampling import Size


class DeviceImages:
    """Makes the pixels of batches whose samples have `images` and `draw` (see `Pipeline.encode_raw_images`)."""

    def __init__(
        self, processor: ImageProcessor, sizes: Sequence[Size], device: torch.device, *, are_augmented: bool
    ) -> None:
        """Prepare.

        Args:
            processor: of the model.
            sizes: stored height and width of each image of a sample.
            device: of the batches.
            are_augmented: whether batches have draws.

        Raises:
            ConfigError: a step is done on the CPU only.
        """
        self._processor = processor
        self._sizes = tuple(sizes)
        self._device = device
        self._augmented = processor.augmented_on_device(sizes, device) if are_augmented else None
        self._plain: dict[int, Callable[[Sequence[Tensor]], Tensor]] = {}  # by number of samples

    @torch.no_grad()
    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a batch with `pixel_values` in the place of the bytes."""
        images = tensors["images"]
        pixels = self._augmented(images, tensors["draw"]) if self._augmented else self._as_they_are(images)
        return {**{name: x for name, x in tensors.items() if name not in ("images", "draw")}, "pixel_values": pixels}

    def _as_they_are(self, images: Tensor) -> Tensor:
        count = len(images)
        if count not in self._plain:
            self._plain[count] = self._processor.on_device(self._sizes * count, self._device)
        parts = split_images(images, self._sizes)
        return self._plain[count]([part[i] for i in range(count) for part in parts])
