# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's folder written: complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import torch

from gr00t_training.checkpoint.description import Checkpoint
from gr00t_training.checkpoint.files import (
    CONFIG_FILE,
    EMBODIMENT_FILE,
    METADATA_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    PROJECTORS_FILE,
    STATISTICS_FILE,
    TOKENIZER_FILE,
    VERSIONS_FILE,
    write_json,
)
from gr00t_training.checkpoint.folder import FORMAT
from gr00t_training.checkpoint.processor import dump_processor, read_modalities
from gr00t_training.checkpoint.weight_files import MAX_SHARD_BYTES, write_weights
from gr00t_training.embodiment import Embodiment, VectorKey, to_mapping
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import Family, Gr00tModel, family
from gr00t_training.model.weights import published_weights
from gr00t_training.published import modality_differences, modality_from_embodiment
from gr00t_training.transforms.pipeline import Statistics


def save_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    model: Gr00tModel,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    add_files: Callable[[Path], None] | None = None,
) -> Path:
    """Write a checkpoint's folder; it appears complete or not at all.

    Args:
        path: folder to make; must not exist.
        checkpoint: what to write beside the weights.
        model: weights.
        dtype: of the weights; None: the model's.
        max_shard_bytes: weights are split into files of at most this size.
        add_files: writes more files into the folder before it appears (optimizer state and the like).

    Returns:
        `path`.

    Raises:
        CheckpointError: the folder exists, or the disk refuses.
    """

    def fill(folder: Path) -> None:
        _write_descriptions(folder, checkpoint)
        names = family(checkpoint.config.model_type).names
        weights = {name: weight.detach() for name, weight in published_weights(model, names).items()}
        layout = {name: (dtype or weight.dtype, tuple(weight.shape)) for name, weight in weights.items()}
        write_weights(folder, layout, lambda name: weights[name].to(layout[name][0]), max_shard_bytes)
        if add_files:
            add_files(folder)

    return make_folder(Path(path), fill)


def make_folder(path: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder with what `fill` writes into it; it appears complete or not at all.

    Raises:
        CheckpointError: the folder exists, or the disk refuses.
    """
    if path.exists():
        raise CheckpointError(f"{path}: exists already; choose another folder or remove it")
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed here
        partial.mkdir(parents=True)
        fill(partial)
        _flush(partial)
        partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{path}: cannot be written ({error}); check space and rights") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def embodiment_metadata(embodiment: Embodiment, statistics: Statistics) -> dict[str, Any]:
    """Return the embodiment's entry of `metadata.json`."""

    def vectors(keys: Mapping[str, VectorKey]) -> dict[str, Any]:
        return {
            name: {
                "absolute": key.is_absolute,
                "rotation_type": key.rotation.value if key.rotation else None,
                "shape": [key.dim],
                "continuous": True,
            }
            for name, key in keys.items()
        }

    return {
        "statistics": {
            kind: {name: values.to_mapping() for name, values in statistics[kind].items()}
            for kind in ("state", "action")
        },
        "modalities": {
            "video": {
                name: {"resolution": [video.width, video.height], "channels": 3, "fps": float(embodiment.fps)}
                for name, video in embodiment.video.items()
            },
            "state": vectors(embodiment.state),
            "action": vectors(embodiment.action),
        },
        "embodiment_tag": embodiment.tag,
    }


def _write_descriptions(folder: Path, checkpoint: Checkpoint) -> None:
    kind = family(checkpoint.config.model_type)
    model_json, vlm_json = kind.dump(checkpoint.config)
    files: dict[str, Mapping[str, Any]] = {
        CONFIG_FILE: model_json,
        EMBODIMENT_FILE: to_mapping(checkpoint.embodiment),
        PROJECTORS_FILE: dict(checkpoint.projectors),
        VERSIONS_FILE: {"format": FORMAT, "gr00t_training": _own_version(), "torch": str(torch.__version__)},
        **(_processor_files(checkpoint) if checkpoint.options else _metadata_files(checkpoint)),
    }
    # folders of N1.6 and N1.7 are as the release knows them unless the sizes are others than the release's
    if not checkpoint.options or _has_own_sizes(kind, model_json, checkpoint.config):
        files[kind.vlm_file] = vlm_json
    for name, content in files.items():
        write_json(folder / name, content)
    shutil.copyfile(checkpoint.tokenizer, folder / TOKENIZER_FILE)


def _metadata_files(checkpoint: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """Return what N1 and N1.5 say of embodiments."""
    entry = embodiment_metadata(checkpoint.embodiment, checkpoint.statistics)
    return {METADATA_FILE: {**checkpoint.metadata, checkpoint.embodiment.tag: entry}}


def _processor_files(checkpoint: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """Return what N1.6 and N1.7 say of embodiments and transforms."""
    tag, options = checkpoint.embodiment.tag, checkpoint.options
    assert options
    statistics = {
        kind: {key: values.to_mapping() for key, values in keys.items()} for kind, keys in checkpoint.statistics.items()
    }
    modalities = read_modalities(checkpoint.processor, Path(PROCESSOR_FILE)) if checkpoint.processor else {}
    modality = modality_from_embodiment(checkpoint.embodiment)
    if tag not in modalities or _differ(checkpoint, modalities[tag], statistics):
        modalities[tag] = modality
    model_type = checkpoint.config.model_type
    files: dict[str, Mapping[str, Any]] = {
        PROCESSOR_FILE: dump_processor(checkpoint.processor, model_type, options, modalities),
        STATISTICS_FILE: {**checkpoint.metadata, tag: statistics},
    }
    if checkpoint.preprocessor:
        files[PREPROCESSOR_FILE] = checkpoint.preprocessor
    return files


def _differ(checkpoint: Checkpoint, modality: Mapping[str, Any], statistics: Mapping[str, Any]) -> bool:
    """Whether the description that was read says something else than the embodiment; the same is written as it was."""
    assert checkpoint.options
    try:
        return bool(modality_differences(modality, checkpoint.options, statistics, checkpoint.embodiment))
    except ConfigError:  # its keys are not those of the statistics
        return True


def _has_own_sizes(kind: Family, model_json: Mapping[str, Any], config: Gr00tConfig) -> bool:
    """Whether the vision-language model has other sizes than the release's."""
    try:
        return kind.parse(model_json, None) != config
    except CheckpointError:  # config.json alone contradicts the sizes of the release
        return True


def _flush(folder: Path) -> None:
    """Put all files of a folder on the disk, so that a power cut after the rename leaves no empty ones."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _own_version() -> str:
    try:
        return package_metadata.version("gr00t_training")
    except package_metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
