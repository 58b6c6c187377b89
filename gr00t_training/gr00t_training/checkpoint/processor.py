# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and write `processor_config.json` of N1.6 and N1.7: options of the transforms, and keys per embodiment tag.

Options with the default of the release's constructor are missing in a published file, and these defaults differ between
the families. A written file has every option of the family's constructor, and no other.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.model.families import ProcessorFormat
from gr00t_training.transforms.processor import ProcessorOptions

_KWARGS = "processor_kwargs"
_LARGEST_SIDE = 8192  # of an image [px]
_MODALITIES = "modality_configs"


def read_options(content: Mapping[str, Any], form: ProcessorFormat, file: Path) -> ProcessorOptions:
    """Return the options of a file, with the constructor's defaults for missing ones.

    Args:
        content: of the file.
        form: of the family.
        file: named in errors.

    Raises:
        CheckpointError: an option has a wrong type, or the file belongs to another family.
    """
    if content.get("processor_class", form.processor_class) != form.processor_class:
        raise CheckpointError(
            f"{file}: processor_class is {content['processor_class']!r} (expected {form.processor_class}); "
            "take the file that belongs to the checkpoint"
        )
    found = section(content, _KWARGS, file)
    hints = typing.get_type_hints(ProcessorOptions)
    values = {name: _checked(name, found[name], hints[name], file) for name in hints if name in found}
    options = dataclasses.replace(form.defaults, **values)
    _check_limits(options, file)
    return options


def read_modalities(content: Mapping[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """Return the modality configuration of each embodiment tag.

    Raises:
        CheckpointError: the file has none, or not one object per tag.
    """
    modalities = section(section(content, _KWARGS, file), _MODALITIES, file)
    return {tag: section(modalities, tag, file) for tag in modalities}


def dump_processor(
    source: Mapping[str, Any],
    form: ProcessorFormat,
    options: ProcessorOptions,
    modalities: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of the file; unknown keys of `source` stay unchanged."""
    content = copy.deepcopy(dict(source))
    content.setdefault("processor_class", form.processor_class)
    known = {name: getattr(options, name) for name in form.options}
    kwargs = {_MODALITIES: dict(modalities), **known}
    others = {name: value for name, value in content.get(_KWARGS, {}).items() if name not in kwargs}
    content[_KWARGS] = {**kwargs, **form.extra, **others}
    return content


def section(content: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """Return a section of a file.

    Raises:
        CheckpointError: it is missing or not an object.
    """
    found = content.get(key)
    if not isinstance(found, dict):
        kind = "is missing" if found is None else f"is {type(found).__name__}, expected an object"
        raise CheckpointError(f"{file}: '{key}' {kind}; take the file that belongs to the checkpoint")
    return found


def _checked(name: str, value: Any, hint: Any, file: Path) -> Any:
    """Return `value` converted to the type of the option."""
    kinds = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value):
            return tuple(value)
    elif typing.get_origin(kind) is not None:  # a mapping of numbers
        if isinstance(value, dict) and all(type(item) in (int, float) for item in value.values()):
            return value
    elif isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) is (kind is bool):
        return value
    raise CheckpointError(f"{file}: {name} is {value!r:.80}, expected {_names(kinds)}; correct the file")


def _check_limits(options: ProcessorOptions, file: Path) -> None:
    """Refuse sizes and shares outside those of all releases, before an image of that size is allocated."""
    sizes = {
        "image_crop_size": options.image_crop_size,
        "image_target_size": options.image_target_size,
        "shortest_image_edge": options.shortest_image_edge,
    }
    for name, value in sizes.items():
        for side in value if isinstance(value, tuple) else () if value is None else (value,):
            if not 1 <= side <= _LARGEST_SIDE:
                raise CheckpointError(f"{file}: {name} is {value!r:.80}, expected 1 to {_LARGEST_SIDE} pixels")
    shares = {
        "crop_fraction": options.crop_fraction,
        "state_dropout_prob": options.state_dropout_prob,
        **{f"color_jitter_params.{key}": value for key, value in (options.color_jitter_params or {}).items()},
    }
    for name, value in shares.items():
        if value is not None and not 0 <= value <= (1 if "." not in name else 100):
            raise CheckpointError(f"{file}: {name} is {value!r:.80}, expected a share from 0 to 1; correct the file")


def _names(kinds: tuple[Any, ...]) -> str:
    names = {tuple: "two whole numbers", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words = [names.get(typing.get_origin(kind) or kind, "an object") for kind in kinds if kind is not type(None)]
    return " or ".join([*words, "null"] if type(None) in kinds else words)
