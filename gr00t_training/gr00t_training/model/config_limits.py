# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Types and limits of every size of a model, checked before anything is allocated.

The limits are far above those of any release; they keep a damaged or hostile config.json from claiming memory or time
before its weights are compared with it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

# field -> smallest and largest value; other whole numbers: 1 to 1,000,000
_LIMITS: dict[str, tuple[float, float]] = {
    "hidden_size": (1, 65_536),
    "intermediate_size": (1, 262_144),
    "output_dim": (1, 65_536),
    "projector_dim": (-1, 65_536),
    "num_layers": (0, 256),
    "num_heads": (1, 1024),
    "num_kv_heads": (1, 1024),
    "head_dim": (1, 4096),
    "image_size": (1, 4096),
    "patch_size": (1, 256),
    "temporal_patch_size": (1, 16),
    "vocab_size": (1, 2_000_000),
    "select_layer": (1, 256),
    "downsample": (1, 16),
    "image_token_id": (0, 2_000_000),
    "state_dim": (1, 8192),
    "action_dim": (1, 8192),
    "state_history": (1, 1000),
    "action_horizon": (1, 10_000),
    "num_embodiments": (1, 10_000),
    "num_future_tokens": (0, 10_000),
    "rtc_max_delay": (0, 10_000),
    "num_steps": (1, 1000),
    "attend_text_every_n": (1, 256),
    # shares and scales
    "norm_eps": (0, 1),
    "rope_theta": (1, 1e12),
    "dropout": (0, 1),
    "state_dropout": (0, 1),
    "state_noise": (0, 1e6),
    "noise_alpha": (1e-6, 1e6),
    "noise_beta": (1e-6, 1e6),
    "noise_s": (1e-6, 1),
    "loss_epsilon": (0, 1),
}
_ANY_COUNT = (1, 1_000_000)
_LAYER_LIMIT = (0, 256)  # items of a tuple


def check_limits(config: Any, place: str = "") -> None:
    """Check every field of a configuration and of those inside it.

    Raises:
        ValueError: a field has another type or is beyond its limits; names it.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if not field.compare:  # the files as they were read
            continue
        name, value = f"{place}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_limits(value, f"{name}.")
        elif isinstance(value, tuple):
            for item in value:
                _check(name, item, int, _LAYER_LIMIT)
        elif not (value is None and _is_optional(hints[field.name])):
            kind = _kind(hints[field.name])
            _check(name, value, kind, _LIMITS.get(field.name, _ANY_COUNT) if kind in (int, float) else None)


def _check(name: str, value: Any, kind: type, limits: tuple[float, float] | None) -> None:
    is_right = type(value) is kind or (kind is float and type(value) is int)
    if not is_right:
        raise ValueError(f"{name} is {value!r:.80}, expected {_NAMES.get(kind, kind.__name__)}")
    if limits is not None and not (math.isfinite(value) and limits[0] <= value <= limits[1]):
        raise ValueError(f"{name} is {value!r:.80}, expected {limits[0]:g} to {limits[1]:g}")


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "a list"}


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _kind(hint: Any) -> Any:
    """Return the type of a field; that of `X | None` is X."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    return typing.get_origin(hint) or hint
