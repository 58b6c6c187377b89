# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.7: sizes, names, prompt, options, and its `config.json` read and written; see also `n1_6`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import (
    ActionHeadConfig,
    BackboneConfig,
    Gr00tConfig,
    QwenVisionConfig,
    RefinerConfig,
)
from gr00t_training.model.families.config_sections import (
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
    put_head,
    section,
    supported,
)
from gr00t_training.model.families.family import ModelFamily, ProcessorFormat, Variant
from gr00t_training.model.families.n1_5 import QWEN3
from gr00t_training.model.families.n1_6 import (
    ACTION_HEAD,
    OPTIONS,
    RELEASED_OPTIONS,
    SHARED_DEFAULTS,
    check_widths,
    input_rules,
    text_interval,
    update_shared,
)
from gr00t_training.model.families.prompt_parts import CHAT_TOKENS, QWEN3_VOCABULARY
from gr00t_training.model.families.weight_rows import DROPOUT_TABLE, HEAD_ROWS, REFINER_ROWS, language_rows
from gr00t_training.model.weight_names import NameTable
from gr00t_training.transforms.images import QwenImages
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.text import PromptFormat

# Accepted backbone names: they have the sizes of the release, or come with a file that gives their sizes.
BACKBONE_NAMES = ("nvidia/Cosmos-Reason2", "Qwen/Qwen3-VL")

_MOST_PIXELS = 2**26  # of one image; larger ones than the release's 2^24 take seconds and gigabytes

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

_RELEASE = Gr00tConfig(
    backbone=BackboneConfig(
        vision=QwenVisionConfig(),
        language=dataclasses.replace(
            QWEN3,
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
        ACTION_HEAD, refiner=RefinerConfig(), state_dim=132, action_dim=132, action_horizon=40, state_dropout=0.2
    ),
    model_type="Gr00tN1d7",
)

_TAG_NAMES = {
    "OXE_DROID_RELATIVE_EEF_RELATIVE_JOINT": "oxe_droid_relative_eef_relative_joint",
    "XDOF": "xdof_relative_eef_relative_joint",
    "XDOF_SUBTASK": "xdof_relative_eef_relative_joint_subtask",
    "REAL_G1": "real_g1_relative_eef_relative_joints",
    "REAL_R1_PRO_SHARPA": "real_r1_pro_sharpa_relative_eef",
    "REAL_R1_PRO_SHARPA_HUMAN": "real_r1_pro_sharpa_relative_eef_human",
    "REAL_R1_PRO_SHARPA_MAXINSIGHTS": "real_r1_pro_sharpa_relative_eef_maxinsights",
    "REAL_R1_PRO_SHARPA_MECKA": "real_r1_pro_sharpa_relative_eef_mecka",
    "UNITREE_G1": "unitree_g1_full_body_with_waist_height_nav_cmd",
    "UNITREE_G1_SONIC": "unitree_g1_sonic",
    "SIMPLER_ENV_GOOGLE": "simpler_env_google",
    "SIMPLER_ENV_WIDOWX": "simpler_env_widowx",
    "LIBERO_PANDA": "libero_sim",
    "NEW_EMBODIMENT": "new_embodiment",
    "ROBOCASA_PANDA_OMRON": "robocasa_panda_omron",
    "ROBOCASA_GR1_TABLETOP": "robocasa_gr1_tabletop",
}

_PROJECTORS = {
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

_IMAGE_TOKEN = "<|image_pad|>"
_IMAGE = "<|vision_start|>{tokens}<|vision_end|>"
_PROMPT = PromptFormat(
    model="GR00T N1.7",
    base="nvidia/Cosmos-Reason2-2B or Qwen/Qwen3-VL-2B-Instruct",
    base_vocabulary=QWEN3_VOCABULARY,
    added=(),
    required=(*CHAT_TOKENS, "<|vision_start|>", "<|vision_end|>", _IMAGE_TOKEN),
    pad="<|endoftext|>",
    image_token=_IMAGE_TOKEN,
    chat="<|im_start|>user\n{images}{text}<|im_end|>\n",
    image=_IMAGE,
    only_image=_IMAGE,
)


def _rows(vlm: str) -> tuple[tuple[str, str], ...]:
    vision, language = f"{vlm}.visual", f"{vlm}.language_model"
    block, our_block = f"{vision}.blocks.#", "backbone.vision.layers.#"
    return (
        (f"{vision}.patch_embed.proj", "backbone.vision.patch_embedding"),
        (f"{vision}.pos_embed", "backbone.vision.position_embedding"),
        (f"{block}.norm1", f"{our_block}.layer_norm1"),
        (f"{block}.norm2", f"{our_block}.layer_norm2"),
        (f"{block}.attn.qkv", f"{our_block}.self_attn.qkv_proj"),
        (f"{block}.attn.proj", f"{our_block}.self_attn.out_proj"),
        (f"{block}.mlp.linear_fc1", f"{our_block}.mlp.fc1"),
        (f"{block}.mlp.linear_fc2", f"{our_block}.mlp.fc2"),
        (f"{vision}.merger", "backbone.vision.merger"),
        (f"{vision}.deepstack_merger_list.#", "backbone.vision.deepstack_mergers.#"),
        *language_rows(language),
    )


_QWEN = "backbone.model.model"
_QWEN_OUTPUT = "backbone.model.lm_head"

_NAMES = NameTable(
    rows=(*_rows(_QWEN), *HEAD_ROWS, *REFINER_ROWS),
    ignored=(_QWEN_OUTPUT, DROPOUT_TABLE),
    stand_ins={f"{_QWEN}.language_model.embed_tokens.weight": f"{_QWEN_OUTPUT}.weight"},
)

_PROCESSOR = ProcessorFormat(
    processor_class="Gr00tN1d7Processor",
    defaults=ProcessorOptions(),
    options=(*OPTIONS, "letter_box_transform", "exclude_state", "state_dropout_prob"),
    released=ProcessorOptions(
        **RELEASED_OPTIONS,
        image_crop_size=(230, 230),
        image_target_size=(256, 256),
        random_rotation_angle=0,
        state_dropout_prob=0.2,
        use_percentiles=True,
        max_state_dim=132,
        max_action_dim=132,
        max_action_horizon=40,
        model_name="nvidia/Cosmos-Reason2-2B",
        model_type="qwen",
    ),
    extra={"use_mean_std": False},
)


def _parse(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
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
            model_type=_RELEASE.model_type,
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1.7 model") from error
    check_widths(config, full)
    return config


def _dump(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `backbone/config.json`; unknown keys of the source stay unchanged."""
    model, vlm = copy.deepcopy(dict(config.model_source)), copy.deepcopy(dict(config.vlm_source))
    head, vision, language = config.action_head, config.backbone.vision, config.backbone.language
    model.setdefault("architectures", ["Gr00tN1d7"])
    model.setdefault("model_name", _DEFAULTS["model_name"])
    put_head(model, head, _HEAD_KEYS)
    model.update(supported(_FIXED), use_vlln=head.refiner is not None and head.refiner.has_norm)
    update_shared(model, config)
    if head.refiner is not None and head.refiner.num_layers:
        model["vl_self_attention_cfg"] = {**(model.get("vl_self_attention_cfg") or {}), **dump_refiner(head.refiner)}
    vlm.setdefault("model_type", "qwen3_vl")
    vlm["image_token_id"] = config.backbone.image_token_id
    tower = vlm.setdefault("vision_config", {})
    tower.update(put(vision, _VISION_KEYS), spatial_merge_size=config.backbone.downsample)
    tower["deepstack_visual_indexes"] = list(tower["deepstack_visual_indexes"])
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
    text = section(vlm, "text_config")
    check_fixed("vision_config", section(vlm, "vision_config"), _VISION_FIXED)
    check_fixed("text_config", text, _LANGUAGE_FIXED)
    check_fixed("rope_scaling", section(text, "rope_scaling"), _ROPE_FIXED)


def _parse_backbone(model: Mapping[str, Any], vlm: Mapping[str, Any]) -> BackboneConfig:
    release, vision, text = _RELEASE.backbone, section(vlm, "vision_config"), section(vlm, "text_config")
    sizes = pick(vision, _VISION_KEYS)
    if "deepstack_layers" in sizes:
        sizes["deepstack_layers"] = tuple(sizes["deepstack_layers"])
    sections = section(text, "rope_scaling").get("mrope_section", release.language.rope_sections)
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
    has_blocks = model["use_vl_self_attention"] and model["vl_self_attention_cfg"] is not None
    has_norm = bool(model["use_vlln"])
    if has_blocks:
        refiner = parse_refiner(section(model, "vl_self_attention_cfg"), has_norm=has_norm)
    else:
        refiner = RefinerConfig(num_layers=0) if has_norm else None
    return dataclasses.replace(
        _RELEASE.action_head,
        dit=parse_dit(section(model, "diffusion_model_cfg"), attend_text_every_n=text_interval(model)),
        refiner=refiner,
        **pick(model, _HEAD_KEYS),
    )


def _images(config: Gr00tConfig, options: ProcessorOptions | None, preprocessor: Mapping[str, Any]) -> QwenImages:
    vision = config.backbone.vision
    assert options is not None and isinstance(vision, QwenVisionConfig)
    sizes = {"patch": vision.patch_size, "merge": config.backbone.downsample, "frames": vision.temporal_patch_size}
    _check_patches(preprocessor, sizes)
    return QwenImages(options, **sizes, **_pixel_limits(preprocessor))


def _check_patches(preprocessor: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Refuse patches of other sizes in the two files of the vision-language model."""
    for key, name in (("patch_size", "patch"), ("merge_size", "merge"), ("temporal_patch_size", "frames")):
        found = preprocessor.get(key, sizes[name])
        if found != sizes[name]:
            raise CheckpointError(
                f"backbone/preprocessor_config.json: {key} is {found!r:.80}, the model's is {sizes[name]}; take the "
                "files of one checkpoint"
            )


def _pixel_limits(preprocessor: Mapping[str, Any]) -> dict[str, int]:
    """Return the smallest and largest image [px] that the vision-language model's own image processor makes."""
    limits = {}
    size = preprocessor.get("size") or {}
    if not isinstance(size, Mapping):
        raise CheckpointError(f"backbone/preprocessor_config.json: size is {size!r:.80}, expected an object")
    for name, key in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        found = preprocessor.get(name, size.get(key))  # the first: of older tools
        if found is None:
            continue
        if type(found) is not int or not 1 <= found <= _MOST_PIXELS:
            raise CheckpointError(
                f"backbone/preprocessor_config.json: {name} is {found!r:.80}, expected a number of pixels up to "
                f"{_MOST_PIXELS}"
            )
        limits[name] = found
    return limits


N1_7 = ModelFamily(
    release=_RELEASE,
    projectors=_PROJECTORS,
    variants={"n1_7_3b": Variant(_RELEASE, _PROJECTORS)},
    tag_names=_TAG_NAMES,
    parse=_parse,
    dump=_dump,
    vlm_file="backbone/config.json",
    omits_released_sizes=True,
    names=_NAMES,
    prompt=_PROMPT,
    processor=_PROCESSOR,
    images=_images,
    rules=input_rules,
    finetuned_state_dropout=0.2,
    wire="n1.7",
)
