# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The published `config.json` of the N1 family read and written.

A published folder holds no sizes of the vision-language model: those of the release are built in, and any other folder
of ours carries them in `eagle_config.json`. A key that a file lacks has the value of the release.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    ActionHeadConfig,
    BackboneConfig,
    DitConfig,
    Gr00tConfig,
    LanguageConfig,
    VisionConfig,
)
from gr00t_training.model.config_keys import (
    HEAD_KEYS,
    LANGUAGE_FIXED,
    LANGUAGE_KEYS,
    VISION_FIXED,
    VISION_KEYS,
    check_claims,
    check_fixed,
    dump_dit,
    parse_dit,
    pick,
    put,
)

_BACKBONE_KEYS = {
    "select_layer": "select_layer",
    "projector_dim": "projector_dim",
    "reproject_vision": "reproject_vision",
}
_BACKBONE_FIXED = {"scale_image_resolution": (1, 1)}


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
    try:
        config = Gr00tConfig(
            backbone=BackboneConfig(
                vision=VisionConfig(**pick(vlm.get("vision_config", {}), VISION_KEYS)),
                language=LanguageConfig(**pick(vlm.get("llm_config", {}), LANGUAGE_KEYS)),
                downsample=round(1 / vlm.get("downsample_ratio", 0.5)),
                image_token_id=vlm.get("img_context_token_id", 49154),
                **pick(backbone, _BACKBONE_KEYS),
            ),
            action_head=ActionHeadConfig(dit=DitConfig() if dit is None else parse_dit(dit), **pick(head, HEAD_KEYS)),
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
    head_section.setdefault("diffusion_model_cfg", {}).update(dump_dit(head.dit))
    vlm.update(
        force_image_size=config.image_size,
        downsample_ratio=1 / backbone.downsample,
        img_context_token_id=backbone.image_token_id,
    )
    vlm.setdefault("vision_config", {}).update(put(backbone.vision, VISION_KEYS))
    language = vlm.setdefault("llm_config", {})
    language.update(put(backbone.language, LANGUAGE_KEYS), num_key_value_heads=backbone.language.num_heads)
    return model, vlm


def _check_agreement(config: Gr00tConfig, model: Mapping[str, Any], vlm: Mapping[str, Any]) -> None:
    """Refuse sizes that stand in two places of the published files and differ."""
    head, backbone = model.get("action_head_cfg", {}), model.get("backbone_cfg", {})
    language, vision, action_head = config.backbone.language, config.backbone.vision, config.action_head
    specification = backbone.get("processor_cfg", {}).get("model_spec", {})
    check_claims(
        {
            "action_head_cfg.input_embedding_dim": (head.get("input_embedding_dim", 1536), action_head.dit.width),
            "action_head_cfg.action_dim": (head.get("action_dim", action_head.action_dim), action_head.action_dim),
            "action_horizon": (model.get("action_horizon", action_head.action_horizon), action_head.action_horizon),
            "num_image_token": (specification.get("num_image_token", 64), config.backbone.num_image_tokens),
            "force_image_size": (vlm.get("force_image_size", vision.image_size), vision.image_size),
            "num_key_value_heads": (
                vlm.get("llm_config", {}).get("num_key_value_heads", language.num_heads),
                language.num_heads,
            ),
            "select_layer of eagle_config.json": (vlm.get("select_layer", -1), -1),
        }
    )
