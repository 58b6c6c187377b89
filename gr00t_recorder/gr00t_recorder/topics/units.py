# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Units by name, and the factor between two of them."""

from __future__ import annotations

import math

# name -> what it measures, its size in the SI unit
UNITS: dict[str, tuple[str, float]] = {
    "rad": ("angle", 1.0),
    "deg": ("angle", math.pi / 180),
    "turn": ("angle", 2 * math.pi),
    "rad/s": ("angular velocity", 1.0),
    "deg/s": ("angular velocity", math.pi / 180),
    "rpm": ("angular velocity", 2 * math.pi / 60),
    "m": ("length", 1.0),
    "cm": ("length", 0.01),
    "mm": ("length", 0.001),
    "m/s": ("velocity", 1.0),
    "mm/s": ("velocity", 0.001),
    "m/s^2": ("acceleration", 1.0),
    "g": ("acceleration", 9.80665),  # standard gravity
    "N": ("force", 1.0),
    "Nm": ("torque", 1.0),
    "1": ("ratio", 1.0),
    "%": ("ratio", 0.01),
}


def unit_factor(source: str, target: str) -> float:
    """Return the factor from `source` to `target`; equal names need not be known.

    Raises:
        ValueError: a unit is not known, or they measure different things.
    """
    if source == target:
        return 1.0
    for name in (source, target):
        if name not in UNITS:
            raise ValueError(f"unit '{name}' is not known; expected one of {', '.join(UNITS)}, or use 'scale'")
    (source_kind, source_size), (target_kind, target_size) = UNITS[source], UNITS[target]
    if source_kind != target_kind:
        raise ValueError(
            f"unit '{source}' ({source_kind}) cannot become '{target}' ({target_kind}); "
            "correct it here or in the embodiment"
        )
    return source_size / target_size


def si_factor(unit: str) -> float:
    """Return what lengths, angles and their rates are multiplied with to be in m, rad, m/s, rad/s; else 1."""
    kind, size = UNITS.get(unit, ("", 1.0))
    return size if kind in ("length", "angle", "velocity", "angular velocity") else 1.0


def is_rate(unit: str) -> bool:
    """Whether values in a unit are velocities: without another command, a robot keeps moving."""
    return unit.endswith("/s") or UNITS.get(unit, ("",))[0] in ("velocity", "angular velocity")


def full_turn(unit: str) -> float:
    """Return a full turn in an angle's unit; ValueError when it is not an angle."""
    try:
        return 2 * math.pi * unit_factor("rad", unit)
    except ValueError as error:
        raise ValueError(f"'wrap' is for angles, the key's unit is '{unit}'") from error
