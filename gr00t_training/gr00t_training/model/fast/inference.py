# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Model for inference: the same numbers as `Gr00tModel`, in fewer and larger operations.

What depends only on the prompt and the image sizes is prepared once (`Prepared`); the rest has static shapes and
never waits for the device, so that it can be captured in a CUDA graph.

Letters in shapes: B batch, I images of the whole batch, T prompt tokens, M image tokens of the whole batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.backbone import Backbone
from gr00t_training.model.dit import Attends
from gr00t_training.model.fast.head import InferenceHead, Places
from gr00t_training.model.fast.kernels import norm
from gr00t_training.model.fast.layers import (
    EncoderStack,
    LanguageStack,
    Linear,
    Rotary,
    linear_of,
    norm_of,
    weight_bytes,
)
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.plan import Grid, ImageGroup, Plan
from gr00t_training.model.vision import VisionTower, by_group, fold_patches, unshuffle_patches
from gr00t_training.model.vision_qwen import Merger, QwenVisionTower


@dataclass(frozen=True)
class Prepared:
    """What prompt and image sizes fix, ready for the layers; tensors are on the model's device."""

    input_ids: Tensor  # (B T,) prompt tokens
    image_rows: Tensor  # (M,) rows that image tokens go to
    rotary: Rotary  # (T, K) or (B T, K) cosines and sines of the language model
    attention_mask: Tensor | None  # (B, 1, T, T) bool; None: causal
    row_mask: Tensor | None  # (B T, 1), 0 at padding; None: nothing is padded
    places: Mapping[Attends, Places]  # of text and images for cross attention; empty: it attends to everything
    positions: tuple[Tensor, ...]  # per group of images (T, D), in the model's type
    groups: tuple[ImageGroup, ...]  # packed images of one size each; empty: square images
    grid: tuple[Grid, ...]  # of every image; empty: square images
    samples: int

    @property
    def key(self) -> tuple:
        """Everything but the values of the tensors: equal keys may share a captured graph."""
        return (self.samples, self.grid, tuple((part.shape, part.dtype) for part in self._tensors()))

    def copy(self) -> Prepared:
        """Return a copy with separate tensors."""
        return _copied(self)

    def assign(self, other: Prepared, last: Prepared) -> None:
        """Take over the values of another one with the same key; `last`: the one whose values it has."""
        for mine, theirs, held in zip(self._tensors(), other._tensors(), last._tensors(), strict=True):
            if theirs is not held:
                mine.copy_(theirs)

    def _tensors(self) -> list[Tensor]:
        return _tensors(self)


_PARTS = (Prepared, Places, ImageGroup)  # dataclasses that hold a prepared prompt's tensors


class InferenceModel:
    """A trained model for one embodiment and a fixed number of denoising steps."""

    def __init__(self, model: Gr00tModel, projector: int, num_steps: int) -> None:
        """Take over a model.

        Args:
            model: its layers become views of joined weights; it still computes, but is not to be trained any more.
            projector: row of the embodiment-specific tables.
            num_steps: denoising steps.
        """
        self.config = model.config
        self.dtype = model.dtype
        self.device = next(model.parameters()).device
        self._model = model.eval().requires_grad_(False)
        self._backbone = _InferenceBackbone(model.backbone)
        self.head = InferenceHead(model.action_head, projector, num_steps)

    @torch.inference_mode()
    def prepare(self, batch: dict[str, Tensor]) -> Prepared:
        """Work out what a batch's prompts and image sizes fix.

        Args:
            batch: `input_ids`, `attention_mask` and, for packed images, `image_grid`, on the CPU.

        Raises:
            ValueError: image tokens and images do not agree.
        """
        return self._backbone.prepare(self._model.plan(batch))

    @torch.inference_mode()
    def with_prompts(self, prepared: Prepared, input_ids: Tensor) -> Prepared:
        """Return the preparation of other prompts `(B, T)` with the same padding and places of image tokens."""
        if self.device.type == "cuda":  # else a copy of more than 64 KB waits for the batch that is computed
            input_ids = input_ids.pin_memory()
        return replace(prepared, input_ids=input_ids.to(self.device, non_blocking=True).flatten())

    def __call__(
        self,
        pixels: Tensor,
        prepared: Prepared,
        state: Tensor,
        start: Tensor,
        strength: Tensor,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Return normalized actions `(B, H, A)` float32.

        Args:
            pixels: `(I, 3, P, P)` or packed patches `(N, patch_dim)`.
            prepared: of the batch's prompts and image sizes.
            state: `(B, rows, state_dim)`.
            start: `(B, H, A)` noise, or rows of an earlier chunk where it is continued.
            strength: `(H, 1)` or `(B, H, 1)` share of the velocity that each row follows; ones for a new chunk.
            prefix: `(H,)` or `(B, H)`, 1 at rows that are given, see `InferenceHead.sample`.
        """
        contexts = self.head.context(self.features(pixels, prepared), prepared.samples, prepared.places)
        state, start, strength = (part.to(self.dtype) for part in (state, start, strength))
        return self.head.sample(contexts, state, start, strength, prefix).float()

    def bytes_read(self) -> int:
        """Return the bytes of weights that one call reads: the backbone's once, the sampler's once per step."""
        return self._backbone.num_bytes() + self.head.num_bytes()

    def features(self, pixels: Tensor, prepared: Prepared) -> Tensor:
        """Return the backbone's features as rows `(B T, D)`."""
        return self._backbone(pixels.to(self.dtype), prepared)


class _InferenceBackbone:
    def __init__(self, backbone: Backbone) -> None:
        self._config = backbone.config
        tower = backbone.vision
        self._tower = tower
        self._is_qwen = isinstance(tower, QwenVisionTower)
        self._vision = EncoderStack(list(tower.layers), getattr(tower, "post_layernorm", None))  # type: ignore[arg-type]
        weight = tower.patch_embedding.weight.detach()
        self._patch = Linear(weight.flatten(1), None)
        self._patch_bias = tower.patch_embedding.bias.detach()  # type: ignore[union-attr]
        self._connector = None if self._is_qwen else _connector(backbone.connector)
        self._merger = _MergerWeights(tower.merger) if isinstance(tower, QwenVisionTower) else None
        deepstack = tower.deepstack_mergers if isinstance(tower, QwenVisionTower) else []
        self._deepstack = [_MergerWeights(merger) for merger in deepstack]  # type: ignore[arg-type]
        self._taps = tower.deepstack_layers if isinstance(tower, QwenVisionTower) else ()
        language = backbone.language
        self._embedding = language.embed_tokens.weight.detach()
        self._language = LanguageStack(language.layers, language.norm if language.norms_output else None)
        self._linear = linear_of(backbone.linear) if isinstance(backbone.linear, nn.Linear) else None

    def num_bytes(self) -> int:
        mergers = self._deepstack if self._merger is None else [self._merger, *self._deepstack]
        pairs = [(merger.first, merger.second) for merger in mergers]
        return weight_bytes(self._patch, self._vision, self._connector, pairs, self._language, self._linear)

    def prepare(self, plan: Plan) -> Prepared:
        dtype, samples = self._embedding.dtype, len(plan.input_ids)
        if isinstance(self._tower, VisionTower) and not plan.images:
            positions: tuple[Tensor, ...] = (self._tower.position_embedding.weight,)
        else:
            positions = tuple(self._tower.positions(group) for group in plan.images)  # type: ignore[arg-type]
        rows = None if plan.padding_mask is None else plan.padding_mask.flatten()[:, None].to(dtype)
        masks = {Attends.TEXT: plan.text_mask, Attends.IMAGES: plan.image_mask}
        cos, sin = plan.rotary
        return Prepared(
            input_ids=plan.input_ids.flatten(),
            image_rows=plan.image_rows,
            rotary=(cos.reshape(-1, cos.shape[-1]), sin.reshape(-1, sin.shape[-1])),
            attention_mask=plan.attention_mask,
            row_mask=rows,
            places={kind: _places(mask) for kind, mask in masks.items() if mask is not None},
            positions=tuple((part + self._patch_bias).to(dtype) for part in positions),
            groups=plan.images,
            grid=plan.image_grid,
            samples=samples,
        )

    def __call__(self, pixels: Tensor, prepared: Prepared) -> Tensor:
        tokens, added = self._image_tokens(pixels, prepared)
        x = F.embedding(prepared.input_ids, self._embedding).index_copy(0, prepared.image_rows, tokens)
        x = self._language(
            x,
            prepared.samples,
            rotary=prepared.rotary,
            mask=prepared.attention_mask,
            row_mask=prepared.row_mask,
            added=added,
            added_index=prepared.image_rows,
        )
        if self._config.reproject_vision:
            x = x.index_copy(0, prepared.image_rows, tokens)
        return x if self._linear is None else self._linear(x)

    def _image_tokens(self, pixels: Tensor, prepared: Prepared) -> tuple[Tensor, list[Tensor]]:
        """Return the image tokens `(M, D)` of all images, and what is added to them behind the language layers."""
        if not prepared.groups:
            patches, side = _patches(pixels, self._tower.patch_embedding.kernel_size[0])  # type: ignore[union-attr, index]
            x, _ = self._vision(self._embed(patches, prepared.positions[0]), len(pixels))
            return self._connect(fold_patches(x.view(len(pixels), side * side, -1), self._config.downsample)), []
        parts: list[Tensor] = []
        levels: list[list[Tensor]] = [[] for _ in self._taps]
        patches_of = by_group(pixels, prepared.grid, prepared.groups)
        for patches, group, positions in zip(patches_of, prepared.groups, prepared.positions, strict=True):
            x = self._embed(patches, positions)
            x, tapped = self._vision(x, len(patches), group.rotary, self._taps)
            if self._merger is None:
                x = x.view(len(patches), patches.shape[1], -1)
                parts.append(self._connect(unshuffle_patches(x, group.grid, self._config.downsample)))
                continue
            parts.append(self._merger(x))
            for level, merge, rows in zip(levels, self._deepstack, tapped, strict=True):
                level.append(merge(rows))
        return _joined(parts), [_joined(level) for level in levels]

    def _embed(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Map patches `(I, T, patch_dim)` to rows `(I T, D)`; `positions` hold the bias."""
        images, length = patches.shape[:2]
        rows = positions if images == 1 else positions.repeat(images, 1)
        return torch.addmm(rows, patches.reshape(images * length, -1), self._patch.weight.t())

    def _connect(self, folded: Tensor) -> Tensor:
        x = folded.flatten(0, 1)
        if self._connector is None:
            raise AssertionError("a tower without mergers has a connector")
        for layer in self._connector:
            x = layer(x)
        return x


class _MergerWeights:
    """`Merger` on rows."""

    def __init__(self, merger: Merger) -> None:
        self._norm = norm_of(merger.norm)
        self._normed = merger.norm.normalized_shape[0]
        self.first, self.second = linear_of(merger.linear_fc1), linear_of(merger.linear_fc2)
        self._joined = merger.linear_fc1.in_features

    def __call__(self, x: Tensor) -> Tensor:
        x = norm(x.view(-1, self._normed), self._norm).view(-1, self._joined)
        return self.second(F.gelu(self.first(x)))


def _connector(layers: nn.Module) -> list:
    made: list = []
    for layer in layers.children():
        if isinstance(layer, nn.LayerNorm):
            how = norm_of(layer)
            made.append(lambda x, how=how: norm(x, how))
        elif isinstance(layer, nn.Linear):
            made.append(linear_of(layer))
        else:
            made.append(layer)
    return made


def _patches(pixels: Tensor, size: int) -> tuple[Tensor, int]:
    """Cut square images `(I, 3, P, P)` into patches `(I, T, 3 size size)` row by row; returns the patches of a side."""
    images, channels, side = pixels.shape[:3]
    count = side // size
    cells = pixels.view(images, channels, count, size, count, size).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(images, count * count, channels * size * size), count


def _places(mask: Tensor) -> Places:
    """Return what a mask `(B, 1, 1, T)` marks; a choice of places is faster than a mask and gives the same."""
    if bool((mask == mask[:1]).all()):
        return Places(tokens=mask[0, 0, 0].nonzero()[:, 0])
    return Places(mask=mask)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [part for item in value for part in _tensors(item)]
    if isinstance(value, Mapping):
        return [part for item in value.values() for part in _tensors(item)]
    if isinstance(value, _PARTS):
        return [part for field in fields(value) for part in _tensors(getattr(value, field.name))]
    return []


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(_copied(item) for item in value)
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, _PARTS):
        return replace(value, **{field.name: _copied(getattr(value, field.name)) for field in fields(value)})
    return value
