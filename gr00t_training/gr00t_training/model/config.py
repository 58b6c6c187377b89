# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a model; defaults are those of N1. The sizes of each release are in `gr00t_training.model.families`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gr00t_training.model.config_limits import check_limits


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """SigLIP and SigLIP 2 tower."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    image_size: int = 224  # side of the square image of the stored positions [px]
    patch_size: int = 14  # [px]
    norm_eps: float = 1e-6
    is_packed: bool = False  # takes patches of images of any size; otherwise square images of `image_size`

    @property
    def grid(self) -> int:
        """Stored positions along one side."""
        return self.image_size // self.patch_size

    @property
    def patch_dim(self) -> int:
        """Numbers of one packed patch."""
        return 3 * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """Tower of Qwen3-VL with its mergers; always packed."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    num_positions: int = 2304  # stored, of a square
    patch_size: int = 16  # [px]
    temporal_patch_size: int = 2  # frames of a patch
    output_dim: int = 2048  # of a merged token
    deepstack_layers: tuple[int, ...] = (5, 11, 17)  # vision layers; their outputs go to the first language layers

    @property
    def grid(self) -> int:
        """Stored positions along one side."""
        return round(self.num_positions**0.5)

    @property
    def image_size(self) -> int:
        """Side of the square image of the stored positions [px]."""
        return self.grid * self.patch_size

    @property
    def patch_dim(self) -> int:
        """Numbers of one packed patch."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Llama or Qwen3 layers."""

    vocab_size: int = 49164
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_layers: int = 24  # of the language model; `BackboneConfig.select_layer` of them are kept
    num_heads: int = 32
    num_kv_heads: int | None = None  # heads of keys and values; None: `num_heads`
    head_dim: int | None = None  # None: `hidden_size / num_heads`
    norms_heads: bool = False  # whether queries and keys of each head are normed
    norm_eps: float = 1e-5
    rope_theta: float = 130000.0
    # channel pairs that turn with time, row and column of a token; None: all with its place in the row of tokens
    rope_sections: tuple[int, int, int] | None = None
    # whether rotary frequencies have the model's type: where the release casts all of the model, they go with it
    rounds_frequencies: bool = False
    max_positions: int = 8192

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.head_dim or self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Vision-language model, cut to its first layers."""

    vision: VisionConfig | QwenVisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    select_layer: int = 12  # language layers kept
    norms_output: bool = True  # whether the final norm of the language model comes after the kept layers
    projector_dim: int = 2048  # input width of the last projection; -1: no projection
    output_dim: int | None = None  # of the last projection; None: width of the action head's tokens
    downsample: int = 2  # this many image tokens per side are folded into one
    is_connector_deep: bool = True  # norm, linear, GELU, linear; otherwise one linear layer
    image_token_id: int = 49154  # `<IMG_CONTEXT>`, `<|image_pad|>`
    reproject_vision: bool = False  # put the image tokens back over the language model's output

    @property
    def is_packed(self) -> bool:
        """Whether images come as packed patches, of any size."""
        return isinstance(self.vision, QwenVisionConfig) or self.vision.is_packed

    @property
    def num_kept_layers(self) -> int:
        """Language layers that the model has."""
        return min(self.select_layer, self.language.num_layers)

    @property
    def num_image_tokens(self) -> int:
        """Tokens of the prompt that one image fills, if all images have one size."""
        return self.image_tokens(self.vision.grid, self.vision.grid)

    def image_tokens(self, rows: int, columns: int) -> int:
        """Tokens of the prompt that an image of so many patches fills."""
        return (rows // self.downsample) * (columns // self.downsample)


@dataclass(frozen=True, kw_only=True)
class DitConfig:
    """Diffusion transformer."""

    num_heads: int = 32
    head_dim: int = 48
    num_layers: int = 16
    output_dim: int = 1024
    dropout: float = 0.2
    final_dropout: bool = True
    norm_eps: float = 1e-5
    interleave_self_attention: bool = True  # odd blocks attend to themselves; otherwise every block to the backbone
    # of the even blocks, every n-th attends to the text's features only and the others to those of the images, none to
    # padding; None: all of them to all features
    attend_text_every_n: int | None = None

    @property
    def width(self) -> int:
        """Width of the tokens inside."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Norm and blocks of self attention between backbone and diffusion transformer."""

    num_heads: int = 32
    head_dim: int = 64
    num_layers: int = 4
    dropout: float = 0.2
    final_dropout: bool = True
    has_norm: bool = True  # before the blocks

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class ActionHeadConfig:
    """Flow-matching action head."""

    dit: DitConfig = field(default_factory=DitConfig)
    refiner: RefinerConfig | None = None  # None: the features go to the diffusion transformer as they are
    num_future_tokens: int = 0  # learned tokens between state and actions
    hidden_size: int = 1024
    action_dim: int = 32  # action channels after padding
    state_dim: int = 64  # state channels after padding
    state_history: int | None = 1  # rows of state joined to one token; None: a token per row
    state_dropout: float = 0.0  # share of the training samples whose state the model does not see
    has_mask_token: bool = False  # learned, in the place of a dropped state; otherwise zeros
    state_noise: float = 0.0  # standard deviation of the noise on state tokens in training
    # most first actions of a chunk that the model was trained to be given (arXiv 2512.05964); 0: it was not
    rtc_max_delay: int = 0
    action_horizon: int = 16  # ticks in a chunk
    num_embodiments: int = 32
    add_position_embedding: bool = True
    max_positions: int = 1024
    noise_alpha: float = 1.5  # s ~ Beta(alpha, beta)
    noise_beta: float = 1.0
    noise_s: float = 0.999  # t = (noise_s - s) / noise_s, or as below
    scales_time: bool = False  # t = (1 - s) * noise_s
    loss_epsilon: float = 0.0  # added to the count of channels that the loss is divided by
    num_time_buckets: int = 1000
    num_steps: int = 16  # sampler steps of the published file; the release's scripts use 4


@dataclass(frozen=True, kw_only=True)
class Gr00tConfig:
    """Everything that fixes the model's tensors and its numerics."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    action_head: ActionHeadConfig = field(default_factory=ActionHeadConfig)
    model_type: str = "gr00t_n1"  # of config.json; names the family
    # `config.json` and the file of the vision-language model as they were read: keys unknown here are written back
    model_source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    vlm_source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_limits(self)
        self._check_heads()
        self._check_backbone()
        head = self.action_head
        if head.refiner and head.refiner.num_layers and head.refiner.width != self.feature_dim:
            raise ValueError(f"refiner width {head.refiner.width} is not the features' width {self.feature_dim}")
        if head.add_position_embedding and head.action_horizon > head.max_positions:
            raise ValueError(f"action horizon {head.action_horizon} exceeds the {head.max_positions} positions stored")
        if head.dit.attend_text_every_n is not None and not head.dit.interleave_self_attention:
            raise ValueError("text and images in turn need self attention in every other block of the transformer")

    def _check_heads(self) -> None:
        """Refuse heads that do not fit the widths, before layers are created."""
        vision, language = self.backbone.vision, self.backbone.language
        if vision.hidden_size % vision.num_heads:
            raise ValueError(f"the tower's width {vision.hidden_size} is not a multiple of {vision.num_heads} heads")
        if language.head_dim is None and language.hidden_size % language.num_heads:
            raise ValueError(f"the text's width {language.hidden_size} is not a multiple of {language.num_heads} heads")
        if language.num_heads % (language.num_kv_heads or language.num_heads):
            raise ValueError(
                f"num_key_value_heads is {language.num_kv_heads}, {language.num_heads} query heads are not a multiple"
            )
        if language.head_width % 2:
            raise ValueError(f"the text's heads have {language.head_width} channels; rotary positions need pairs")

    def _check_backbone(self) -> None:
        backbone, vision = self.backbone, self.backbone.vision
        language = backbone.language
        if vision.image_size % vision.patch_size or (not backbone.is_packed and vision.grid % backbone.downsample):
            raise ValueError(
                f"image size {vision.image_size} is not a multiple of patch size x downsample "
                f"({vision.patch_size} x {backbone.downsample})"
            )
        if language.rope_sections is not None and sum(language.rope_sections) != language.head_width // 2:
            raise ValueError(
                f"rotary sections {language.rope_sections} do not add up to {language.head_width // 2} channel pairs"
            )
        if backbone.image_token_id >= language.vocab_size:
            raise ValueError(
                f"image token {backbone.image_token_id} is beyond the {language.vocab_size} entries of the vocabulary"
            )
        if not isinstance(vision, QwenVisionConfig):
            return
        if vision.hidden_size // vision.num_heads % 4:
            raise ValueError(
                f"the tower's heads have {vision.hidden_size // vision.num_heads} channels; rotary positions of rows "
                "and columns need a multiple of 4"
            )
        if vision.grid**2 != vision.num_positions:
            raise ValueError(f"{vision.num_positions} stored image positions are not a square")
        if vision.output_dim != language.hidden_size:
            raise ValueError(f"image tokens of width {vision.output_dim} are not the text's {language.hidden_size}")
        if any(not 0 <= layer < vision.num_layers for layer in vision.deepstack_layers):
            raise ValueError(
                f"deepstack layers {vision.deepstack_layers} are not in the {vision.num_layers} of the tower"
            )

    @property
    def image_size(self) -> int:
        """Side of the square image that the model takes [px]; where images are packed, they may be of any size."""
        return self.backbone.vision.image_size

    @property
    def feature_dim(self) -> int:
        """Width of what the backbone hands to the action head."""
        if self.backbone.projector_dim == -1:
            return self.backbone.language.hidden_size
        return self.backbone.output_dim or self.action_head.dit.width


def with_horizon(config: Gr00tConfig, horizon: int) -> Gr00tConfig:
    """Return `config` for chunks of `horizon` ticks; no weight depends on it."""
    return dataclasses.replace(config, action_head=dataclasses.replace(config.action_head, action_horizon=horizon))
