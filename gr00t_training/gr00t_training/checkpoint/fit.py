# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check that embodiment, statistics and options of the transforms fit the sizes of a model of N1.6 or N1.7."""

from __future__ import annotations

from pathlib import Path

from gr00t_training.checkpoint.files import CONFIG_FILE, PROCESSOR_FILE
from gr00t_training.embodiment import Embodiment, Normalization, VectorKey
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.types import KeyKind, KeyRef

RELATIVE_ACTION = "relative_action"  # statistics of actions that count from the state


def check_fit(
    path: Path | None,
    config: Gr00tConfig,
    options: ProcessorOptions | None,
    embodiment: Embodiment,
    statistics: Statistics,
) -> None:
    """Compare all sizes with those of the model; those of N1 and N1.5 are checked by their transforms.

    Raises:
        CheckpointError: names what is too wide, too long or missing.
    """
    if options is None:
        return
    try:
        check_options(config, options)
        _check_embodiment(config, embodiment)
        _check_statistics(embodiment, statistics)
    except ValueError as error:
        raise CheckpointError(f"{path or 'model'}: {error}") from error


def check_options(config: Gr00tConfig, options: ProcessorOptions) -> None:
    """Compare the widths of the transforms with those of the model.

    Raises:
        ValueError: they differ.
    """
    head = config.action_head
    for name, found, expected in (
        ("max_state_dim", options.max_state_dim, head.state_dim),
        ("max_action_dim", options.max_action_dim, head.action_dim),
    ):
        if found != expected:
            raise ValueError(
                f"{name} is {found} in {PROCESSOR_FILE} and {expected} in {CONFIG_FILE}; take the two files of one "
                "checkpoint"
            )


def _check_embodiment(config: Gr00tConfig, embodiment: Embodiment) -> None:
    head, name = config.action_head, f"embodiment '{embodiment.name}'"
    for kind, room in ((KeyKind.STATE, head.state_dim), (KeyKind.ACTION, head.action_dim)):
        width = sum(_model_dim(embodiment.vectors(kind)[key]) for key in embodiment.used(kind))
        if width > room:
            raise ValueError(
                f"{name}: {kind} has {width} channels, the model has room for {room} (max_{kind}_dim); use fewer keys"
            )
    if embodiment.action_horizon > head.action_horizon:
        raise ValueError(
            f"{name}: action_horizon is {embodiment.action_horizon}, the model's is {head.action_horizon}; set "
            f"action_horizon of {CONFIG_FILE} to the one that it was trained with, or fine-tune with a shorter one"
        )
    rows = len(embodiment.state_history)
    if head.state_history is not None and rows != head.state_history:
        raise ValueError(
            f"{name}: state_history is {list(embodiment.state_history)}, {rows} rows, the model takes "
            f"{head.state_history} (state_history_length of {CONFIG_FILE}); give as many ticks"
        )


def _check_statistics(embodiment: Embodiment, statistics: Statistics) -> None:
    for ref, vector in embodiment.used_vectors():
        source = statistics_of(ref, vector)
        found = statistics.get(source, {}).get(ref.key)
        if found is None and vector.normalization in (None, Normalization.SIN_COS):
            continue
        if found is None:
            raise ValueError(
                f"statistics of {source}.{ref.key} of embodiment '{embodiment.name}' are missing; compute them again"
            )
        if found.dim != vector.dim:
            raise ValueError(
                f"statistics of {source}.{ref.key} have {found.dim} channels, embodiment '{embodiment.name}' has "
                f"{vector.dim}; take the statistics of its dataset"
            )
        if source == RELATIVE_ACTION and found.min.ndim == 2 and len(found.min) < embodiment.action_horizon:
            raise ValueError(
                f"statistics of {source}.{ref.key} have {len(found.min)} steps, the action horizon of "
                f"'{embodiment.name}' is {embodiment.action_horizon}; compute them for that horizon"
            )


def statistics_of(ref: KeyRef, vector: VectorKey) -> str:
    """Return the part of a checkpoint's statistics that a key is scaled by."""
    return RELATIVE_ACTION if ref.kind is KeyKind.ACTION and vector.relative_to else ref.kind.value


def _model_dim(key: VectorKey) -> int:
    return 2 * key.dim if key.normalization is Normalization.SIN_COS else key.dim
