# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""N1 with fewer heads of keys and values than of queries, as in Llama (arXiv 2305.13245)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.errors import CheckpointError
from gr00t_training.model.families.n1 import N1
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.layers import Attention, rotary_frequencies, rotary_table
from gr00t_training.policy.policy import Policy
from gr00t_training.transforms.observation import resting_observation

HEADS, KEY_HEADS, WIDTH, TOKENS = 4, 2, 24, 5
PROJECTION = "backbone.model.language_model.model.layers.{}.self_attn.{}_proj.weight"


def test_attention_equals_a_computation_by_hand() -> None:
    torch.manual_seed(0)
    layer = Attention(WIDTH, HEADS, kernel="sdpa", bias=False, num_kv_heads=KEY_HEADS)
    assert layer.k_proj.weight.shape == layer.v_proj.weight.shape == (12, WIDTH)
    x = torch.randn(1, TOKENS, WIDTH)
    angles = torch.arange(TOKENS)[:, None] * rotary_frequencies(6, 10000.0)
    with torch.no_grad():
        found = layer(x, rotary=rotary_table(angles), causal=True)[0].numpy()
        w = {name: getattr(layer, f"{name}_proj").weight.double().numpy() for name in ("q", "k", "v", "out")}

    rows, turn = x[0].double().numpy(), angles.double().numpy()
    joined = np.zeros((TOKENS, WIDTH))
    for head in range(HEADS):
        shared = head // (HEADS // KEY_HEADS)  # neighboring query heads share a key head
        own, other = slice(6 * head, 6 * head + 6), slice(6 * shared, 6 * shared + 6)
        q, k, v = rows @ w["q"][own].T, rows @ w["k"][other].T, rows @ w["v"][other].T
        q, k = (
            np.concatenate(
                [z[:, :3] * np.cos(turn) - z[:, 3:] * np.sin(turn), z[:, 3:] * np.cos(turn) + z[:, :3] * np.sin(turn)],
                1,
            )
            for z in (q, k)
        )
        for t in range(TOKENS):
            scores = np.exp(q[t] @ k[: t + 1].T / np.sqrt(6))
            joined[t, own] = scores / scores.sum() @ v[: t + 1]
    np.testing.assert_allclose(found, joined @ w["out"].T, atol=1e-6)


def grouped(path: Path) -> tuple[Checkpoint, Gr00tModel]:
    """Return a compact model; its language model has two heads of keys and values."""
    plain = load_checkpoint(make_checkpoint(path, make_embodiment()))
    backbone = plain.config.backbone
    language = dataclasses.replace(backbone.language, num_kv_heads=KEY_HEADS)
    config = dataclasses.replace(plain.config, backbone=dataclasses.replace(backbone, language=language))
    torch.manual_seed(1)
    return dataclasses.replace(plain, config=config), Gr00tModel(config)


def test_a_checkpoint_keeps_its_key_heads_and_answers_as_with_repeated_ones(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    checkpoint, model = grouped(tmp_path / "plain")
    saved = save_checkpoint(tmp_path / "grouped", checkpoint, model)
    assert json.loads((saved / "eagle_config.json").read_text())["llm_config"]["num_key_value_heads"] == KEY_HEADS
    assert load_file(saved / "model.safetensors")[PROJECTION.format(0, "k")].shape == (96, 192)
    assert load_checkpoint(saved).config == checkpoint.config
    assert [*audit_checkpoint(saved)] == []

    whole = Gr00tModel(load_checkpoint(tmp_path / "plain").config)
    weights = model.state_dict()
    for name in weights:
        if "language" in name and ("k_proj" in name or "v_proj" in name):
            heads = weights[name].unflatten(0, (KEY_HEADS, -1))
            weights[name] = heads.repeat_interleave(HEADS // KEY_HEADS, 0).flatten(0, 1)
    whole.load_state_dict(weights)
    observation = resting_observation(checkpoint.embodiment, "lift the cube")
    plain = load_checkpoint(tmp_path / "plain")
    expected = Policy(plain, whole.eval(), seed=0).infer(observation)
    found = Policy.from_checkpoint(saved, seed=0, device="cpu").infer(observation)
    for key, rows in expected.actions.items():
        np.testing.assert_allclose(found.actions[key], rows, atol=1e-5)


def test_key_heads_of_the_file_are_read_and_written() -> None:
    config = N1.parse({}, {"llm_config": {"num_key_value_heads": 8, "head_dim": 64}})
    assert (config.backbone.language.num_kv_heads, config.backbone.language.head_dim) == (8, None)
    assert N1.parse(*N1.dump(config)) == config
    assert N1.parse({}, {"llm_config": {"num_key_value_heads": 32}}) == N1.parse({}, None)
    with pytest.raises(CheckpointError, match="num_key_value_heads is 5, 32 query heads are not a multiple"):
        N1.parse({}, {"llm_config": {"num_key_value_heads": 5}})
