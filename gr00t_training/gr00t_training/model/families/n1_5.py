# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5: sizes, names, prompt, and its `config.json` read and written.

A key that is missing from a file has the value of the release.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    ActionHeadConfig,
    BackboneConfig,
    DitConfig,
    Gr00tConfig,
    LanguageConfig,
    RefinerConfig,
    VisionConfig,
)
from gr00t_training.model.families.config_sections import (
    HEAD_KEYS,
    LANGUAGE_FIXED,
    QWEN3_KEYS,
    VISION_FIXED,
    VISION_KEYS,
    check_claims,
    check_fixed,
    dump_dit,
    dump_refiner,
    parse_dit,
    parse_refiner,
    pick,
    put,
    put_head,
    section,
    supported,
)
from gr00t_training.model.families.family import ModelFamily, Variant
from gr00t_training.model.families.n1 import input_rules
from gr00t_training.model.families.prompt_parts import (
    ANSWER_START,
    CHAT_TOKENS,
    EAGLE_IMAGE,
    EAGLE_IMAGE_TOKEN,
    EAGLE_TOKENS,
    QWEN3_VOCABULARY,
    SYSTEM_TURN,
)
from gr00t_training.model.families.weight_rows import HEAD_ROWS, REFINER_ROWS, eagle_rows
from gr00t_training.model.weight_names import NameTable
from gr00t_training.transforms.images import SquareImages
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.text import PromptFormat

QWEN3 = LanguageConfig(
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


_HEAD_KEYS = {**HEAD_KEYS, "num_target_vision_tokens": "num_future_tokens"}
_BACKBONE_FIXED = {"reproject_vision": (False, False)}
_VLM_FIXED = {"use_pixel_shuffle": (False, False), "mlp_connector_layers": (1, 1), "select_layer": (-1, -1)}
_HEAD_FIXED = {"expand_batch": (None, None)}

_RELEASE = Gr00tConfig(
    backbone=BackboneConfig(
        language=QWEN3, projector_dim=-1, downsample=1, is_connector_deep=False, image_token_id=151669
    ),
    action_head=ActionHeadConfig(refiner=RefinerConfig(), num_future_tokens=32, num_steps=4),
    model_type="gr00t_n1_5",
)

_PROJECTORS = {"gr1": 24, "oxe_droid": 17, "agibot_genie1": 26, "new_embodiment": 31}

_PROMPT = PromptFormat(
    model="GR00T N1.5",
    base="Qwen/Qwen3-1.7B",
    base_vocabulary=QWEN3_VOCABULARY,
    added=EAGLE_TOKENS,
    required=(*CHAT_TOKENS, *EAGLE_TOKENS),
    pad="<|endoftext|>",
    image_token=EAGLE_IMAGE_TOKEN,
    chat=SYSTEM_TURN + "<|im_start|>user\n{images}{text}<|im_end|>\n" + ANSWER_START,
    image=EAGLE_IMAGE,
    only_image=EAGLE_IMAGE,
)

_EAGLE = "backbone.eagle_model"
_EAGLE_OUTPUT = f"{_EAGLE}.language_model.lm_head"

_NAMES = NameTable(
    rows=(
        *eagle_rows(_EAGLE),
        ("backbone.eagle_linear", "backbone.linear"),
        *HEAD_ROWS,
        ("action_head.future_tokens", "action_head.future_tokens"),
        *REFINER_ROWS,
    ),
    ignored=(f"{_EAGLE}.vision_model.vision_model.head", _EAGLE_OUTPUT),
    # tied: some exports keep only one of the two
    stand_ins={f"{_EAGLE}.language_model.model.embed_tokens.weight": f"{_EAGLE_OUTPUT}.weight"},
    remedies={
        "action_head.future_tokens.weight": "checkpoints fine-tuned before 8 July 2025 were trained without future "
        "tokens: set num_target_vision_tokens of action_head_cfg in config.json to 0"
    },
)


def _parse(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    """Read `config.json` and, where a folder has one, `eagle_config.json` of the N1.5 family.

    Args:
        model: content of `config.json`.
        vlm: sizes of the vision-language model; None: those of the release.

    Raises:
        CheckpointError: an option that is not supported, or sizes that contradict each other.
    """
    vlm = vlm or {}
    backbone, head = section(model, "backbone_cfg"), section(model, "action_head_cfg")
    check_fixed("backbone_cfg", backbone, _BACKBONE_FIXED)
    check_fixed("action_head_cfg", head, _HEAD_FIXED)
    check_fixed("eagle_config.json", vlm, _VLM_FIXED)
    check_fixed("vision_config", section(vlm, "vision_config"), VISION_FIXED)
    check_fixed("text_config", section(vlm, "text_config"), LANGUAGE_FIXED)
    try:
        config = Gr00tConfig(
            backbone=_parse_backbone(backbone, vlm),
            action_head=_parse_head(head),
            model_type=_RELEASE.model_type,
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1.5 model") from error
    _check_agreement(config, model, vlm)
    return config


def _dump(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `eagle_config.json`; unknown keys of the source stay unchanged."""
    model, vlm = copy.deepcopy(dict(config.model_source)), copy.deepcopy(dict(config.vlm_source))
    head, backbone = config.action_head, config.backbone
    model.setdefault("architectures", ["GR00T_N1_5"])
    model.update(
        model_type=config.model_type,
        action_dim=head.action_dim,
        action_horizon=head.action_horizon,
        hidden_size=backbone.language.hidden_size,
    )
    projected = None if backbone.projector_dim == -1 else config.feature_dim
    model.setdefault("backbone_cfg", {}).update(select_layer=backbone.select_layer, project_to_dim=projected)
    head_section = model.setdefault("action_head_cfg", {})
    put_head(head_section, head, _HEAD_KEYS)
    head_section.update(
        action_dim=head.action_dim,
        input_embedding_dim=head.dit.width,
        backbone_embedding_dim=config.feature_dim,
        use_vlln=head.refiner is not None,
    )
    dit = head_section.setdefault("diffusion_model_cfg", {})
    dit.update(dump_dit(head.dit), cross_attention_dim=config.feature_dim)
    if head.refiner is not None:
        head_section.setdefault("vl_self_attention_cfg", {}).update(dump_refiner(head.refiner))
    vlm.update(supported(_VLM_FIXED), force_image_size=config.image_size, image_token_index=backbone.image_token_id)
    vlm.setdefault("vision_config", {}).update(put(backbone.vision, VISION_KEYS))
    vlm.setdefault("text_config", {}).update(put(backbone.language, QWEN3_KEYS))
    return model, vlm


def _parse_backbone(model: Mapping[str, Any], vlm: Mapping[str, Any]) -> BackboneConfig:
    release = _RELEASE.backbone
    language = dataclasses.replace(release.language, **pick(section(vlm, "text_config"), QWEN3_KEYS))
    output_dim = model.get("project_to_dim")
    return dataclasses.replace(
        release,
        vision=VisionConfig(**pick(section(vlm, "vision_config"), VISION_KEYS)),
        language=language,
        select_layer=model.get("select_layer", release.select_layer),
        projector_dim=-1 if output_dim is None else language.hidden_size,
        output_dim=output_dim,
        image_token_id=vlm.get("image_token_index", release.image_token_id),
    )


def _parse_head(head: Mapping[str, Any]) -> ActionHeadConfig:
    has_dit, has_refiner = "diffusion_model_cfg" in head, "vl_self_attention_cfg" in head
    kept = parse_refiner(section(head, "vl_self_attention_cfg")) if has_refiner else RefinerConfig()
    return dataclasses.replace(
        _RELEASE.action_head,
        dit=parse_dit(section(head, "diffusion_model_cfg")) if has_dit else DitConfig(),
        refiner=kept if head.get("use_vlln", True) else None,
        **pick(head, _HEAD_KEYS),
    )


def _check_agreement(config: Gr00tConfig, model: Mapping[str, Any], vlm: Mapping[str, Any]) -> None:
    """Refuse sizes that are in two places of the published files and differ."""
    head, action_head, width = section(model, "action_head_cfg"), config.action_head, config.feature_dim
    dit = section(head, "diffusion_model_cfg") or {"cross_attention_dim": _RELEASE.feature_dim}
    check_claims(
        {
            "action_head_cfg.input_embedding_dim": (
                head.get("input_embedding_dim", _RELEASE.action_head.dit.width),
                action_head.dit.width,
            ),
            "action_head_cfg.backbone_embedding_dim": (head.get("backbone_embedding_dim", _RELEASE.feature_dim), width),
            # without one, keys and values have the width of the tokens
            "diffusion_model_cfg.cross_attention_dim": (
                dit.get("cross_attention_dim") or action_head.dit.width,
                width,
            ),
            "action_head_cfg.action_dim": (head.get("action_dim", action_head.action_dim), action_head.action_dim),
            "action_horizon": (model.get("action_horizon", action_head.action_horizon), action_head.action_horizon),
            "force_image_size": (vlm.get("force_image_size", config.image_size), config.image_size),
        }
    )


def _images(config: Gr00tConfig, options: ProcessorOptions | None, preprocessor: Mapping[str, Any]) -> SquareImages:
    return SquareImages(config.image_size, torch.float32, tokens=config.backbone.num_image_tokens)


N1_5 = ModelFamily(
    release=_RELEASE,
    projectors=_PROJECTORS,
    variants={"n1_5_3b": Variant(_RELEASE, _PROJECTORS)},
    parse=_parse,
    dump=_dump,
    vlm_file="eagle_config.json",
    names=_NAMES,
    prompt=_PROMPT,
    images=_images,
    rules=input_rules,
    wire="n1.5",
)
