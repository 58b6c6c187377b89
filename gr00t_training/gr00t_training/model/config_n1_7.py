# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The published `config.json` of the N1.7 family read and written; see `config_n1_6`, which holds what they share."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    N1_7,
    N1_7_MODEL_TYPE,
    ActionHeadConfig,
    BackboneConfig,
    Gr00tConfig,
    QwenVisionConfig,
    RefinerConfig,
)
from gr00t_training.model.config_keys import (
    HEAD_KEYS,
    LANGUAGE_FIXED,
    QWEN3_KEYS,
    VISION_FIXED,
    check_fixed,
    dump_refiner,
    parse_dit,
    parse_refiner,
    pick,
    put,
    supported,
)
from gr00t_training.model.config_n1_6 import SHARED_DEFAULTS, check_widths, text_interval, update_shared

# Of the names a file may give its backbone, those whose sizes the release's are, or that come with a file of their own.
BACKBONE_NAMES = ("nvidia/Cosmos-Reason2", "Qwen/Qwen3-VL")

_HEAD_KEYS = {**HEAD_KEYS, "state_dropout_prob": "state_dropout", "state_history_length": "state_history"}
_VISION_KEYS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "depth": "num_layers",
    "num_heads": "num_heads",
    "num_position_embeddings": "num_positions",
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "out_hidden_size": "output_dim",
    "deepstack_visual_indexes": "deepstack_layers",
}
_FIXED = {"backbone_model_type": ("qwen", "qwen")}
_VISION_FIXED = {
    "hidden_act": VISION_FIXED["hidden_act"],
    "in_channels": VISION_FIXED["num_channels"],
}
_LANGUAGE_FIXED = {key: value for key, value in LANGUAGE_FIXED.items() if key != "rope_scaling"}
_ROPE_FIXED = {"rope_type": ("default", "default"), "mrope_interleaved": (True, True)}

_DEFAULTS: Mapping[str, Any] = {
    **SHARED_DEFAULTS,
    "model_name": "nvidia/Cosmos-Reason2-2B",
    "select_layer": 12,
    "max_state_dim": 132,
    "max_action_dim": 132,
    "action_horizon": 40,
    "state_dropout_prob": 0.8,
    "state_history_length": 1,
    "diffusion_model_cfg": {**SHARED_DEFAULTS["diffusion_model_cfg"], "num_layers": 16},
    "vl_self_attention_cfg": None,
    "use_vl_self_attention": True,
}


def parse_n1_7(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    """Read `config.json` and, where a folder has one, `backbone/config.json` of the N1.7 family.

    Args:
        model: content of `config.json`.
        vlm: sizes of the vision-language model; None: those of the release.

    Raises:
        CheckpointError: an option that is not supported, or sizes that contradict each other.
    """
    vlm, full = vlm or {}, {**_DEFAULTS, **model}
    _check_options(full, vlm)
    try:
        config = Gr00tConfig(
            backbone=_parse_backbone(full, vlm),
            action_head=_parse_head(full),
            model_type=N1_7_MODEL_TYPE,
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1.7 model") from error
    check_widths(config, full)
    return config


def dump_n1_7(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `backbone/config.json`; keys that were read and are not understood stay as they were."""
    model, vlm = copy.deepcopy(dict(config.model_source)), copy.deepcopy(dict(config.vlm_source))
    head, vision, language = config.action_head, config.backbone.vision, config.backbone.language
    model.setdefault("architectures", ["Gr00tN1d7"])
    model.setdefault("model_name", _DEFAULTS["model_name"])
    model.update(
        put(head, _HEAD_KEYS), **supported(_FIXED), use_vlln=head.refiner is not None and head.refiner.has_norm
    )
    update_shared(model, config)
    if head.refiner is not None and head.refiner.num_layers:
        model["vl_self_attention_cfg"] = {**(model.get("vl_self_attention_cfg") or {}), **dump_refiner(head.refiner)}
    vlm.setdefault("model_type", "qwen3_vl")
    vlm["image_token_id"] = config.backbone.image_token_id
    section = vlm.setdefault("vision_config", {})
    section.update(put(vision, _VISION_KEYS), spatial_merge_size=config.backbone.downsample)
    section["deepstack_visual_indexes"] = list(section["deepstack_visual_indexes"])
    text = vlm.setdefault("text_config", {})
    text.update(put(language, QWEN3_KEYS))
    scaling = text.setdefault("rope_scaling", {})
    scaling.update(supported(_ROPE_FIXED), mrope_section=list(language.rope_sections or ()))
    return model, vlm


def _check_options(model: Mapping[str, Any], vlm: Mapping[str, Any]) -> None:
    check_fixed("config.json", model, _FIXED)
    name = str(model["model_name"])
    if not any(known in name for known in BACKBONE_NAMES):
        raise CheckpointError(f"config.json: model_name is {name!r}, supported: {' and '.join(BACKBONE_NAMES)} models")
    text = vlm.get("text_config", {})
    check_fixed("vision_config", vlm.get("vision_config", {}), _VISION_FIXED)
    check_fixed("text_config", text, _LANGUAGE_FIXED)
    check_fixed("rope_scaling", text.get("rope_scaling") or {}, _ROPE_FIXED)


def _parse_backbone(model: Mapping[str, Any], vlm: Mapping[str, Any]) -> BackboneConfig:
    release, vision, text = N1_7.backbone, vlm.get("vision_config", {}), vlm.get("text_config", {})
    sizes = pick(vision, _VISION_KEYS)
    if "deepstack_layers" in sizes:
        sizes["deepstack_layers"] = tuple(sizes["deepstack_layers"])
    sections = (text.get("rope_scaling") or {}).get("mrope_section", release.language.rope_sections)
    time, row, column = sections
    return dataclasses.replace(
        release,
        vision=QwenVisionConfig(**sizes),
        language=dataclasses.replace(release.language, **pick(text, QWEN3_KEYS), rope_sections=(time, row, column)),
        select_layer=model["select_layer"],
        downsample=vision.get("spatial_merge_size", release.downsample),
        image_token_id=vlm.get("image_token_id", release.image_token_id),
    )


def _parse_head(model: Mapping[str, Any]) -> ActionHeadConfig:
    section = model["vl_self_attention_cfg"] if model["use_vl_self_attention"] else None
    has_norm = bool(model["use_vlln"])
    if section is None:
        refiner = RefinerConfig(num_layers=0) if has_norm else None
    else:
        refiner = parse_refiner(section, has_norm=has_norm)
    return dataclasses.replace(
        N1_7.action_head,
        dit=parse_dit(model["diffusion_model_cfg"], attend_text_every_n=text_interval(model)),
        refiner=refiner,
        **pick(model, _HEAD_KEYS),
    )
