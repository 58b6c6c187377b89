# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The published `config.json` of the N1.6 family read and written; what N1.7 shares with it is here too.

A published file holds only what differs from the defaults of the release's class, which are not the values of the
published model. It holds no sizes of the vision-language model: those of the release are built in, and any other folder
of ours carries them in `backbone/config.json`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    N1_6,
    N1_6_MODEL_TYPE,
    ActionHeadConfig,
    BackboneConfig,
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
    parse_dit,
    pick,
    put,
    supported,
)

_HEAD_KEYS = {**HEAD_KEYS, "state_dropout_prob": "state_dropout", "state_additive_noise_scale": "state_noise"}
_VISION_KEYS = {key: name for key, name in VISION_KEYS.items() if key != "image_size"}
_FIXED = {"backbone_model_type": ("eagle", "eagle")}
_VLM_FIXED = {
    "use_pixel_shuffle": (True, True),
    "downsample_ratio": (0.5, 0.5),
    "mlp_connector_layers": (2, 2),
    "select_layer": (-1, -1),
}
_VISION_FIXED = {**VISION_FIXED, "use_rope": (False, False), "use_windows_attn": (False, False)}

# Defaults of the release's class for both families; a diffusion_model_cfg that is there takes the place of this one.
SHARED_DEFAULTS: Mapping[str, Any] = {
    "backbone_embedding_dim": 2048,
    "hidden_size": 1024,
    "input_embedding_dim": 1536,
    "add_pos_embed": True,
    "max_seq_len": 1024,
    "use_vlln": True,
    "use_alternate_vl_dit": True,
    "attend_text_every_n_blocks": 2,
    "num_inference_timesteps": 4,
    "noise_beta_alpha": 1.5,
    "noise_beta_beta": 1.0,
    "noise_s": 0.999,
    "num_timestep_buckets": 1000,
    "max_num_embodiments": 32,
    "diffusion_model_cfg": {
        "positional_embeddings": None,
        "num_layers": 32,
        "num_attention_heads": 32,
        "attention_head_dim": 48,
        "norm_type": "ada_norm",
        "dropout": 0.2,
        "final_dropout": True,
        "output_dim": 1024,
        "interleave_self_attention": True,
    },
}
_DEFAULTS: Mapping[str, Any] = {
    **SHARED_DEFAULTS,
    "select_layer": 16,
    "max_state_dim": 29,
    "max_action_dim": 29,
    "action_horizon": 16,
    "state_dropout_prob": 0.0,
    "state_additive_noise_scale": 0.0,
}


def parse_n1_6(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    """Read `config.json` and, where a folder has one, `backbone/config.json` of the N1.6 family.

    Args:
        model: content of `config.json`.
        vlm: sizes of the vision-language model; None: those of the release.

    Raises:
        CheckpointError: an option that is not supported, or sizes that contradict each other.
    """
    vlm, full = vlm or {}, {**_DEFAULTS, **model}
    check_fixed("config.json", full, _FIXED)
    check_fixed("backbone/config.json", vlm, _VLM_FIXED)
    check_fixed("vision_config", vlm.get("vision_config", {}), _VISION_FIXED)
    check_fixed("text_config", vlm.get("text_config", {}), LANGUAGE_FIXED)
    try:
        refiner = RefinerConfig(num_layers=0) if full["use_vlln"] else None
        config = Gr00tConfig(
            backbone=_parse_backbone(full, vlm),
            action_head=_parse_head(full, refiner),
            model_type=N1_6_MODEL_TYPE,
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1.6 model") from error
    check_widths(config, full)
    return config


def dump_n1_6(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `backbone/config.json`; keys that were read and are not understood stay as they were."""
    model, vlm = copy.deepcopy(dict(config.model_source)), copy.deepcopy(dict(config.vlm_source))
    vision, language = config.backbone.vision, config.backbone.language
    model.setdefault("architectures", ["Gr00tN1d6"])
    model.setdefault("model_name", "nvidia/Eagle-Block2A-2B-v2")
    model.update(
        put(config.action_head, _HEAD_KEYS), **supported(_FIXED), use_vlln=config.action_head.refiner is not None
    )
    update_shared(model, config)
    vlm.update(supported(_VLM_FIXED), image_token_index=config.backbone.image_token_id)
    vlm.setdefault("vision_config", {}).update(put(vision, _VISION_KEYS), num_patches=vision.grid**2)
    vlm.setdefault("text_config", {}).update(put(language, QWEN3_KEYS))
    return model, vlm


def check_widths(config: Gr00tConfig, model: Mapping[str, Any]) -> None:
    """Refuse widths that stand in two places of the published files and differ.

    Args:
        config: as parsed.
        model: `config.json` with the defaults filled in.

    Raises:
        CheckpointError: names the key.
    """
    check_claims(
        {
            "input_embedding_dim": (model["input_embedding_dim"], config.action_head.dit.width),
            "backbone_embedding_dim": (model["backbone_embedding_dim"], config.feature_dim),
        }
    )


def update_shared(model: dict[str, Any], config: Gr00tConfig) -> None:
    """Put into `config.json` what both families have beside the keys of the action head."""
    dit = config.action_head.dit
    model.update(
        model_type=config.model_type,
        select_layer=config.backbone.select_layer,
        backbone_embedding_dim=config.feature_dim,
        input_embedding_dim=dit.width,
        use_alternate_vl_dit=dit.attend_text_every_n is not None,
    )
    model.setdefault("attend_text_every_n_blocks", SHARED_DEFAULTS["attend_text_every_n_blocks"])
    if dit.attend_text_every_n is not None:
        model["attend_text_every_n_blocks"] = dit.attend_text_every_n
    model.setdefault("diffusion_model_cfg", {}).update(dump_dit(dit))


def text_interval(model: Mapping[str, Any]) -> int | None:
    """Return `DitConfig.attend_text_every_n` of a `config.json` with the defaults filled in."""
    every = model["attend_text_every_n_blocks"]
    if not model["use_alternate_vl_dit"]:
        return None
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"attend_text_every_n_blocks is {every!r}, expected at least 1")
    return every


def _parse_backbone(model: Mapping[str, Any], vlm: Mapping[str, Any]) -> BackboneConfig:
    release = N1_6.backbone
    section = vlm.get("vision_config", {})
    vision = VisionConfig(**pick(section, _VISION_KEYS), is_packed=True)
    side = round(section.get("num_patches", release.vision.grid**2) ** 0.5)
    if side**2 != section.get("num_patches", side**2):
        raise ValueError(f"{section['num_patches']} stored image positions are not a square")
    return dataclasses.replace(
        release,
        vision=dataclasses.replace(vision, image_size=side * vision.patch_size),
        language=dataclasses.replace(release.language, **pick(vlm.get("text_config", {}), QWEN3_KEYS)),
        select_layer=model["select_layer"],
        image_token_id=vlm.get("image_token_index", release.image_token_id),
    )


def _parse_head(model: Mapping[str, Any], refiner: RefinerConfig | None) -> ActionHeadConfig:
    return dataclasses.replace(
        N1_6.action_head,
        dit=parse_dit(model["diffusion_model_cfg"], attend_text_every_n=text_interval(model)),
        refiner=refiner,
        has_mask_token=model["state_dropout_prob"] > 0,
        **pick(model, _HEAD_KEYS),
    )
