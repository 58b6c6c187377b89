# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Rows of name tables that several families share: NVIDIA's names of the weights and ours."""

from __future__ import annotations

_BLOCK, _OUR_BLOCK = "action_head.model.transformer_blocks.#", "action_head.dit.blocks.#"
_REFINER, _OUR_REFINER = "action_head.vl_self_attention.transformer_blocks.#", "action_head.refiner.blocks.#"


def eagle_rows(vlm: str) -> tuple[tuple[str, str], ...]:
    """Return the rows of an Eagle model; `vlm` is the beginning of its published names."""
    vision, language = f"{vlm}.vision_model.vision_model", f"{vlm}.language_model.model"
    return (
        (f"{vision}.embeddings.patch_embedding", "backbone.vision.patch_embedding"),
        (f"{vision}.embeddings.position_embedding", "backbone.vision.position_embedding"),
        (f"{vision}.encoder.layers.#", "backbone.vision.layers.#"),
        (f"{vision}.post_layernorm", "backbone.vision.post_layernorm"),
        (f"{vlm}.mlp1", "backbone.connector"),
        *language_rows(language),
    )


def language_rows(language: str) -> tuple[tuple[str, str], ...]:
    """Return the rows of a Llama or Qwen3 model; `language` is the beginning of its published names."""
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


HEAD_ROWS = (
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
REFINER_ROWS = (
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
DROPOUT_TABLE = "action_head.dropout_prob_by_embodiment"  # of other training programs
