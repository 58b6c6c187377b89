# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy of full size with random weights, made on its device; its prompts are those of the compact tokenizer."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer

from bench.infer import random_model
from gr00t_training.checkpoint import new_checkpoint
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment
from gr00t_training.model.families import family, variants
from gr00t_training.policy.device import choose_device
from gr00t_training.policy.policy import Policy
from gr00t_training.transforms.text import PromptFormat, shipped_tokenizer


def random_policy(variant: str, embodiment: Embodiment, *, device: str, seed: int) -> Policy:
    """Return a policy of a model variant; weights, statistics and noise are seeded."""
    place = choose_device(device)
    prompt = family(variants()[variant].config.model_type).prompt
    tokenizer = _tokenizer(prompt)
    keys = {"state": embodiment.state, "action": embodiment.action}
    statistics = {kind: {key: _statistics(vector.dim) for key, vector in keys[kind].items()} for kind in keys}
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory(prefix="random_policy_") as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(str(file))
        checkpoint = new_checkpoint(variant, embodiment, statistics, tokenizer=file)
        token = tokenizer.token_to_id(prompt.image_token)
        backbone = dataclasses.replace(checkpoint.config.backbone, image_token_id=token)
        config = dataclasses.replace(checkpoint.config, backbone=backbone)
        checkpoint = dataclasses.replace(checkpoint, config=config)
        return Policy(checkpoint, random_model(config, place, dtype, seed), seed=seed)


def _statistics(dim: int) -> KeyStatistics:
    one = np.ones(dim)
    return KeyStatistics(min=-one, max=one, mean=0 * one, std=one, q01=-one, q99=one)


def _tokenizer(prompt: PromptFormat) -> Tokenizer:
    """Return the compact tokenizer with the tokens of another family's prompts."""
    tokenizer = Tokenizer.from_file(str(shipped_tokenizer("compact")))
    for token in (*prompt.required, *prompt.added, prompt.image_token, prompt.pad):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    return tokenizer
