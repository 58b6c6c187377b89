# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Describe an embodiment as modality configs of the releases, and compare the two.

The two releases name keys differently: "video.front" (N1.5) or "front" (N1.7).
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from gr00t_training.embodiment import Embodiment, Normalization, VectorKey
from gr00t_training.errors import ServerError
from gr00t_training.io.text import printable
from gr00t_training.serve.wire import ModalityConfig, Wire
from gr00t_training.types import KeyKind, KeyRef
from gr00t_training.upstream.keys import published_language
from gr00t_training.upstream.modality import action_config


def modality_configs(embodiment: Embodiment, wire: Wire) -> dict[str, ModalityConfig]:
    """Describe an embodiment's observations and actions as the release of `wire` does."""
    ticks = tuple(range(embodiment.action_horizon))
    language = ModalityConfig((0,), (published_language(embodiment.language),))
    if wire is Wire.N1_5:
        return {
            "video": ModalityConfig(embodiment.video_history, _prefixed(KeyKind.VIDEO, embodiment.video_keys)),
            "state": ModalityConfig(embodiment.state_history, _prefixed(KeyKind.STATE, embodiment.state_keys)),
            "action": ModalityConfig(ticks, _prefixed(KeyKind.ACTION, embodiment.action_keys)),
            "language": language,
        }
    states = {key: embodiment.state[key] for key in embodiment.state_keys}
    actions = {key: embodiment.action[key] for key in embodiment.action_keys}
    return {
        "video": ModalityConfig(embodiment.video_history, embodiment.video_keys),
        "state": ModalityConfig(
            embodiment.state_history,
            tuple(states),
            _normalized(states, Normalization.SIN_COS),
            _normalized(states, Normalization.MEAN_STD),
        ),
        "action": ModalityConfig(
            ticks,
            tuple(actions),
            _normalized(actions, Normalization.SIN_COS),
            _normalized(actions, Normalization.MEAN_STD),
            tuple(_action_config(key, vector) for key, vector in actions.items()),
        ),
        "language": language,
    }


def check_modality(found: Any, embodiment: Embodiment, source: str) -> str:
    """Compare a server's modality configs with the embodiment; return the server's language key.

    It compares keys and ticks of video, state and action; units and channel names are not in the configs.

    Raises:
        ServerError: names each item that differs and `source`, the server; or `found` is not a set of modality configs.
    """
    needed = ("video", "state", "action", "language")
    if not isinstance(found, Mapping) or not all(isinstance(found.get(name), ModalityConfig) for name in needed):
        raise ServerError(
            f"{source}: its modality config is {printable(reprlib.repr(found))}, expected one each of "
            f"{', '.join(needed)}"
        )
    items = []
    expected = modality_configs(embodiment, Wire.N1_7)
    for name in ("video", "state", "action"):
        keys = {key.removeprefix(f"{name}.") for key in found[name].modality_keys}
        if keys != set(expected[name].modality_keys):
            items.append(f"{name} keys: found {_listed(keys)}, expected {_listed(expected[name].modality_keys)}")
        if found[name].delta_indices != expected[name].delta_indices:
            items.append(
                f"{name} ticks: found {_listed(found[name].delta_indices)}, expected "
                f"{_listed(expected[name].delta_indices)}"
            )
    languages = found["language"].modality_keys
    if len(languages) != 1:
        items.append(f"language keys: found {_listed(languages)}, expected one")
    if items:
        raise ServerError(f"{source}: serves another embodiment than '{embodiment.name}': {'; '.join(items)}")
    return languages[0]


def _prefixed(kind: KeyKind, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(KeyRef(kind, key)) for key in keys)


def _normalized(keys: Mapping[str, VectorKey], how: Normalization) -> tuple[str, ...] | None:
    return tuple(key for key, vector in keys.items() if vector.normalization is how) or None


def _action_config(key: str, vector: VectorKey) -> dict[str, str | None]:
    config = action_config(vector.relative_to, vector.pose)
    return {**config, "state_key": None} if vector.relative_to == key else config  # as the release names its own


def _listed(items: Any) -> str:
    values = [printable(str(item), 100) for item in (sorted(items) if isinstance(items, set) else items)]
    return f"[{', '.join(values[:20])}{', ...' if len(values) > 20 else ''}]"
