# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1: sizes, names, prompt, and its `config.json` read and written.

A published folder holds no sizes of the vision-language model: those of the release are built in, and any other folder
of ours carries them in `eagle_config.json`. A key that is missing from a file has the value of the release.
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
)
from gr00t_training.model.families.family import ModelFamily, Variant
from gr00t_training.model.families.prompt_parts import (
    ANSWER_START,
    CHAT_TOKENS,
    EAGLE_IMAGE,
    EAGLE_IMAGE_TOKEN,
    SYSTEM_TURN,
)
from gr00t_training.model.families.weight_rows import HEAD_ROWS, eagle_rows
from gr00t_training.model.weight_names import NameTable
from gr00t_training.transforms.images import SquareImages
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.rules import InputRules
from gr00t_training.transforms.scaling import ValueRules
from gr00t_training.transforms.text import PromptFormat

_BACKBONE_KEYS = {
    "select_layer": "select_layer",
    "projector_dim": "projector_dim",
    "reproject_vision": "reproject_vision",
}
_BACKBONE_FIXED = {"scale_image_resolution": (1, 1)}

_ADDED_TOKENS = (
    "<img>",
    "</img>",
    EAGLE_IMAGE_TOKEN,
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "assistant",
    "<interval>",
    "</interval>",
)
_PROMPT = PromptFormat(
    model="GR00T N1",
    base="HuggingFaceTB/SmolLM2-1.7B-Instruct",
    base_vocabulary=49152,
    added=_ADDED_TOKENS,
    required=(*CHAT_TOKENS, *_ADDED_TOKENS),
    pad="<|im_end|>",
    image_token=EAGLE_IMAGE_TOKEN,
    chat=SYSTEM_TURN + "<|im_start|>user\n{images}{text}<|im_end|>\n" + ANSWER_START,
    image=EAGLE_IMAGE + "\n",
    only_image="<img>{tokens}</img>\n",
)

_NAMES = NameTable(
    rows=(*eagle_rows("backbone.model"), ("backbone.linear", "backbone.linear"), *HEAD_ROWS),
    ignored=("action_head.decode_layer",),
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

_PROJECTORS = {"gr1": 24, "new_embodiment": 31}


def _parse(model: Mapping[str, Any], vlm: Mapping[str, Any] | None) -> Gr00tConfig:
    """Read `config.json` and, where a folder has one, `eagle_config.json` of the N1 family.

    Args:
        model: content of `config.json`.
        vlm: sizes of the vision-language model; None: those of the release.

    Raises:
        CheckpointError: an option that is not supported, or sizes that contradict each other.
    """
    vlm = vlm or {}
    backbone, head = section(model, "backbone_cfg"), section(model, "action_head_cfg")
    vision, language = section(vlm, "vision_config"), section(vlm, "llm_config")
    dit = section(head, "diffusion_model_cfg") if "diffusion_model_cfg" in head else None
    check_fixed("backbone_cfg", backbone, _BACKBONE_FIXED)
    check_fixed("vision_config", vision, VISION_FIXED)
    check_fixed("llm_config", language, LANGUAGE_FIXED)
    try:
        config = Gr00tConfig(
            backbone=BackboneConfig(
                vision=VisionConfig(**pick(vision, VISION_KEYS)),
                language=_parse_language(language),
                downsample=round(1 / vlm.get("downsample_ratio", 0.5)),
                image_token_id=vlm.get("img_context_token_id", 49154),
                **pick(backbone, _BACKBONE_KEYS),
            ),
            action_head=ActionHeadConfig(dit=DitConfig() if dit is None else parse_dit(dit), **pick(head, HEAD_KEYS)),
            model_source=copy.deepcopy(dict(model)),
            vlm_source=copy.deepcopy(dict(vlm)),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: {error}; the folder does not describe an N1 model") from error
    _check_agreement(config, model, vlm)
    return config


def _dump(config: Gr00tConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `config.json` and `eagle_config.json`; unknown keys of the source stay unchanged."""
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
    put_head(head_section, head, HEAD_KEYS)
    head_section.update(action_dim=head.action_dim, input_embedding_dim=head.dit.width)
    head_section.setdefault("diffusion_model_cfg", {}).update(dump_dit(head.dit))
    vlm.update(
        force_image_size=config.image_size,
        downsample_ratio=1 / backbone.downsample,
        img_context_token_id=backbone.image_token_id,
    )
    vlm.setdefault("vision_config", {}).update(put(backbone.vision, VISION_KEYS))
    language = vlm.setdefault("llm_config", {})
    sizes = backbone.language
    language.update(put(sizes, QWEN3_KEYS), num_key_value_heads=sizes.num_kv_heads or sizes.num_heads)
    if sizes.head_dim is None:  # of the width
        del language["head_dim"]
    return model, vlm


def _parse_language(sizes: Mapping[str, Any]) -> LanguageConfig:
    """Read the sizes of a Llama; it may have fewer key and value heads than query heads."""
    found = LanguageConfig(**pick(sizes, QWEN3_KEYS))
    if found.num_kv_heads == found.num_heads:
        found = dataclasses.replace(found, num_kv_heads=None)
    if found.head_dim is not None and found.head_dim * found.num_heads == found.hidden_size:
        found = dataclasses.replace(found, head_dim=None)
    return found


def _check_agreement(config: Gr00tConfig, model: Mapping[str, Any], vlm: Mapping[str, Any]) -> None:
    """Refuse sizes that are in two places of the published files and differ."""
    head, backbone = section(model, "action_head_cfg"), section(model, "backbone_cfg")
    vision, action_head = config.backbone.vision, config.action_head
    specification = section(section(backbone, "processor_cfg"), "model_spec")
    check_claims(
        {
            "action_head_cfg.input_embedding_dim": (head.get("input_embedding_dim", 1536), action_head.dit.width),
            "action_head_cfg.action_dim": (head.get("action_dim", action_head.action_dim), action_head.action_dim),
            "action_horizon": (model.get("action_horizon", action_head.action_horizon), action_head.action_horizon),
            "num_image_token": (specification.get("num_image_token", 64), config.backbone.num_image_tokens),
            "force_image_size": (vlm.get("force_image_size", vision.image_size), vision.image_size),
            "select_layer of eagle_config.json": (vlm.get("select_layer", -1), -1),
        }
    )


def _images(config: Gr00tConfig, options: ProcessorOptions | None, preprocessor: Mapping[str, Any]) -> SquareImages:
    return SquareImages(config.image_size, torch.bfloat16, tokens=config.backbone.num_image_tokens)


def input_rules(options: ProcessorOptions | None) -> InputRules:
    """Return the rules of N1 and N1.5, whose checkpoints have no options."""
    return InputRules(
        state=ValueRules(truncates=True),
        action=ValueRules(),
        default_instruction="Perform the default behavior.",
    )


N1 = ModelFamily(
    release=Gr00tConfig(),
    projectors=_PROJECTORS,
    variants={
        "n1_2b": Variant(Gr00tConfig(), _PROJECTORS),
        "n1_compact": Variant(_COMPACT, {"gr1": 0, "new_embodiment": 1}, "compact"),
    },
    parse=_parse,
    dump=_dump,
    vlm_file="eagle_config.json",
    names=_NAMES,
    prompt=_PROMPT,
    images=_images,
    rules=input_rules,
    denoising_steps=4,  # config.json of the published checkpoint says 16
    wire="n1.5",
)
