# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The releases of GR00T: one module and one `ModelFamily` each. A new release is added here and in its own module."""

from __future__ import annotations

from collections.abc import Mapping

from gr00t_training.errors import CheckpointError
from gr00t_training.model.families.family import ModelFamily, ProcessorFormat, Variant
from gr00t_training.model.families.n1 import N1
from gr00t_training.model.families.n1_5 import N1_5
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.model.families.n1_7 import N1_7

__all__ = ["FAMILIES", "ModelFamily", "ProcessorFormat", "Variant", "family", "variants"]

FAMILIES: dict[str, ModelFamily] = {family.model_type: family for family in (N1, N1_5, N1_6, N1_7)}


def family(model_type: object) -> ModelFamily:
    """Return the family of a `model_type`.

    Raises:
        CheckpointError: the family is not supported.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"model_type is {model_type!r}, supported: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def variants() -> Mapping[str, Variant]:
    """Return the models that can be made from scratch, by name."""
    return {name: variant for family in FAMILIES.values() for name, variant in family.variants.items()}
