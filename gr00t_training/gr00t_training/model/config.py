# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the model, a table of named variants, and the published `config.json` of N1 read and written.

A published folder holds no sizes of the vision-language model: those of the release are built in here, and any other
folder of ours carries them in `eagle_config.json`. Options of the release that no published checkpoint uses are refused
by name instead of being half supported.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gr00t_training.errors import CheckpointError

N1_MODEL_TYPE = "gr00t_n1"
N1_5_MODEL_TYPE = "gr00t_n1_5"


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """SigLIP tower."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    image_size: int = 224  # side of the square input [px]
    patch_size: int = 14  # [px]
    norm_eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size


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
    max_positions: int = 8192


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Vision-language model, cut to its first layers."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    select_layer: int = 12  # language layers kept
    projector_dim: int = 2048  # input width of the last projection; -1: no projection
    output_dim: int | None = None  # of the last projection; None: width of the action head's tokens
    downsample: int = 2  # this many image tokens per side are folded into one
    is_connector_deep: bool = True  # norm, linear, GELU, linear; otherwise one linear layer
    image_token_id: int = 49154  # `<IMG_CONTEXT>`
    reproject_vision: bool = False  # put the image tokens back over the language model's output

    @property
    def num_image_tokens(self) -> int:
        """Tokens of the prompt that one image fills."""
        return (self.vision.grid // self.downsample) ** 2


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

    @property
    def width(self) -> int:
        """Width of the tokens inside."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Blocks of self attention between backbone and diffusion transformer."""

    num_heads: int = 32
    head_dim: int = 64
    num_layers: int = 4
    dropout: float = 0.2
    final_dropout: bool = True

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
    action_horizon: int = 16  # ticks in a chunk
    num_embodiments: int = 32
    add_position_embedding: bool = True
    max_positions: int = 1024
    noise_alpha: float = 1.5  # s ~ Beta(alpha, beta)
    noise_beta: float = 1.0
    noise_s: float = 0.999  # t = (noise_s - s) / noise_s
    num_time_buckets: int = 1000
    num_steps: int = 16  # sampler steps of the published file; the release's scripts use 4


@dataclass(frozen=True, kw_only=True)
class Gr00tConfig:
    """Everything that fixes the model's tensors and its numerics."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    action_head: ActionHeadConfig = field(default_factory=ActionHeadConfig)
    model_type: str = N1_MODEL_TYPE
    # `config.json` and `eagle_config.json` as they were read: keys unknown here are written back unchanged
    model_source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    vlm_source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        vision, head = self.backbone.vision, self.action_head
        if vision.image_size % (vision.patch_size * self.backbone.downsample):
            raise ValueError(
                f"image size {vision.image_size} is not a multiple of patch size x downsample "
                f"({vision.patch_size} x {self.backbone.downsample})"
            )
        if head.refiner and head.refiner.width != self.feature_dim:
            raise ValueError(f"refiner width {head.refiner.width} is not the features' width {self.feature_dim}")
        if head.action_horizon > head.max_positions:
            raise ValueError(f"action horizon {head.action_horizon} exceeds the {head.max_positions} positions stored")

    @property
    def image_size(self) -> int:
        """Side of the square image that the model takes [px]."""
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

N1_5 = Gr00tConfig(
    backbone=BackboneConfig(
        language=LanguageConfig(
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
        ),
        projector_dim=-1,
        downsample=1,
        is_connector_deep=False,
        image_token_id=151669,
    ),
    action_head=ActionHeadConfig(refiner=RefinerConfig(), num_future_tokens=32, num_steps=4),
    model_type=N1_5_MODEL_TYPE,
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
}


def with_horizon(config: Gr00tConfig, horizon: int) -> Gr00tConfig:
    """Return `config` for chunks of `horizon` ticks; no weight depends on it."""
    return dataclasses.replace(config, action_head=dataclasses.replace(config.action_head, action_horizon=horizon))


# Published key -> field, per section. A key that a file lacks has the value of the release. What has a public name here
# is the same in `gr00t_training.model.config_n1_5`.
VISION_KEYS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "layer_norm_eps": "norm_eps",
}
LANGUAGE_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "max_position_embeddings": "max_positions",
}
_BACKBONE_KEYS = {
    "select_layer": "select_layer",
    "projector_dim": "projector_dim",
    "reproject_vision": "reproject_vision",
}
HEAD_KEYS = {
    "hidden_size": "hidden_size",
    "max_action_dim": "action_dim",
    "max_state_dim": "state_dim",
    "action_horizon": "action_horizon",
    "max_num_embodiments": "num_embodiments",
    "add_pos_embed": "add_position_embedding",
    "max_seq_len": "max_positions",
    "noise_beta_alpha": "noise_alpha",
    "noise_beta_beta": "noise_beta",
    "noise_s": "noise_s",
    "num_timestep_buckets": "num_time_buckets",
    "num_inference_timesteps": "num_steps",
}
DIT_KEYS = {
    "num_attention_heads": "num_heads",
    "attention_head_dim": "head_dim",
    "num_layers": "num_layers",
    "output_dim": "output_dim",
    "dropout": "dropout",
    "final_dropout": "final_dropout",
    "norm_eps": "norm_eps",
    "interleave_self_attention": "interleave_self_attention",
}
# A diffusion_model_cfg that is there but lacks a key falls back to these, not to the values of the release.
DIT_DEFAULTS = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "num_layers": 12,
    "output_dim": 26,
    "dropout": 0.1,
    "interleave_self_attention": False,
}
# Options with one supported value: key -> (value, value when the key is absent).
DIT_FIXED = {
    "positional_embeddings": (None, "sinusoidal"),
    "norm_type": ("ada_norm", "ada_norm"),
    "activation_fn": ("gelu-approximate", "gelu-approximate"),
    "norm_elementwise_affine": (False, False),
    "attention_bias": (True, True),
}
_BACKBONE_FIXED = {"scale_image_resolution": (1, 1)}
VISION_FIXED = {"hidden_act": ("gelu_pytorch_tanh", "gelu_pytorch_tanh"), "num_channels": (3, 3)}
LANGUAGE_FIXED = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "rope_scaling": (None, None),
}


def parse_n1(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    """Read `config.json` and, where a folder has one, `eagle_config.json` of the N1 family.

    Args:
        model: content of `config.json`.
        vlm: sizes of the vision-language model; None: those of the release.

    Raises:
        CheckpointError: an option that is not supported, or sizes that contradict each other.
    """
    vlm = vlm or {}
    backbone, head = model.get("backbone_cfg", {}), model.get("action_head_cfg", {})
    dit = head.get("diffusion_model_cfg")
    check_fixed("backbone_cfg", backbone, _BACKBONE_FIXED)
    check_fixed("vision_config", vlm.get("vision_config", {}), VISION_FIXED)
    check_fixed("llm_config", vlm.get("llm_config", {}), LANGUAGE_FIXED)
    if dit is not None:
        check_fixed("diffusion_model_cfg", dit, DIT_FIXED)
    try:
        config = Gr00tConfig(
            backbone=BackboneConfig(
                vision=VisionConfig(**pick(vlm.get("vision_config", {}), VISION_KEYS)),
                language=LanguageConfig(**pick(vlm.get("llm_config", {}), LANGUAGE_KEYS)),
                downsample=round(1 / vlm.get("downsample_ratio", 0.5)),
                image_token_id=vlm.get("img_context_token_id", 49154),
                **pick(backbone, _BACKBONE_KEYS),
            ),
            action_head=ActionHeadConfig(
                dit=DitConfig() if dit is None else DitConfig(**pick({**DIT_DEFAULTS, **dit}, DIT_KEYS)),
                **pick(head, HEAD_KEYS),
            ),
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1 model") from error
    _check_agreement(config, model, vlm)
    return config


def dump_n1(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `eagle_config.json`; keys that were read and are not understood stay as they were."""
    model, vlm = copy.deepcopy(dict(config.model_source)), copy.deepcopy(dict(config.vlm_source))
    head, backbone = config.action_head, config.backbone
    model.setdefault("architectures", ["GR00T_N1"])
    model.update(
        model_type=config.model_type,
        action_dim=head.action_dim,
        action_horizon=head.action_horizon,
        hidden_size=backbone.language.hidden_size,
    )
    backbone_section = model.setdefault("backbone_cfg", {})
    backbone_section.update(put(backbone, _BACKBONE_KEYS))
    processor = backbone_section.setdefault("processor_cfg", {"max_input_tiles": 1})
    processor.setdefault("model_spec", {"template": "qwen2-chat"})["num_image_token"] = backbone.num_image_tokens
    head_section = model.setdefault("action_head_cfg", {})
    head_section.update(put(head, HEAD_KEYS), action_dim=head.action_dim, input_embedding_dim=head.dit.width)
    head_section.setdefault("diffusion_model_cfg", {}).update(put(head.dit, DIT_KEYS))
    head_section["diffusion_model_cfg"].update({key: value for key, (value, _) in DIT_FIXED.items()})
    vlm.update(
        force_image_size=config.image_size,
        downsample_ratio=1 / backbone.downsample,
        img_context_token_id=backbone.image_token_id,
    )
    vlm.setdefault("vision_config", {}).update(put(backbone.vision, VISION_KEYS))
    language = vlm.setdefault("llm_config", {})
    language.update(put(backbone.language, LANGUAGE_KEYS), num_key_value_heads=backbone.language.num_heads)
    return model, vlm


def pick(section: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a published section gives."""
    return {name: section[key] for key, name in keys.items() if key in section}


def put(config: Any, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return fields under their published keys."""
    return {key: getattr(config, name) for key, name in keys.items()}


def check_fixed(section: str, values: Mapping[str, Any], fixed: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse options of a section that have another value than the supported one."""
    for key, (supported, default) in fixed.items():
        found = values.get(key, default)
        if found != supported:
            raise CheckpointError(f"{section}.{key} is {found!r}, only {supported!r} is supported")


def _check_agreement(config: Gr00tConfig, model: Mapping[str, Any], vlm: Mapping[str, Any]) -> None:
    """Refuse sizes that stand in two places of the published files and differ."""
    head, backbone = model.get("action_head_cfg", {}), model.get("backbone_cfg", {})
    language, vision = config.backbone.language, config.backbone.vision
    specification = backbone.get("processor_cfg", {}).get("model_spec", {})
    claims = {
        "action_head_cfg.input_embedding_dim": (head.get("input_embedding_dim", 1536), config.action_head.dit.width),
        "action_head_cfg.action_dim": (
            head.get("action_dim", config.action_head.action_dim),
            config.action_head.action_dim,
        ),
        "action_horizon": (
            model.get("action_horizon", config.action_head.action_horizon),
            config.action_head.action_horizon,
        ),
        "num_image_token": (specification.get("num_image_token", 64), config.backbone.num_image_tokens),
        "force_image_size": (vlm.get("force_image_size", vision.image_size), vision.image_size),
        "num_key_value_heads": (
            vlm.get("llm_config", {}).get("num_key_value_heads", language.num_heads),
            language.num_heads,
        ),
        "select_layer of eagle_config.json": (vlm.get("select_layer", -1), -1),
    }
    check_claims(claims)


def check_claims(claims: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse a key whose value (first) is not what the other sizes need (second)."""
    for key, (found, expected) in claims.items():
        if found != expected:
            raise CheckpointError(f"{key} is {found}, the other sizes of the folder need {expected}")
