# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Indices, positions and masks that depend only on the prompt and the image sizes of a batch; computed on the host.

The rest of the model then runs with static shapes and never waits for the device. A plan holds for every batch with the
same prompts and image sizes: pixels, state and noise are not in it.

Letters in shapes: B batch, T prompt tokens, M image tokens of the whole batch, P patches of an image, C stored
positions that are mixed for one patch, K width of a head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import BackboneConfig, Gr00tConfig, QwenVisionConfig
from gr00t_training.model.layers import ContextMasks, rotary_frequencies, rotary_table

Grid = tuple[int, int]  # rows and columns of patches
Rotary = tuple[Tensor, Tensor]
HOST_KEYS = ("input_ids", "attention_mask", "image_grid")  # of a batch: inputs of a plan

_VISION_THETA = 10000.0


@dataclass(frozen=True)
class ImageGroup:
    """Packed images of one size; they go through the vision tower together."""

    grid: Grid
    images: tuple[int, ...]  # places among the images of the batch
    position_index: Tensor  # (C, P) rows of the stored positions
    position_weight: Tensor  # (C, P) float32, their shares
    rotary: Rotary | None  # cosines and sines (P, K) float32; None: the tower has no rotary positions


@dataclass(frozen=True)
class ContextPlan:
    """What the action head needs of a plan; all of it where the features of the backbone are known."""

    text_mask: Tensor | None  # (B, 1, 1, T) bool, tokens that are neither image nor padding; None: not needed
    image_mask: Tensor | None  # (B, 1, 1, T) bool, image tokens; None: not needed
    token_mask: Tensor | None  # (B, 1, 1, T) bool, False at padding; None: nothing is padded, or it takes part

    @property
    def context_masks(self) -> ContextMasks:
        """Masks for the action head."""
        return ContextMasks(self.text_mask, self.image_mask, self.token_mask)

    def layout(self) -> tuple[Any, ...]:
        """Return what two plans must share to be used with the same graph."""
        return tuple((tuple(x.shape), x.dtype) for x in plan_tensors(self))


@dataclass(frozen=True)
class Plan(ContextPlan):
    """Everything that depends only on the prompt and the image sizes of a batch; tensors are on the model's device."""

    input_ids: Tensor  # (B, T)
    image_rows: Tensor  # (M,) rows of the flattened (B T) prompts that image tokens go to, in the tower's order
    padding_mask: Tensor | None  # (B, T) bool, False at padding; None: nothing is padded
    attention_mask: Tensor | None  # (B, 1, T, T) bool, where a token of the language model may look; None: causal
    rotary: Rotary  # cosines and sines (T, K) or (B, 1, T, K) float32 of the language model
    image_grid: tuple[Grid, ...]  # of every image in the order of the batch; empty: square images
    images: tuple[ImageGroup, ...]  # packed images in the tower's order; empty: square images

    def layout(self) -> tuple[Any, ...]:
        """Return what two plans must share to be used with the same graph."""
        return (*super().layout(), self.image_grid, self.padding_mask is None)


def make_plan(
    config: Gr00tConfig,
    batch: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    *,
    hides_padding: bool = False,
) -> Plan:
    """Compute the plan of a batch.

    Args:
        config: of the model.
        batch: `input_ids`, `attention_mask` (may be absent) and, for packed images, `image_grid`; see
            `gr00t_training.model.gr00t`. Copied to the host if they are on a device.
        device: of the model.
        dtype: of the model's weights; some releases round positions to it.
        hides_padding: as `make_context_plan`.

    Raises:
        ValueError: image tokens and images do not agree.
    """
    backbone = config.backbone
    ids, is_token = _tokens(batch)
    padding_mask = None if bool(is_token.all()) else is_token
    is_image = ids == backbone.image_token_id
    grids = _grids(batch, backbone)
    rows = _token_rows(backbone, is_image, grids)
    groups = _groups(backbone, grids, dtype)
    context = make_context_plan(config, batch, hides_padding=hides_padding)
    order = [i for group in groups for i in group.images] if backbone.is_packed else range(len(rows))
    plan = Plan(
        input_ids=ids,
        image_rows=torch.cat([rows[i] for i in order]),
        padding_mask=padding_mask,
        attention_mask=None if padding_mask is None else causal_mask(padding_mask),
        rotary=_language_rotary(backbone, is_token, rows, grids, dtype),
        text_mask=context.text_mask,
        image_mask=context.image_mask,
        token_mask=context.token_mask,
        image_grid=grids,
        images=groups,
    )
    return map_tensors(plan, lambda tensor: tensor.to(device))


def make_context_plan(config: Gr00tConfig, batch: Mapping[str, Tensor], *, hides_padding: bool = False) -> ContextPlan:
    """Compute the part of a plan that the action head needs, on the host.

    Args:
        config: of the model.
        batch: `input_ids` and `attention_mask` (may be absent).
        hides_padding: whether the action head does not attend to padding, so that each sample is computed as if it were
            alone. The releases of N1, N1.5 and N1.7 attend to it.

    Raises:
        ValueError: a sample has no image.
    """
    ids, is_token = _tokens(batch)
    token_mask = is_token[:, None, None] if hides_padding and not bool(is_token.all()) else None
    if config.action_head.dit.attend_text_every_n is None:
        return ContextPlan(None, None, token_mask)
    is_image = ids == config.backbone.image_token_id
    if not bool(is_image.any(1).all()):
        raise ValueError("input_ids: a sample has no image token, the model needs at least one image per sample")
    return ContextPlan((is_token & ~is_image)[:, None, None], (is_token & is_image)[:, None, None], token_mask)


def to_device(batch: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Move a batch to the device; the inputs of a plan stay on the host, so that planning does not wait."""
    return {key: value if key in HOST_KEYS else value.to(device) for key, value in batch.items()}


def causal_mask(padding_mask: Tensor) -> Tensor:
    """Return `(B, 1, T, T)` bool: earlier tokens that are not padding, and oneself so that no row is empty."""
    length = padding_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ((causal & padding_mask[:, None, :]) | torch.eye(length, dtype=torch.bool))[:, None]


def resized_positions(stored: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return index and share `(C, P)` of the stored positions, of a `stored` x `stored` square, in those of an image.

    Bilinear with antialiasing, corners not aligned; C is as small as the two sizes allow.
    """
    (rows, row_shares), (columns, column_shares) = _taps(stored, grid[0]), _taps(stored, grid[1])
    index = rows[:, None, :, None] * stored + columns[None, :, None, :]  # (taps, taps, rows, columns)
    share = row_shares[:, None, :, None] * column_shares[None, :, None, :]
    return index.flatten(2).flatten(0, 1), share.flatten(2).flatten(0, 1)


def corner_positions(stored: int, grid: Grid, merge: int) -> tuple[Tensor, Tensor]:
    """Return index and share `(4, P)` of the stored positions around each patch, patches of a merged token together.

    The outermost patches get the outermost stored positions.
    """
    row, column = (torch.linspace(0, stored - 1, count) for count in grid)
    top, left = row.long(), column.long()
    bottom, right = (top + 1).clamp(max=stored - 1), (left + 1).clamp(max=stored - 1)
    down, across = (row - top)[:, None], (column - left)[None]
    index = [first[:, None] * stored + second for first in (top, bottom) for second in (left, right)]
    share = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    return torch.stack([_merged(i, merge) for i in index]), torch.stack([_merged(s, merge) for s in share])


def _tokens(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the ids `(B, T)` and which of them are no padding, `(B, T)` bool."""
    ids = batch["input_ids"].cpu()
    return ids, batch["attention_mask"].cpu().bool() if "attention_mask" in batch else torch.ones_like(ids).bool()


def _grids(batch: Mapping[str, Tensor], backbone: BackboneConfig) -> tuple[Grid, ...]:
    """Return the sizes of packed images; empty for square ones."""
    if not backbone.is_packed:
        return ()
    grids = tuple((rows, columns) for rows, columns in batch["image_grid"].tolist())
    for rows, columns in grids:
        if min(rows, columns) < 1 or rows % backbone.downsample or columns % backbone.downsample:
            raise ValueError(
                f"image_grid: {rows} x {columns} patches, the model joins {backbone.downsample} x {backbone.downsample}"
            )
    return grids


def _token_rows(backbone: BackboneConfig, is_image: Tensor, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
    """Return per image the rows of the flattened prompts that its tokens go to."""
    rows = is_image.flatten().nonzero()[:, 0]
    if backbone.is_packed:
        counts = [backbone.image_tokens(*grid) for grid in grids]
    else:
        counts = [backbone.num_image_tokens] * (len(rows) // backbone.num_image_tokens)
    if not counts or len(rows) != sum(counts):
        raise ValueError(
            f"input_ids: {len(rows)} image tokens for {len(counts)} images, expected {sum(counts)} and at "
            "least one image"
        )
    return rows.split(counts)


def _groups(backbone: BackboneConfig, grids: tuple[Grid, ...], dtype: torch.dtype) -> tuple[ImageGroup, ...]:
    vision, groups = backbone.vision, []
    for grid in dict.fromkeys(grids):
        images = tuple(i for i, other in enumerate(grids) if other == grid)
        if isinstance(vision, QwenVisionConfig):
            index, share = corner_positions(vision.grid, grid, backbone.downsample)
            rotary = _vision_rotary(grid, backbone.downsample, vision.hidden_size // vision.num_heads, dtype)
        else:
            (index, share), rotary = resized_positions(vision.grid, grid), None
        groups.append(ImageGroup(grid, images, index, share, rotary))
    return tuple(groups)


def _taps(stored: int, count: int) -> tuple[Tensor, Tensor]:
    """Return index and share `(taps, count)` of the stored positions along one side, resized to `count`."""
    unit = torch.eye(stored)[None, None]
    shares = F.interpolate(unit, (stored, count), mode="bilinear", align_corners=False, antialias=True)[0, 0]
    most = int((shares != 0).sum(0).max())
    top = shares.topk(most, dim=0)
    return top.indices, top.values


def _vision_rotary(grid: Grid, merge: int, head_dim: int, dtype: torch.dtype) -> Rotary:
    """Half of the channel pairs turn with the row, half with the column; angles have the model's type."""
    frequencies = rotary_frequencies(head_dim // 2, _VISION_THETA).to(dtype)
    row, column = torch.meshgrid(*(torch.arange(count) for count in grid), indexing="ij")
    places = torch.stack([_merged(row, merge), _merged(column, merge)], -1).to(dtype)  # (P, 2)
    return rotary_table((places[..., None] * frequencies).flatten(1))


def _language_rotary(
    backbone: BackboneConfig, is_token: Tensor, rows: tuple[Tensor, ...], grids: tuple[Grid, ...], dtype: torch.dtype
) -> Rotary:
    language = backbone.language
    frequencies = rotary_frequencies(language.head_width, language.rope_theta)
    if language.rounds_frequencies:
        frequencies = frequencies.to(dtype).float()
    if language.rope_sections is None:
        return rotary_table(torch.arange(is_token.shape[1])[:, None] * frequencies)
    places = image_places(is_token, rows, grids, backbone.downsample)  # (3, B, T)
    angles = places[..., None] * frequencies  # (3, B, T, K/2)
    return rotary_table(_interleave(angles, language.rope_sections)[:, None])


def image_places(is_token: Tensor, rows: tuple[Tensor, ...], grids: tuple[Grid, ...], merge: int) -> Tensor:
    """Return time, row and column `(3, B, T)` of every token, counted from the first that is not padding.

    A text token has one place in all three; an image has one time and spreads over rows and columns, and the
    text after it continues after its longer side. Padding is at 1.

    Args:
        is_token: `(B, T)` bool, False at padding.
        rows: per image the rows of its tokens in the flattened `(B T)` prompts.
        grids: per image its patches.
        merge: patches along a side of a token.

    Raises:
        ValueError: image tokens of one image are not adjacent.
    """
    count = (is_token.long().cumsum(1) - 1).flatten()  # of tokens before, images counted like text
    places = count.repeat(3, 1)  # (3, B T)
    length, saved = is_token.shape[1], [0] * len(is_token)
    for image, grid in zip(rows, grids, strict=True):
        first, last = int(image[0]), int(image[-1])
        sample = first // length
        end = (sample + 1) * length
        if last - first != len(image) - 1 or last >= end:
            raise ValueError("input_ids: the tokens of an image are not adjacent in one sample")
        height, width = grid[0] // merge, grid[1] // merge
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        spread = torch.stack([torch.zeros_like(row), row, column]).flatten(1)
        places[:, first : last + 1] = count[first] - saved[sample] + spread
        saved[sample] += height * width - max(height, width)
        places[:, last + 1 : end] = count[last + 1 : end] - saved[sample]
    return places.unflatten(1, is_token.shape).masked_fill(~is_token, 1)


def _interleave(angles: Tensor, sections: tuple[int, int, int]) -> Tensor:
    """Take the channel pairs' angles from time, row and column in turn: `(3, B, T, K/2)` to `(B, T, K/2)`."""
    chosen = angles[0].clone()  # pairs that rows and columns leave belong to time
    for axis in (1, 2):
        pairs = slice(axis, 3 * sections[axis], 3)
        chosen[..., pairs] = angles[axis][..., pairs]
    return chosen


def _merged(x: Tensor, merge: int) -> Tensor:
    """Flatten `(rows, columns)` so that the patches of each merged token follow each other."""
    rows, columns = x.shape
    return x.view(rows // merge, merge, columns // merge, merge).transpose(1, 2).flatten()


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a plan, or a part of one, with `function` applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, function) for item in value)
    if isinstance(value, ContextPlan | ImageGroup):
        fields = {f.name: map_tensors(getattr(value, f.name), function) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def plan_tensors(plan: ContextPlan) -> list[Tensor]:
    """List the tensors of a plan, in the order of its fields."""
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(plan, take)
    return found
