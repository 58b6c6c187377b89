# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`processor_config.json` of N1.6 and N1.7 read and written: options of the transforms, and keys per embodiment tag.

A file lacks what its writer left at the default of the release's constructor, and those defaults differ between the
families. The file that is written names every option that the family's constructor knows, and no other.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import N1_6_MODEL_TYPE, N1_7_MODEL_TYPE
from gr00t_training.transforms.processor import ProcessorOptions

_KWARGS = "processor_kwargs"
_MODALITIES = "modality_configs"
_N1_6_OPTIONS = (
    "image_crop_size",
    "image_target_size",
    "use_albumentations",
    "random_rotation_angle",
    "color_jitter_params",
    "shortest_image_edge",
    "crop_fraction",
    "model_name",
    "model_type",
    "formalize_language",
    "max_state_dim",
    "max_action_dim",
    "max_action_horizon",
    "use_percentiles",
    "clip_outliers",
    "apply_sincos_state_encoding",
    "use_relative_action",
)


@dataclasses.dataclass(frozen=True)
class _Format:
    """What differs between the two families."""

    processor_class: str
    defaults: ProcessorOptions  # of the constructor
    options: tuple[str, ...]  # that it knows, in the order of the file
    released: ProcessorOptions  # of the published base checkpoint
    extra: Mapping[str, Any]  # options without effect that it knows too


_RELEASED: dict[str, Any] = {
    "use_albumentations": True,
    "color_jitter_params": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
    "use_relative_action": True,
}
_FORMATS: Mapping[str, _Format] = {
    N1_6_MODEL_TYPE: _Format(
        processor_class="Gr00tN1d6Processor",
        defaults=ProcessorOptions(shortest_image_edge=512, max_action_horizon=40),
        options=_N1_6_OPTIONS,
        released=ProcessorOptions(
            **_RELEASED,
            apply_sincos_state_encoding=True,
            max_state_dim=128,
            max_action_dim=128,
            model_name="nvidia/Eagle-Block2A-2B-v2",
            model_type="eagle",
        ),
        extra={},
    ),
    N1_7_MODEL_TYPE: _Format(
        processor_class="Gr00tN1d7Processor",
        defaults=ProcessorOptions(),
        options=(*_N1_6_OPTIONS, "letter_box_transform", "exclude_state", "state_dropout_prob"),
        released=ProcessorOptions(
            **_RELEASED,
            image_crop_size=(230, 230),
            image_target_size=(256, 256),
            random_rotation_angle=0,
            state_dropout_prob=0.2,
            use_percentiles=True,
            max_state_dim=132,
            max_action_dim=132,
            max_action_horizon=40,
            model_name="nvidia/Cosmos-Reason2-2B",
            model_type="qwen",
        ),
        extra={"use_mean_std": False},
    ),
}


def has_processor(model_type: str) -> bool:
    """Whether folders of the family hold `processor_config.json`."""
    return model_type in _FORMATS


def released_options(model_type: str) -> ProcessorOptions | None:
    """Return the options of a family's published base checkpoint; None where the family has none."""
    return _FORMATS[model_type].released if has_processor(model_type) else None


def read_options(content: Mapping[str, Any], model_type: str, file: Path) -> ProcessorOptions:
    """Return the options that a file tells, with the constructor's defaults for the others.

    Args:
        content: of the file.
        model_type: of the family.
        file: named in errors.

    Raises:
        CheckpointError: an option is not of its type, or the file is of another family.
    """
    form = _FORMATS[model_type]
    if content.get("processor_class", form.processor_class) != form.processor_class:
        raise CheckpointError(
            f"{file}: processor_class is {content['processor_class']!r}, a {model_type} has {form.processor_class}; "
            "take the file that belongs to the checkpoint"
        )
    found = _section(content, _KWARGS, file)
    hints = typing.get_type_hints(ProcessorOptions)
    values = {name: _checked(name, found[name], hints[name], file) for name in hints if name in found}
    return dataclasses.replace(form.defaults, **values)


def read_modalities(content: Mapping[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """Return the modality configuration of each embodiment tag.

    Raises:
        CheckpointError: the file has none, or not one object per tag.
    """
    modalities = _section(_section(content, _KWARGS, file), _MODALITIES, file)
    return {tag: _section(modalities, tag, file) for tag in modalities}


def dump_processor(
    source: Mapping[str, Any],
    model_type: str,
    options: ProcessorOptions,
    modalities: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of the file; keys of `source` that are unknown here stay as they were."""
    form = _FORMATS[model_type]
    content = copy.deepcopy(dict(source))
    content.setdefault("processor_class", form.processor_class)
    known = {name: getattr(options, name) for name in form.options}
    kwargs = {_MODALITIES: dict(modalities), **known}
    others = {name: value for name, value in content.get(_KWARGS, {}).items() if name not in kwargs}
    content[_KWARGS] = {**kwargs, **form.extra, **others}
    return content


def _section(content: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    found = content.get(key)
    if not isinstance(found, dict):
        kind = "is missing" if found is None else f"is {type(found).__name__}, expected an object"
        raise CheckpointError(f"{file}: '{key}' {kind}; take the file that belongs to the checkpoint")
    return found


def _checked(name: str, value: Any, hint: Any, file: Path) -> Any:
    """Return `value` in the form that the option has here."""
    kinds = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value):
            return tuple(value)
    elif typing.get_origin(kind) is not None:  # a mapping
        if isinstance(value, dict):
            return value
    elif isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) is (kind is bool):
        return value
    raise CheckpointError(f"{file}: {name} is {value!r}, expected {_names(kinds)}; correct the file")


def _names(kinds: tuple[Any, ...]) -> str:
    names = {tuple: "two whole numbers", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words = [names.get(typing.get_origin(kind) or kind, "an object") for kind in kinds if kind is not type(None)]
    return " or ".join([*words, "null"] if type(None) in kinds else words)
