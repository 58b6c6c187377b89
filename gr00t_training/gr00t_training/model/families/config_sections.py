# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sections of NVIDIA's configuration files that several families share, read and written.

Options of the releases that no published checkpoint uses are refused by name instead of being half supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import ActionHeadConfig, DitConfig, RefinerConfig

# Published key -> field, per section.
VISION_KEYS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "layer_norm_eps": "norm_eps",
}
LANGUAGE_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "max_position_embeddings": "max_positions",
}
QWEN3_KEYS = {**LANGUAGE_KEYS, "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim"}  # Llama's too
RTC_KEY = "rtc_max_delay"  # ours; the releases ignore it
HEAD_KEYS = {
    "hidden_size": "hidden_size",
    "max_action_dim": "action_dim",
    "max_state_dim": "state_dim",
    "action_horizon": "action_horizon",
    "max_num_embodiments": "num_embodiments",
    "add_pos_embed": "add_position_embedding",
    "max_seq_len": "max_positions",
    "noise_beta_alpha": "noise_alpha",
    "noise_beta_beta": "noise_beta",
    "noise_s": "noise_s",
    "num_timestep_buckets": "num_time_buckets",
    "num_inference_timesteps": "num_steps",
    RTC_KEY: "rtc_max_delay",
}
_REFINER_KEYS = {
    "num_attention_heads": "num_heads",
    "attention_head_dim": "head_dim",
    "num_layers": "num_layers",
    "dropout": "dropout",
    "final_dropout": "final_dropout",
}
_DIT_KEYS = {
    **_REFINER_KEYS,
    "output_dim": "output_dim",
    "norm_eps": "norm_eps",
    "interleave_self_attention": "interleave_self_attention",
}
# Values of keys that are missing from a transformer's section; not those of the release.
_TRANSFORMER_DEFAULTS = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "num_layers": 12,
    "output_dim": 26,
    "dropout": 0.1,
    "interleave_self_attention": False,
}
# Options with one supported value: key -> (value, value when the key is absent).
Fixed = Mapping[str, tuple[Any, Any]]
_REFINER_FIXED: Fixed = {
    "positional_embeddings": (None, "sinusoidal"),
    "activation_fn": ("gelu-approximate", "gelu-approximate"),
    "attention_bias": (True, True),
}
_DIT_FIXED: Fixed = {
    **_REFINER_FIXED,
    "norm_type": ("ada_norm", "ada_norm"),
    "norm_elementwise_affine": (False, False),
}
VISION_FIXED: Fixed = {"hidden_act": ("gelu_pytorch_tanh", "gelu_pytorch_tanh"), "num_channels": (3, 3)}
LANGUAGE_FIXED: Fixed = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "rope_scaling": (None, None),
}


def parse_dit(section: Mapping[str, Any], *, attend_text_every_n: int | None = None) -> DitConfig:
    """Read a `diffusion_model_cfg`.

    Raises:
        CheckpointError: an option that is not supported.
    """
    check_fixed("diffusion_model_cfg", section, _DIT_FIXED)
    fields = pick({**_TRANSFORMER_DEFAULTS, **section}, _DIT_KEYS)
    return DitConfig(**fields, attend_text_every_n=attend_text_every_n)


def dump_dit(dit: DitConfig) -> dict[str, Any]:
    """Return the keys of a `diffusion_model_cfg`."""
    return {**put(dit, _DIT_KEYS), **supported(_DIT_FIXED)}


def parse_refiner(section: Mapping[str, Any], *, has_norm: bool = True) -> RefinerConfig:
    """Read a `vl_self_attention_cfg`.

    Raises:
        CheckpointError: an option that is not supported.
    """
    check_fixed("vl_self_attention_cfg", section, _REFINER_FIXED)
    return RefinerConfig(**pick({**_TRANSFORMER_DEFAULTS, **section}, _REFINER_KEYS), has_norm=has_norm)


def dump_refiner(refiner: RefinerConfig) -> dict[str, Any]:
    """Return the keys of a `vl_self_attention_cfg`."""
    return {**put(refiner, _REFINER_KEYS), **supported(_REFINER_FIXED)}


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a section of a published file, empty if missing.

    Raises:
        CheckpointError: it is not an object.
    """
    found = content.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise CheckpointError(f"{key} is {found!r:.80}, expected an object; the file is damaged")
    return found or {}


def pick(section: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a published section gives."""
    return {name: section[key] for key, name in keys.items() if key in section}


def put(config: Any, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return fields under their published keys."""
    return {key: getattr(config, name) for key, name in keys.items()}


def put_head(section: dict[str, Any], head: ActionHeadConfig, keys: Mapping[str, str]) -> None:
    """Put the fields of an action head into a section; a head without a trained delay gets no key for it."""
    section.update(put(head, keys))
    if not head.rtc_max_delay:
        del section[RTC_KEY]


def supported(fixed: Fixed) -> dict[str, Any]:
    """Return the supported values under their published keys."""
    return {key: value for key, (value, _) in fixed.items()}


def check_fixed(section: str, values: Mapping[str, Any], fixed: Fixed) -> None:
    """Refuse options of a section that have another value than the supported one."""
    for key, (value, default) in fixed.items():
        found = values.get(key, default)
        if found != value:
            raise CheckpointError(f"{section}.{key} is {found!r:.200}, only {value!r} is supported")


def check_claims(claims: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse a key if its value (first) differs from what the other sizes need (second)."""
    for key, (found, expected) in claims.items():
        if found != expected:
            raise CheckpointError(f"{key} is {found!s:.200}, the other sizes of the folder need {expected}")
