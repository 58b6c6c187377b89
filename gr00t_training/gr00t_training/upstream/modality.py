# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Modality configurations of N1.6 and N1.7 (`processor_config.json`) read as embodiments, and back.

A modality configuration is a mapping of "video", "state", "action" and "language" to `delta_indices`, `modality_keys`,
`sin_cos_embedding_keys`, `mean_std_embedding_keys` and `action_configs`. It means something only together with the
options of the same file: an embodiment holds what both say, key by key. So a way there and back gives a description of
the same meaning; what has no effect is lost (`state_key` of absolute actions, keys of an encoding that is off).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.embodiment import Embodiment, ModelKeys, Normalization, Pose, VectorKey, VideoKey
from gr00t_training.errors import ConfigError
from gr00t_training.settings import check_bounds
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.types import KeyKind
from gr00t_training.upstream.keys import (
    POSE_FORMATS,
    UNKNOWN_UNIT,
    channel_names,
    language_from_published,
    prefix_errors,
    published_language,
    raise_config_errors,
)

_REPRESENTATIONS = ("RELATIVE", "DELTA", "ABSOLUTE")
_TYPES = ("EEF", "NON_EEF")
_FORMATS = ("DEFAULT", "XYZ_ROT6D", "XYZ_ROTVEC")

_FARTHEST_TICK = 10_000
_MOST_ITEMS = 1000  # of a list

_STATE_MODES = (Normalization.MIN_MAX, Normalization.Q99, Normalization.MEAN_STD, Normalization.SIN_COS)
_ACTION_MODES = (Normalization.MIN_MAX, Normalization.Q99, Normalization.MEAN_STD)
_RELATIVE_MODES = (Normalization.MIN_MAX, Normalization.MEAN_STD)  # the release uses no percentiles there


def embodiment_from_modality(
    tag: str,
    modality: Mapping[str, Any],
    options: ProcessorOptions,
    statistics: Mapping[str, Any],
    *,
    fps: int,
    name: str | None = None,
) -> Embodiment:
    """Return the embodiment that a modality configuration describes.

    Channels are called `<key>_<i>`, units are unknown and cameras may have any size: the files have neither.

    Args:
        tag: embodiment tag.
        modality: the tag's entry of `modality_configs`; entries other than the four are ignored.
        options: of the same file.
        statistics: the tag's entry of `statistics.json`; its lists give the number of channels.
        fps: tick rate of the data that the model was trained on [Hz].
        name: of the embodiment; None: the tag.

    Raises:
        ConfigError: names what is missing or cannot be used.
    """
    subject = f"modality config of '{tag}'"
    video, state, action = (_part(subject, modality, kind) for kind in ("video", "state", "action"))
    language = _part(subject, modality, "language").keys[0]  # the release uses the first one only
    horizon = len(action.ticks)
    if action.ticks != tuple(range(horizon)):
        raise ConfigError(
            f"{subject}: action.delta_indices is {list(action.ticks)}, expected 0, 1, .. without gaps; "
            "such a model cannot be run here"
        )
    with raise_config_errors(subject):
        embodiment = Embodiment(
            name=name or tag,
            tag=tag,
            fps=fps,
            state={
                key: VectorKey(
                    names=channel_names(key, _dim(tag, statistics, "state", key)),
                    unit=UNKNOWN_UNIT,
                    normalization=_state_mode(key, state, options),
                )
                for key in state.keys
            },
            action={
                key: _action_vector(key, _dim(tag, statistics, "action", key), config, action, options)
                for key, config in zip(action.keys, _action_configs(subject, action), strict=True)
            },
            video={key: VideoKey(height=0, width=0) for key in video.keys},
            language=language_from_published(language),
            action_horizon=horizon,
            video_history=video.ticks,
            state_history=state.ticks,
            model=ModelKeys(state=state.keys, action=action.keys, video=video.keys),
        )
        check_bounds(embodiment)
    _check_references(subject, embodiment)
    return embodiment


def modality_from_embodiment(embodiment: Embodiment) -> dict[str, Any]:
    """Return the modality configuration of the keys that the model uses, as JSON types.

    Its meaning needs the options of `options_for`.

    Raises:
        ConfigError: a key is scaled in a way that N1.6 and N1.7 do not know; names the keys.
    """
    _check_scaling(embodiment)
    _check_references(f"embodiment '{embodiment.name}'", embodiment)
    state = {key: embodiment.state[key] for key in embodiment.state_keys}
    action = {key: embodiment.action[key] for key in embodiment.action_keys}
    return {
        "video": modality_part(embodiment.video_history, embodiment.video_keys),
        "state": modality_part(
            embodiment.state_history,
            state,
            sin_cos=_keys_scaled(state, Normalization.SIN_COS),
            mean_std=_keys_scaled(state, Normalization.MEAN_STD),
        ),
        "action": modality_part(
            range(embodiment.action_horizon),
            action,
            mean_std=_keys_scaled(action, Normalization.MEAN_STD),
            action_configs=[action_config(vector.relative_to, vector.pose) for vector in action.values()],
        ),
        "language": modality_part([0], [published_language(embodiment.language)]),
    }


def options_for(embodiment: Embodiment, base: ProcessorOptions) -> ProcessorOptions:
    """Return `base` with the options that must hold for the embodiment's keys to be scaled as it says.

    What the embodiment does not decide stays as in `base`, so that other embodiments of the same file keep their
    meaning where that is possible.

    Raises:
        ConfigError: keys contradict each other, or are scaled in a way that N1.6 and N1.7 do not know.
    """
    _check_scaling(embodiment)
    absolute = [(str(ref), vector) for ref, vector in embodiment.used_vectors() if vector.relative_to is None]
    ranged = {
        mode: [place for place, vector in absolute if vector.normalization is mode]
        for mode in (Normalization.MIN_MAX, Normalization.Q99)
    }
    if all(ranged.values()):
        raise ConfigError(
            f"embodiment '{embodiment.name}': "
            + ", ".join(f"{mode.value} for {', '.join(places)}" for mode, places in ranged.items())
            + "; N1.6 and N1.7 have one of the two for state and absolute actions: choose one"
        )
    vectors = [vector for _, vector in embodiment.used_vectors()]
    return dataclasses.replace(
        base,
        use_percentiles=bool(ranged[Normalization.Q99]) if any(ranged.values()) else base.use_percentiles,
        use_relative_action=base.use_relative_action or any(vector.relative_to is not None for vector in vectors),
        apply_sincos_state_encoding=base.apply_sincos_state_encoding
        or any(vector.normalization is Normalization.SIN_COS for vector in vectors),
    )


def modality_differences(
    modality: Mapping[str, Any],
    options: ProcessorOptions,
    statistics: Mapping[str, Any],
    embodiment: Embodiment,
) -> list[str]:
    """List what a published description and an embodiment disagree on; empty if the model means the same by both.

    Compared are the keys that the model uses, their order, channels, scaling and reference, the histories, the horizon
    and the language key. Names of channels, units, tick rate and image sizes are the embodiment's own.

    Args:
        modality: the tag's entry of `modality_configs`.
        options: of the same file.
        statistics: the tag's entry of `statistics.json`.
        embodiment: of the user.

    Returns:
        One item with both values per entry (found: published, expected: the embodiment's).

    Raises:
        ConfigError: the published description cannot be used.
    """
    published = embodiment_from_modality(embodiment.tag, modality, options, statistics, fps=embodiment.fps)
    found, expected = _as_the_model_sees(published), _as_the_model_sees(embodiment)
    return [
        f"{place}: found {_text(found[place])}, expected {_text(expected[place])}"
        for place in found
        if place in expected and found[place] != expected[place]
    ]


def modality_part(
    ticks: Iterable[int],
    keys: Iterable[str],
    *,
    sin_cos: Sequence[str] = (),
    mean_std: Sequence[str] = (),
    action_configs: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return one of the four entries of a modality configuration; empty lists become null, as the release writes it."""
    return {
        "delta_indices": list(ticks),
        "modality_keys": list(keys),
        "sin_cos_embedding_keys": list(sin_cos) or None,
        "mean_std_embedding_keys": list(mean_std) or None,
        "action_configs": None if action_configs is None else list(action_configs),
    }


def action_config(relative_to: str | None, pose: Pose | None) -> dict[str, Any]:
    """Return the entry of `action_configs` for one action key."""
    return {
        "rep": "ABSOLUTE" if relative_to is None else "RELATIVE",
        "type": "NON_EEF" if pose is None else "EEF",
        "format": "DEFAULT" if pose is None else POSE_FORMATS[pose],
        "state_key": relative_to,
    }


@dataclass(frozen=True)
class _Part:
    """One of the four entries of a modality configuration."""

    ticks: tuple[int, ...]
    keys: tuple[str, ...]
    sin_cos: frozenset[str]
    mean_std: frozenset[str]
    action_configs: Sequence[Mapping[str, Any]] | None


def _part(subject: str, modality: Mapping[str, Any], kind: str) -> _Part:
    content = modality.get(kind)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{subject}: '{kind}' is missing, found {', '.join(modality) or 'nothing'}; restore the file")
    try:
        part = _Part(
            ticks=tuple(_list(content, "delta_indices")),
            keys=tuple(_list(content, "modality_keys")),
            sin_cos=frozenset(_list(content, "sin_cos_embedding_keys", is_optional=True)),
            mean_std=frozenset(_list(content, "mean_std_embedding_keys", is_optional=True)),
            action_configs=_list(content, "action_configs") if content.get("action_configs") is not None else None,
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{subject}: '{kind}' is damaged: {error}; restore the file") from error
    _check_part(f"{subject}: {kind}", part)
    if not part.keys:
        raise ConfigError(f"{subject}: {kind}.modality_keys is empty, expected at least one key; restore the file")
    return part


def _check_part(subject: str, part: _Part) -> None:
    """Refuse items of other types, duplicates, and more or farther ticks than any robot keeps."""
    if not all(type(tick) is int and abs(tick) <= _FARTHEST_TICK for tick in part.ticks):
        raise ConfigError(
            f"{subject}.delta_indices holds other items than whole numbers from {-_FARTHEST_TICK} to {_FARTHEST_TICK}; "
            "restore the file"
        )
    for name, keys in (("modality_keys", part.keys), ("sin_cos_embedding_keys", part.sin_cos)):
        if not all(isinstance(key, str) for key in keys):
            raise ConfigError(f"{subject}.{name} holds other items than texts; restore the file")
    if len(set(part.keys)) < len(part.keys):
        raise ConfigError(f"{subject}.modality_keys names a key more than once; restore the file")
    if part.action_configs is not None and not all(isinstance(config, Mapping) for config in part.action_configs):
        raise ConfigError(f"{subject}.action_configs holds other items than objects; restore the file")


def _list(content: Mapping[str, Any], name: str, *, is_optional: bool = False) -> list[Any]:
    found = content.get(name)
    if found is None and is_optional:
        return []
    if not isinstance(found, list) or len(found) > _MOST_ITEMS:
        raise TypeError(f"{name} is not a list of at most {_MOST_ITEMS} items")
    return found


def _action_configs(subject: str, action: _Part) -> Sequence[Mapping[str, Any]]:
    configs = action.action_configs
    if configs is None:
        return [action_config(None, None)] * len(action.keys)  # the release takes such groups as absolute
    if len(configs) != len(action.keys):
        raise ConfigError(
            f"{subject}: {len(configs)} action_configs for {len(action.keys)} action keys "
            f"({', '.join(action.keys)}), expected one each; restore the file"
        )
    for key, config in zip(action.keys, configs, strict=True):
        for field, known in (("rep", _REPRESENTATIONS), ("type", _TYPES), ("format", _FORMATS)):
            if config.get(field) not in known:
                raise ConfigError(
                    f"{subject}: action.{key}: {field} is {config.get(field)!r}, expected one of {', '.join(known)}; "
                    "restore the file"
                )
    return configs


def _dim(tag: str, statistics: Mapping[str, Any], kind: str, key: str) -> int:
    """Return the number of channels of a key: the width of its statistics."""
    try:
        shape = np.shape(statistics[kind][key]["min"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"statistics of '{tag}': {kind}.{key} is missing or damaged ({error!r}); take the statistics.json that "
            "belongs to this processor_config.json"
        ) from error
    if len(shape) != 1 or shape[0] == 0:
        raise ConfigError(
            f"statistics of '{tag}': {kind}.{key}.min has shape {shape}, expected (channels,); restore statistics.json"
        )
    return shape[0]


def _state_mode(key: str, state: _Part, options: ProcessorOptions) -> Normalization:
    if options.apply_sincos_state_encoding and key in state.sin_cos:
        return Normalization.SIN_COS
    if key in state.mean_std:
        return Normalization.MEAN_STD
    return Normalization.Q99 if options.use_percentiles else Normalization.MIN_MAX


def _action_vector(
    key: str, dim: int, config: Mapping[str, Any], action: _Part, options: ProcessorOptions
) -> VectorKey:
    # the release accepts DELTA and ignores it: such actions stay as recorded
    is_relative = options.use_relative_action and config["rep"] == "RELATIVE"
    pose = None
    if config["type"] == "EEF":
        pose = next(pose for pose, form in POSE_FORMATS.items() if form == config["format"])
        if not is_relative and pose.dim != dim:
            pose = None  # the release ignores the format of an absolute action
    if key in action.mean_std:
        mode = Normalization.MEAN_STD
    else:
        mode = Normalization.Q99 if options.use_percentiles and not is_relative else Normalization.MIN_MAX
    reference = (config.get("state_key") or key) if is_relative else None
    with prefix_errors(f"action.{key}"):
        return VectorKey(
            names=channel_names(key, dim), unit=UNKNOWN_UNIT, normalization=mode, relative_to=reference, pose=pose
        )


def _check_references(subject: str, embodiment: Embodiment) -> None:
    for key in embodiment.action_keys:
        vector = embodiment.action[key]
        if vector.relative_to is None:
            continue
        place, reference = f"state.{vector.relative_to}", embodiment.state[vector.relative_to]
        if reference.dim != vector.dim:
            raise ConfigError(
                f"{subject}: action.{key} has {vector.dim} channels and counts from {place}, which has "
                f"{reference.dim}; expected as many"
            )
        if vector.relative_to not in embodiment.state_keys:
            raise ConfigError(
                f"{subject}: action.{key} counts from {place}, which the model does not use; add it to model.state"
            )


def _keys_scaled(keys: Mapping[str, VectorKey], mode: Normalization) -> list[str]:
    return [key for key, vector in keys.items() if vector.normalization is mode]


def _check_scaling(embodiment: Embodiment) -> None:
    """Refuse what N1.6 and N1.7 cannot express."""
    items = []
    for place, vector in embodiment.used_vectors():
        is_state = place.kind is KeyKind.STATE
        modes = _STATE_MODES if is_state else _RELATIVE_MODES if vector.relative_to else _ACTION_MODES
        if vector.normalization not in modes:
            found = vector.normalization.value if vector.normalization else "none"
            relative = " (relative)" if vector.relative_to else ""
            items.append(f"{place}{relative} is {found}, expected {' or '.join(mode.value for mode in modes)}")
        if vector.target_rotation and vector.target_rotation is not vector.rotation:
            items.append(f"{place} is turned into {vector.target_rotation.value}, expected no target_rotation")
    if items:
        raise ConfigError(
            f"embodiment '{embodiment.name}': normalization that N1.6 and N1.7 do not have: {'; '.join(items)}"
        )


def _as_the_model_sees(embodiment: Embodiment) -> dict[str, Any]:
    """Return everything that a model's inputs and outputs depend on, by place."""
    view: dict[str, Any] = {
        "video": list(embodiment.video_keys),
        "video_history": list(embodiment.video_history),
        "state": list(embodiment.state_keys),
        "state_history": list(embodiment.state_history),
        "action": list(embodiment.action_keys),
        "action_horizon": embodiment.action_horizon,
        "language": published_language(embodiment.language),
    }
    for place, vector in embodiment.used_vectors():
        view[f"{place}.channels"] = vector.dim
        view[f"{place}.normalization"] = vector.normalization.value if vector.normalization else None
        if place.kind is KeyKind.ACTION:
            view[f"{place}.relative_to"] = vector.relative_to
            # the form of an absolute pose changes nothing
            view[f"{place}.pose"] = vector.pose.value if vector.pose and vector.relative_to else None
    return view


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None else str(value)
