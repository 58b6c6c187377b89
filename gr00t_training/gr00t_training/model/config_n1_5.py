# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The published `config.json` of the N1.5 family read and written; a key that a file lacks has the release's value."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    N1_5,
    N1_5_MODEL_TYPE,
    ActionHeadConfig,
    BackboneConfig,
    DitConfig,
    Gr00tConfig,
    RefinerConfig,
    VisionConfig,
)
from gr00t_training.model.config_keys import (
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
    supported,
)

_HEAD_KEYS = {**HEAD_KEYS, "num_target_vision_tokens": "num_future_tokens"}
_BACKBONE_FIXED = {"reproject_vision": (False, False)}
_VLM_FIXED = {"use_pixel_shuffle": (False, False), "mlp_connector_layers": (1, 1), "select_layer": (-1, -1)}
_HEAD_FIXED = {"expand_batch": (None, None)}


def parse_n1_5(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    """Read `config.json` and, where a folder has one, `eagle_config.json` of the N1.5 family.

    Args:
        model: content of `config.json`.
        vlm: sizes of the vision-language model; None: those of the release.

    Raises:
        CheckpointError: an option that is not supported, or sizes that contradict each other.
    """
    vlm = vlm or {}
    backbone, head = model.get("backbone_cfg", {}), model.get("action_head_cfg", {})
    check_fixed("backbone_cfg", backbone, _BACKBONE_FIXED)
    check_fixed("action_head_cfg", head, _HEAD_FIXED)
    check_fixed("eagle_config.json", vlm, _VLM_FIXED)
    check_fixed("vision_config", vlm.get("vision_config", {}), VISION_FIXED)
    check_fixed("text_config", vlm.get("text_config", {}), LANGUAGE_FIXED)
    try:
        config = Gr00tConfig(
            backbone=_parse_backbone(backbone, vlm),
            action_head=_parse_head(head),
            model_type=N1_5_MODEL_TYPE,
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1.5 model") from error
    _check_agreement(config, model, vlm)
    return config


def dump_n1_5(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `eagle_config.json`; keys that were read and are not understood stay as they were."""
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
    head_section.update(
        put(head, _HEAD_KEYS),
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


def _parse_backbone(section: Mapping[str, Any], vlm: Mapping[str, Any]) -> BackboneConfig:
    release = N1_5.backbone
    language = dataclasses.replace(release.language, **pick(vlm.get("text_config", {}), QWEN3_KEYS))
    output_dim = section.get("project_to_dim")
    return dataclasses.replace(
        release,
        vision=VisionConfig(**pick(vlm.get("vision_config", {}), VISION_KEYS)),
        language=language,
        select_layer=section.get("select_layer", release.select_layer),
        projector_dim=-1 if output_dim is None else language.hidden_size,
        output_dim=output_dim,
        image_token_id=vlm.get("image_token_index", release.image_token_id),
    )


def _parse_head(section: Mapping[str, Any]) -> ActionHeadConfig:
    dit, refiner = section.get("diffusion_model_cfg"), section.get("vl_self_attention_cfg")
    kept = RefinerConfig() if refiner is None else parse_refiner(refiner)
    return dataclasses.replace(
        N1_5.action_head,
        dit=DitConfig() if dit is None else parse_dit(dit),
        refiner=kept if section.get("use_vlln", True) else None,
        **pick(section, _HEAD_KEYS),
    )


def _check_agreement(config: Gr00tConfig, model: Mapping[str, Any], vlm: Mapping[str, Any]) -> None:
    """Refuse sizes that stand in two places of the published files and differ."""
    head, action_head, width = model.get("action_head_cfg", {}), config.action_head, config.feature_dim
    dit = head.get("diffusion_model_cfg", {"cross_attention_dim": N1_5.feature_dim})
    check_claims(
        {
            "action_head_cfg.input_embedding_dim": (
                head.get("input_embedding_dim", N1_5.action_head.dit.width),
                action_head.dit.width,
            ),
            "action_head_cfg.backbone_embedding_dim": (head.get("backbone_embedding_dim", N1_5.feature_dim), width),
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
