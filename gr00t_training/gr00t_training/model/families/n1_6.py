# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.6: sizes, names, prompt, options, and its `config.json` read and written; N1.7 takes some of them.

A published file holds only what differs from the defaults of the release's class, which are not the values of the
published model. It holds no sizes of the vision-language model: those of the release are built in, and any other folder
of ours carries them in `backbone/config.json`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gr00t_training.embodiment import Normalization
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    ActionHeadConfig,
    BackboneConfig,
    DitConfig,
    Gr00tConfig,
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
    parse_dit,
    pick,
    put,
    put_head,
    section,
    supported,
)
from gr00t_training.model.families.family import ModelFamily, ProcessorFormat, Variant
from gr00t_training.model.families.n1_5 import QWEN3
from gr00t_training.model.families.prompt_parts import (
    CHAT_TOKENS,
    EAGLE_IMAGE,
    EAGLE_IMAGE_TOKEN,
    EAGLE_TOKENS,
    QWEN3_VOCABULARY,
    SYSTEM_TURN,
)
from gr00t_training.model.families.weight_rows import DROPOUT_TABLE, HEAD_ROWS, REFINER_ROWS, eagle_rows
from gr00t_training.model.weight_names import NameTable
from gr00t_training.transforms.images import EagleImages
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.rules import InputRules
from gr00t_training.transforms.scaling import RANGED, ValueRules, denormalize_bounded, normalize_bounded
from gr00t_training.transforms.text import PromptFormat

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

# Of N1.6 and N1.7, apart from sizes.
ACTION_HEAD = ActionHeadConfig(
    dit=DitConfig(num_layers=32, attend_text_every_n=2),
    refiner=RefinerConfig(num_layers=0),
    scales_time=True,
    loss_epsilon=1e-6,
    num_steps=4,
)

_RELEASE = Gr00tConfig(
    backbone=BackboneConfig(
        vision=VisionConfig(is_packed=True),
        language=dataclasses.replace(QWEN3, rounds_frequencies=True),
        select_layer=16,
        projector_dim=-1,
        image_token_id=151669,
    ),
    action_head=dataclasses.replace(
        ACTION_HEAD,
        state_dim=128,
        action_dim=128,
        action_horizon=50,
        state_history=None,
        state_dropout=0.8,
        has_mask_token=True,
    ),
    model_type="Gr00tN1d6",
)

_PROJECTORS = {
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

_PROMPT = PromptFormat(
    model="GR00T N1.6",
    base="Qwen/Qwen3-1.7B",
    base_vocabulary=QWEN3_VOCABULARY,
    added=EAGLE_TOKENS,
    required=(*CHAT_TOKENS, *EAGLE_TOKENS[:3]),
    pad="<|endoftext|>",
    image_token=EAGLE_IMAGE_TOKEN,
    chat=SYSTEM_TURN + "<|im_start|>user\n{text}{images}<|im_end|>\n",
    image=EAGLE_IMAGE,
    only_image=EAGLE_IMAGE,
)

_EAGLE = "backbone.model"
_EAGLE_OUTPUT = f"{_EAGLE}.language_model.lm_head"
_MASK_TOKEN = "action_head.mask_token"
_NAMES = NameTable(
    rows=(*eagle_rows(_EAGLE), *HEAD_ROWS, *REFINER_ROWS, (_MASK_TOKEN, _MASK_TOKEN)),
    ignored=(f"{_EAGLE}.vision_model.vision_model.head", _EAGLE_OUTPUT, DROPOUT_TABLE),
    stand_ins={f"{_EAGLE}.language_model.model.embed_tokens.weight": f"{_EAGLE_OUTPUT}.weight"},
    optional={_MASK_TOKEN: 0.02},
)

OPTIONS = (
    "image_crop_size",
    "image_target_size",
    "use_albumentations",
    "random_rotation_angle",
    "color_jitter_params",
    "shortest_image_edge",
    "crop_fraction",
    "model_name",
    "model_type",
    "formalize_language",
    "max_state_dim",
    "max_action_dim",
    "max_action_horizon",
    "use_percentiles",
    "clip_outliers",
    "apply_sincos_state_encoding",
    "use_relative_action",
)

RELEASED_OPTIONS: dict[str, Any] = {
    "use_albumentations": True,
    "color_jitter_params": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
    "use_relative_action": True,
}

_PROCESSOR = ProcessorFormat(
    processor_class="Gr00tN1d6Processor",
    defaults=ProcessorOptions(shortest_image_edge=512, max_action_horizon=40),
    options=OPTIONS,
    released=ProcessorOptions(
        **RELEASED_OPTIONS,
        apply_sincos_state_encoding=True,
        max_state_dim=128,
        max_action_dim=128,
        model_name="nvidia/Eagle-Block2A-2B-v2",
        model_type="eagle",
    ),
)


def _parse(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
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
    check_fixed("vision_config", section(vlm, "vision_config"), _VISION_FIXED)
    check_fixed("text_config", section(vlm, "text_config"), LANGUAGE_FIXED)
    try:
        refiner = RefinerConfig(num_layers=0) if full["use_vlln"] else None
        config = Gr00tConfig(
            backbone=_parse_backbone(full, vlm),
            action_head=_parse_head(full, refiner),
            model_type=_RELEASE.model_type,
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1.6 model") from error
    check_widths(config, full)
    return config


def _dump(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `backbone/config.json`; unknown keys of the source stay unchanged."""
    model, vlm = copy.deepcopy(dict(config.model_source)), copy.deepcopy(dict(config.vlm_source))
    vision, language = config.backbone.vision, config.backbone.language
    model.setdefault("architectures", ["Gr00tN1d6"])
    model.setdefault("model_name", "nvidia/Eagle-Block2A-2B-v2")
    put_head(model, config.action_head, _HEAD_KEYS)
    model.update(supported(_FIXED), use_vlln=config.action_head.refiner is not None)
    update_shared(model, config)
    vlm.update(supported(_VLM_FIXED), image_token_index=config.backbone.image_token_id)
    vlm.setdefault("vision_config", {}).update(put(vision, _VISION_KEYS), num_patches=vision.grid**2)
    vlm.setdefault("text_config", {}).update(put(language, QWEN3_KEYS))
    return model, vlm


def check_widths(config: Gr00tConfig, model: Mapping[str, Any]) -> None:
    """Refuse widths that are in two places of the published files and differ.

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
    """Put into `config.json` the keys of N1.6 and N1.7 that are not in the action head."""
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
    if type(every) is not int or every < 1:
        raise ValueError(f"attend_text_every_n_blocks is {every!r}, expected at least 1")
    return every


def _parse_backbone(model: Mapping[str, Any], vlm: Mapping[str, Any]) -> BackboneConfig:
    release = _RELEASE.backbone
    tower = section(vlm, "vision_config")
    vision = VisionConfig(**pick(tower, _VISION_KEYS), is_packed=True)
    positions = tower.get("num_patches", release.vision.grid**2)
    if type(positions) is not int or not 0 < positions <= 2**20 or math.isqrt(positions) ** 2 != positions:
        raise ValueError(f"{positions!r:.80} stored image positions are not a square of whole numbers")
    side = math.isqrt(positions)
    return dataclasses.replace(
        release,
        vision=dataclasses.replace(vision, image_size=side * vision.patch_size),
        language=dataclasses.replace(release.language, **pick(section(vlm, "text_config"), QWEN3_KEYS)),
        select_layer=model["select_layer"],
        image_token_id=vlm.get("image_token_index", release.image_token_id),
    )


def _parse_head(model: Mapping[str, Any], refiner: RefinerConfig | None) -> ActionHeadConfig:
    return dataclasses.replace(
        _RELEASE.action_head,
        dit=parse_dit(section(model, "diffusion_model_cfg"), attend_text_every_n=text_interval(model)),
        refiner=refiner,
        has_mask_token=bool(model["state_dropout_prob"] > 0),
        **pick(model, _HEAD_KEYS),
    )


def _images(config: Gr00tConfig, options: ProcessorOptions | None, preprocessor: Mapping[str, Any]) -> EagleImages:
    assert options is not None
    return EagleImages(options, patch=config.backbone.vision.patch_size)


def input_rules(options: ProcessorOptions | None) -> InputRules:
    """Return the rules of N1.6 and N1.7."""
    assert options is not None

    def rules(*clipped: Normalization, allows_relative: bool = False) -> ValueRules:
        return ValueRules(
            normalize=functools.partial(normalize_bounded, clipped=clipped if options.clip_outliers else ()),
            denormalize=denormalize_bounded,
            dtype=np.float32,
            allows_relative=allows_relative,
        )

    return InputRules(
        state=rules(*RANGED),
        action=rules(*RANGED, Normalization.MEAN_STD, allows_relative=options.use_relative_action),
        formalizes=options.formalize_language,
        pads_actions=True,
        takes_image_history=True,
        hides_state=options.exclude_state,
        state_dropout=options.state_dropout_prob,
        trains_on_whole_chunks=True,
    )


N1_6 = ModelFamily(
    release=_RELEASE,
    projectors=_PROJECTORS,
    variants={"n1_6_3b": Variant(_RELEASE, _PROJECTORS)},
    parse=_parse,
    dump=_dump,
    vlm_file="backbone/config.json",
    omits_released_sizes=True,
    names=_NAMES,
    prompt=_PROMPT,
    processor=_PROCESSOR,
    images=_images,
    rules=input_rules,
    finetuned_state_dropout=0.0,
    wire="n1.7",
)
