# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the model of all four families, those of the releases, and a table of named variants.

The published files are read and written by `config_n1`, `config_n1_5`, `config_n1_6` and `config_n1_7`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

N1_MODEL_TYPE = "gr00t_n1"
N1_5_MODEL_TYPE = "gr00t_n1_5"
N1_6_MODEL_TYPE = "Gr00tN1d6"
N1_7_MODEL_TYPE = "Gr00tN1d7"


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """SigLIP and SigLIP 2 tower."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    image_size: int = 224  # side of the square image that the stored positions are of [px]
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
    deepstack_layers: tuple[int, ...] = (5, 11, 17)  # whose outputs go to the first language layers

    @property
    def grid(self) -> int:
        """Stored positions along one side."""
        return round(self.num_positions**0.5)

    @property
    def image_size(self) -> int:
        """Side of the square image that the stored positions are of [px]."""
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
        """Tokens of the prompt that one image fills, where all images are of one size."""
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
    model_type: str = N1_MODEL_TYPE
    # `config.json` and the file of the vision-language model as they were read: keys unknown here are written back
    model_source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    vlm_source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._check_backbone()
        head = self.action_head
        if head.refiner and head.refiner.num_layers and head.refiner.width != self.feature_dim:
            raise ValueError(f"refiner width {head.refiner.width} is not the features' width {self.feature_dim}")
        if head.add_position_embedding and head.action_horizon > head.max_positions:
            raise ValueError(f"action horizon {head.action_horizon} exceeds the {head.max_positions} positions stored")
        if head.dit.attend_text_every_n is not None and not head.dit.interleave_self_attention:
            raise ValueError("text and images in turn need self attention in every other block of the transformer")

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
        if not isinstance(vision, QwenVisionConfig):
            return
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


@dataclass(frozen=True)
class Variant:
    """A model that can be made from scratch."""

    config: Gr00tConfig
    projectors: Mapping[str, int]  # embodiment tag -> row of the embodiment-specific tables
    tokenizer: str | None  # folder under `tokenizers/` that holds its tokenizer.json; None: not shipped


N1_PROJECTORS = {"gr1": 24, "new_embodiment": 31}
N1_5_PROJECTORS = {"gr1": 24, "oxe_droid": 17, "agibot_genie1": 26, "new_embodiment": 31}
N1_6_PROJECTORS = {
    "robocasa_panda_omron": 13,
    "gr1": 20,
    "behavior_r1_pro": 24,
    "unitree_g1": 8,
    "libero_panda": 2,
    "oxe_google": 0,
    "oxe_widowx": 1,
    "oxe_droid": 16,
    "new_embodiment": 10,
}
N1_7_PROJECTORS = {
    "oxe_droid_relative_eef_relative_joint": 24,
    "xdof_relative_eef_relative_joint": 27,
    "xdof_relative_eef_relative_joint_subtask": 27,
    "real_g1_relative_eef_relative_joints": 25,
    "real_r1_pro_sharpa_relative_eef": 26,
    "real_r1_pro_sharpa_relative_eef_human": 26,
    "real_r1_pro_sharpa_relative_eef_maxinsights": 26,
    "real_r1_pro_sharpa_relative_eef_mecka": 26,
    "unitree_g1_full_body_with_waist_height_nav_cmd": 25,
    "unitree_g1_sonic": 11,
    "simpler_env_google": 0,
    "simpler_env_widowx": 1,
    "libero_sim": 2,
    "new_embodiment": 10,
    "robocasa_panda_omron": 10,
    "robocasa_gr1_tabletop": 10,
}

_QWEN3 = LanguageConfig(
    vocab_size=151680,
    hidden_size=2048,
    intermediate_size=6144,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    norms_heads=True,
    norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=40960,
)

N1_5 = Gr00tConfig(
    backbone=BackboneConfig(
        language=_QWEN3, projector_dim=-1, downsample=1, is_connector_deep=False, image_token_id=151669
    ),
    action_head=ActionHeadConfig(refiner=RefinerConfig(), num_future_tokens=32, num_steps=4),
    model_type=N1_5_MODEL_TYPE,
)

# What both families have apart from sizes.
_N1_6_HEAD = ActionHeadConfig(
    dit=DitConfig(num_layers=32, attend_text_every_n=2),
    refiner=RefinerConfig(num_layers=0),
    scales_time=True,
    loss_epsilon=1e-6,
    num_steps=4,
)

N1_6 = Gr00tConfig(
    backbone=BackboneConfig(
        vision=VisionConfig(is_packed=True),
        language=dataclasses.replace(_QWEN3, rounds_frequencies=True),
        select_layer=16,
        projector_dim=-1,
        image_token_id=151669,
    ),
    action_head=dataclasses.replace(
        _N1_6_HEAD,
        state_dim=128,
        action_dim=128,
        action_horizon=50,
        state_history=None,
        state_dropout=0.8,
        has_mask_token=True,
    ),
    model_type=N1_6_MODEL_TYPE,
)

N1_7 = Gr00tConfig(
    backbone=BackboneConfig(
        vision=QwenVisionConfig(),
        language=dataclasses.replace(
            _QWEN3,
            vocab_size=151936,
            rope_theta=5e6,
            rope_sections=(24, 20, 20),
            rounds_frequencies=True,
            max_positions=262144,
        ),
        select_layer=16,
        norms_output=False,
        projector_dim=-1,
        image_token_id=151655,
    ),
    action_head=dataclasses.replace(
        _N1_6_HEAD, refiner=RefinerConfig(), state_dim=132, action_dim=132, action_horizon=40, state_dropout=0.2
    ),
    model_type=N1_7_MODEL_TYPE,
)

# Few million parameters, so that recording, training and control can be tried on a laptop's processor.
_COMPACT = Gr00tConfig(
    backbone=BackboneConfig(
        vision=VisionConfig(hidden_size=128, intermediate_size=384, num_layers=6, num_heads=4, image_size=168),
        language=LanguageConfig(
            vocab_size=736, hidden_size=192, intermediate_size=512, num_layers=3, num_heads=4, max_positions=2048
        ),
        select_layer=3,
        projector_dim=192,
        image_token_id=726,
    ),
    action_head=ActionHeadConfig(
        dit=DitConfig(num_heads=4, head_dim=48, num_layers=4, output_dim=192, dropout=0.0),
        hidden_size=192,
        num_embodiments=2,
        max_positions=64,
        num_steps=4,
    ),
)

VARIANTS: Mapping[str, Variant] = {
    "n1_2b": Variant(Gr00tConfig(), N1_PROJECTORS, None),
    "n1_compact": Variant(_COMPACT, {"gr1": 0, "new_embodiment": 1}, "compact"),
    "n1_5_3b": Variant(N1_5, N1_5_PROJECTORS, None),
    "n1_6_3b": Variant(N1_6, N1_6_PROJECTORS, None),
    "n1_7_3b": Variant(N1_7, N1_7_PROJECTORS, None),
}


def with_horizon(config: Gr00tConfig, horizon: int) -> Gr00tConfig:
    """Return `config` for chunks of `horizon` ticks; no weight depends on it."""
    return dataclasses.replace(config, action_head=dataclasses.replace(config.action_head, action_horizon=horizon))
