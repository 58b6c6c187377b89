# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Data configurations of N1 and N1.5, chosen by name, and `metadata.json` read as an embodiment by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from gr00t_training.embodiment import Embodiment, Interpolation, ModelKeys, Normalization, Rotation, VectorKey, VideoKey
from gr00t_training.errors import ConfigError
from gr00t_training.settings import check_bounds, load_settings, setting
from gr00t_training.types import KeyKind, KeyRef
from gr00t_training.upstream.keys import UNKNOWN_UNIT, channel_names, prefix_errors, raise_config_errors


@dataclass(frozen=True)
class DataConfig:
    """Which keys a model uses, in its order, and how each is scaled."""

    video: tuple[str, ...] = setting(description="Cameras in order.")
    state: Mapping[str, Normalization | None] = setting(description="State keys in order with their scaling.")
    action: Mapping[str, Normalization | None] = setting(description="Action keys in order with their scaling.")
    language: str = setting(description="Annotation key that holds the instruction.")
    state_rotations: Mapping[str, Rotation] = setting(default_factory=dict, description="Rotations the model sees.")
    action_rotations: Mapping[str, Rotation] = setting(default_factory=dict, description="Rotations the model sees.")
    action_horizon: int = setting(16, "Ticks in one action chunk.", ge=1)


def data_config_names() -> list[str]:
    """Names that `data_config` knows."""
    return list(_configs())


def data_config(name: str) -> DataConfig:
    """Return the data configuration of that name.

    Raises:
        ConfigError: no such data configuration; lists the known ones.
    """
    configs = _configs()
    if name not in configs:
        raise ConfigError(f"data configuration '{name}' is unknown, expected one of {', '.join(configs)}")
    return configs[name]


def fitting_data_configs(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of the data configurations with all keys in a tag's entry of `metadata.json`."""
    return [name for name, config in _configs().items() if not _missing_keys(entry, config)]


def embodiment_from_metadata(
    tag: str, entry: Mapping[str, Any], data_config_name: str, *, name: str | None = None
) -> Embodiment:
    """Return the embodiment that a model of N1 or N1.5 was trained for.

    All keys of the metadata are declared; the model uses those of the data configuration. Channels are called
    `<key>_<i>`, units are unknown: the files have none.

    Args:
        tag: embodiment tag.
        entry: the tag's entry of `metadata.json`.
        data_config_name: see `data_config_names`.
        name: of the embodiment; None: the tag.

    Raises:
        ConfigError: no such data configuration, it has keys that are not in the metadata, or the metadata is damaged.
    """
    config = data_config(data_config_name)
    subject = f"metadata of '{tag}'"
    missing = _missing_keys(entry, config)
    if missing:
        fitting = fitting_data_configs(entry)
        raise ConfigError(
            f"{subject}: {', '.join(missing)} of data configuration '{data_config_name}' not found; "
            + (f"those that fit: {', '.join(fitting)}" if fitting else "no known one fits: write an embodiment instead")
        )
    modalities = entry["modalities"]
    try:
        with raise_config_errors(subject):
            embodiment = Embodiment(
                name=name or tag,
                tag=tag,
                fps=_fps(subject, {key: modalities["video"][key] for key in config.video}),
                state=_vectors(KeyKind.STATE, modalities["state"], config.state, config.state_rotations),
                action=_vectors(KeyKind.ACTION, modalities["action"], config.action, config.action_rotations),
                video={key: _camera(key, described) for key, described in modalities["video"].items()},
                language=config.language,
                action_horizon=config.action_horizon,
                model=ModelKeys(state=tuple(config.state), action=tuple(config.action), video=config.video),
            )
            check_bounds(embodiment)
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{subject}: damaged: {error!r}; restore metadata.json") from error
    return embodiment


def _missing_keys(entry: Mapping[str, Any], config: DataConfig) -> list[str]:
    modalities = entry.get("modalities") or {}
    return [
        str(KeyRef(kind, key))
        for kind, keys in (
            (KeyKind.VIDEO, config.video),
            (KeyKind.STATE, config.state),
            (KeyKind.ACTION, config.action),
        )
        for key in keys
        if key not in (modalities.get(kind) or {})
    ]


def _fps(subject: str, cameras: Mapping[str, Any]) -> int:
    rates = {key: float(described["fps"]) for key, described in cameras.items()}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{key} {rate} Hz" for key, rate in rates.items())
        raise ConfigError(
            f"{subject}: cameras run at different rates ({listed}), expected one; write an embodiment with the rate of "
            "the actions instead"
        )
    return round(next(iter(rates.values())))  # 29.97 is 30 for a tick


def _vectors(
    kind: KeyKind,
    described: Mapping[str, Any],
    scaling: Mapping[str, Normalization | None],
    rotations: Mapping[str, Rotation],
) -> dict[str, VectorKey]:
    vectors = {}
    for key, facts in described.items():
        normalization = scaling.get(key)
        with prefix_errors(str(KeyRef(kind, key))):
            vectors[key] = VectorKey(
                names=channel_names(key, facts["shape"][0]),
                unit=UNKNOWN_UNIT,
                normalization=normalization,
                rotation=_rotation(facts.get("rotation_type")),
                target_rotation=rotations.get(key),
                is_absolute=facts["absolute"],
                interpolation=Interpolation.STEP if normalization is Normalization.BINARY else Interpolation.LINEAR,
            )
    return vectors


def _rotation(form: str | None) -> Rotation | None:
    if not form:
        return None
    known = [rotation.value for rotation in Rotation]
    if form not in known:
        raise ValueError(f"rotation_type is '{form}', expected one of {', '.join(known)}")
    return Rotation(form)


def _camera(key: str, described: Mapping[str, Any]) -> VideoKey:
    width, height = described["resolution"]
    with prefix_errors(f"video.{key}"):
        return VideoKey(height=height, width=width)


@dataclass(frozen=True)
class _File:
    configs: Mapping[str, DataConfig] = setting(description="Data configurations by name.")


@cache
def _configs() -> Mapping[str, DataConfig]:
    with resources.as_file(resources.files("gr00t_training") / "data_configs" / "n1.yaml") as path:
        return load_settings(_File, path).configs
