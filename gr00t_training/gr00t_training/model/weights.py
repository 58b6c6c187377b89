# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Published names of the weights and ours: one table per family, read in both directions.

A row maps the beginning of a name; what follows (`.weight`, `.layer_norm1.bias`) is the same on both sides. `#` stands
for a number, the same on both sides.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gr00t_training.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 5  # of a long list in an error
_EXPORT_PREFIX = "_groot_model."  # of all names in files that LeRobot's training writes


@dataclass(frozen=True)
class NameTable:
    """Names of one model family."""

    rows: tuple[tuple[str, str], ...]  # (published, ours)
    ignored: tuple[str, ...] = ()  # published beginnings of weights that no action needs
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # published name -> the one to take where it is absent
    # published name -> standard deviation of the fresh values where a file lacks it; models without it ignore it
    optional: Mapping[str, float] = field(default_factory=dict)
    remedies: Mapping[str, str] = field(default_factory=dict)  # published name -> what to do where it is absent

    def to_ours(self, published: str) -> str | None:
        """Return our name; None for a weight that the model has not."""
        return _rename(published, self.rows)

    def to_published(self, ours: str) -> str:
        """Return the published name; KeyError if the table lacks it."""
        name = _rename(ours, [(own, published) for published, own in self.rows])
        if name is None:
            raise KeyError(f"{ours}: no row of the table of published names covers it")
        return name


_BLOCK, _OUR_BLOCK = "action_head.model.transformer_blocks.#", "action_head.dit.blocks.#"
_REFINER, _OUR_REFINER = "action_head.vl_self_attention.transformer_blocks.#", "action_head.refiner.blocks.#"


def _eagle_rows(vlm: str) -> tuple[tuple[str, str], ...]:
    vision, language = f"{vlm}.vision_model.vision_model", f"{vlm}.language_model.model"
    return (
        (f"{vision}.embeddings.patch_embedding", "backbone.vision.patch_embedding"),
        (f"{vision}.embeddings.position_embedding", "backbone.vision.position_embedding"),
        (f"{vision}.encoder.layers.#", "backbone.vision.layers.#"),
        (f"{vision}.post_layernorm", "backbone.vision.post_layernorm"),
        (f"{vlm}.mlp1", "backbone.connector"),
        *_language_rows(language),
    )


def _qwen_rows(vlm: str) -> tuple[tuple[str, str], ...]:
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
        *_language_rows(language),
    )


def _language_rows(language: str) -> tuple[tuple[str, str], ...]:
    layer, our_layer = f"{language}.layers.#", "backbone.language.layers.#"
    return (
        (f"{language}.embed_tokens", "backbone.language.embed_tokens"),
        (f"{layer}.input_layernorm", f"{our_layer}.input_layernorm"),
        (f"{layer}.self_attn.q_proj", f"{our_layer}.self_attn.q_proj"),
        (f"{layer}.self_attn.k_proj", f"{our_layer}.self_attn.k_proj"),
        (f"{layer}.self_attn.v_proj", f"{our_layer}.self_attn.v_proj"),
        (f"{layer}.self_attn.q_norm", f"{our_layer}.self_attn.q_norm"),
        (f"{layer}.self_attn.k_norm", f"{our_layer}.self_attn.k_norm"),
        (f"{layer}.self_attn.o_proj", f"{our_layer}.self_attn.out_proj"),
        (f"{layer}.post_attention_layernorm", f"{our_layer}.post_attention_layernorm"),
        (f"{layer}.mlp", f"{our_layer}.mlp"),
        (f"{language}.norm", "backbone.language.norm"),
    )


_HEAD_ROWS = (
    ("action_head.state_encoder", "action_head.state_encoder"),
    ("action_head.action_encoder", "action_head.action_encoder"),
    ("action_head.action_decoder", "action_head.action_decoder"),
    ("action_head.position_embedding", "action_head.position_embedding"),
    ("action_head.model.timestep_encoder.timestep_embedder", "action_head.dit.timestep"),
    (f"{_BLOCK}.norm1.linear", f"{_OUR_BLOCK}.norm1_linear"),
    (f"{_BLOCK}.attn1.to_q", f"{_OUR_BLOCK}.attn1.q_proj"),
    (f"{_BLOCK}.attn1.to_k", f"{_OUR_BLOCK}.attn1.k_proj"),
    (f"{_BLOCK}.attn1.to_v", f"{_OUR_BLOCK}.attn1.v_proj"),
    (f"{_BLOCK}.attn1.to_out.0", f"{_OUR_BLOCK}.attn1.out_proj"),
    (f"{_BLOCK}.ff.net.0.proj", f"{_OUR_BLOCK}.ff.fc1"),
    (f"{_BLOCK}.ff.net.2", f"{_OUR_BLOCK}.ff.fc2"),
    ("action_head.model.proj_out_1", "action_head.dit.proj_out_1"),
    ("action_head.model.proj_out_2", "action_head.dit.proj_out_2"),
)
_FUTURE_ROWS = (("action_head.future_tokens", "action_head.future_tokens"),)
_MASK_TOKEN = "action_head.mask_token"
_REFINER_ROWS = (
    ("action_head.vlln", "action_head.refiner.norm"),
    (f"{_REFINER}.norm1", f"{_OUR_REFINER}.layer_norm1"),
    (f"{_REFINER}.attn1.to_q", f"{_OUR_REFINER}.self_attn.q_proj"),
    (f"{_REFINER}.attn1.to_k", f"{_OUR_REFINER}.self_attn.k_proj"),
    (f"{_REFINER}.attn1.to_v", f"{_OUR_REFINER}.self_attn.v_proj"),
    (f"{_REFINER}.attn1.to_out.0", f"{_OUR_REFINER}.self_attn.out_proj"),
    (f"{_REFINER}.norm3", f"{_OUR_REFINER}.layer_norm2"),
    (f"{_REFINER}.ff.net.0.proj", f"{_OUR_REFINER}.mlp.fc1"),
    (f"{_REFINER}.ff.net.2", f"{_OUR_REFINER}.mlp.fc2"),
)

N1_NAMES = NameTable(
    rows=(*_eagle_rows("backbone.model"), ("backbone.linear", "backbone.linear"), *_HEAD_ROWS),
    ignored=("action_head.decode_layer",),
)

_EAGLE = "backbone.eagle_model"
_EAGLE_OUTPUT = f"{_EAGLE}.language_model.lm_head"

N1_5_NAMES = NameTable(
    rows=(
        *_eagle_rows(_EAGLE),
        ("backbone.eagle_linear", "backbone.linear"),
        *_HEAD_ROWS,
        *_FUTURE_ROWS,
        *_REFINER_ROWS,
    ),
    ignored=(f"{_EAGLE}.vision_model.vision_model.head", _EAGLE_OUTPUT),
    # tied: some exports keep only one of the two
    stand_ins={f"{_EAGLE}.language_model.model.embed_tokens.weight": f"{_EAGLE_OUTPUT}.weight"},
    remedies={
        "action_head.future_tokens.weight": "checkpoints fine-tuned before 8 July 2025 were trained without future "
        "tokens: set num_target_vision_tokens of action_head_cfg in config.json to 0"
    },
)

_EAGLE_3 = "backbone.model"
_EAGLE_3_OUTPUT = f"{_EAGLE_3}.language_model.lm_head"
_DROPOUT_TABLE = "action_head.dropout_prob_by_embodiment"  # of other training programs

N1_6_NAMES = NameTable(
    rows=(*_eagle_rows(_EAGLE_3), *_HEAD_ROWS, *_REFINER_ROWS, (_MASK_TOKEN, _MASK_TOKEN)),
    ignored=(f"{_EAGLE_3}.vision_model.vision_model.head", _EAGLE_3_OUTPUT, _DROPOUT_TABLE),
    stand_ins={f"{_EAGLE_3}.language_model.model.embed_tokens.weight": f"{_EAGLE_3_OUTPUT}.weight"},
    optional={_MASK_TOKEN: 0.02},
)

_QWEN = "backbone.model.model"
_QWEN_OUTPUT = "backbone.model.lm_head"

N1_7_NAMES = NameTable(
    rows=(*_qwen_rows(_QWEN), *_HEAD_ROWS, *_REFINER_ROWS),
    ignored=(_QWEN_OUTPUT, _DROPOUT_TABLE),
    stand_ins={f"{_QWEN}.language_model.embed_tokens.weight": f"{_QWEN_OUTPUT}.weight"},
)


def published_weights(model: nn.Module, table: NameTable) -> dict[str, Tensor]:
    """Return the weights under their published names."""
    return {table.to_published(name): weight for name, weight in model.state_dict().items()}


def assign_weights(model: nn.Module, weights: Mapping[str, Tensor], table: NameTable, source: str) -> None:
    """Put weights with published names into `model`, which may lie on the meta device; they are not copied.

    Weights that the model has not are ignored, with a warning unless the table expects them.

    Args:
        model: receives the weights, in their own dtype and on their own device.
        weights: published name -> tensor.
        table: of the model's family.
        source: names the weights in errors.

    Raises:
        CheckpointError: weights are missing or have another shape; names them.
    """
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    weights = {name.removeprefix(_EXPORT_PREFIX): weight for name, weight in weights.items()}
    stand_ins = {name: weights[other] for name, other in table.stand_ins.items() if other in weights}
    weights = {**_fresh(shapes, weights, table), **stand_ins, **weights}
    ours = {name: weight for published, weight in weights.items() if (name := table.to_ours(published)) in shapes}
    missing = [table.to_published(name) for name in shapes if name not in ours]
    if missing:
        # many weights at once are another matter than the one that a remedy is for
        remedy = table.remedies.get(missing[0]) if len(missing) == 1 else None
        raise CheckpointError(
            f"{source}: {len(missing)} of {len(shapes)} weights are missing: {_listing(missing)}; "
            f"{remedy or 'the file is incomplete or of another model'}"
        )
    wrong = [
        f"{table.to_published(name)} is {tuple(weight.shape)}, expected {tuple(shapes[name])}"
        for name, weight in ours.items()
        if weight.shape != shapes[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: weights do not fit config.json: {_listing(wrong)}; the two are of different models"
        )
    expected = (*table.ignored, *table.optional)
    extra = [name for name in weights if table.to_ours(name) not in shapes and not name.startswith(expected)]
    if extra:
        logger.warning("%s: ignoring %d unknown weights: %s", source, len(extra), _listing(extra))
    model.load_state_dict(ours, assign=True)  # type: ignore[arg-type]


def _fresh(shapes: Mapping[str, torch.Size], weights: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Return random values, on the device and in the type of the others, for optional weights that a file lacks."""
    fresh = {}
    for published, deviation in table.optional.items():
        ours = table.to_ours(published) or ""
        if ours in shapes and published not in weights and weights:
            like = next(iter(weights.values()))
            fresh[published] = deviation * torch.randn(shapes[ours], dtype=like.dtype, device=like.device)
    return fresh


def _rename(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    for beginning, replacement in rows:
        pattern = re.escape(beginning).replace(r"\#", r"(\d+)") + r"(?=\.|$)"
        if match := re.match(pattern, name):
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), replacement) + name[match.end() :]  # noqa: B023
    return None


def _listing(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
