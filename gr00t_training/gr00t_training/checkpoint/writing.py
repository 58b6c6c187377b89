# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint's folder atomically."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gr00t_training.checkpoint import weight_files
from gr00t_training.checkpoint.description import Checkpoint
from gr00t_training.checkpoint.files import (
    CONFIG_FILE,
    EMBODIMENT_FILE,
    EMBODIMENTS_FILE,
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
from gr00t_training.checkpoint.weight_files import MAX_SHARD_BYTES
from gr00t_training.embodiment import Embodiment, VectorKey, to_mapping
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.io.files import copy_regular
from gr00t_training.io.version import suite_version
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.families import ModelFamily
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.upstream import modality_differences, modality_from_embodiment


def save_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    model: Gr00tModel,
    *,
    weights: Mapping[str, Tensor] | None = None,
    write_weights: Callable[[Path], None] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    add_files: Callable[[Path], None] | None = None,
) -> Path:
    """Write a checkpoint's folder. Atomic: a crash leaves the complete folder or none.

    Args:
        path: folder to make; must not exist.
        checkpoint: everything to write except the weights.
        model: to save.
        weights: under the model's names; None: those that the model has.
        write_weights: writes the weights into the folder instead, in another form (an adapter).
        dtype: of the weights; None: as they are.
        max_shard_bytes: weights are split into files of at most this size.
        add_files: writes more files into the folder before it appears (such as the optimizer state).

    Returns:
        `path`.

    Raises:
        CheckpointError: the folder exists, or cannot be written.
    """

    def fill(folder: Path) -> None:
        _write_descriptions(folder, checkpoint)
        if write_weights:
            write_weights(folder)
        else:
            names = checkpoint.family.names
            found = {names.to_published(name): w.detach() for name, w in (weights or model.state_dict()).items()}
            layout = {name: (dtype or weight.dtype, tuple(weight.shape)) for name, weight in found.items()}
            weight_files.write_weights(folder, layout, lambda name: found[name].to(layout[name][0]), max_shard_bytes)
        if add_files:
            add_files(folder)

    return make_folder(Path(path), fill)


def make_folder(path: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder with the files that `fill` writes. Atomic: a crash leaves the complete folder or none.

    Raises:
        CheckpointError: the folder exists, or cannot be written.
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
        raise CheckpointError(f"{path}: cannot be written ({error}); check free space and permissions") from error
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


def embodiment_files(embodiments: Sequence[Embodiment]) -> dict[str, Mapping[str, Any]]:
    """Return the file that holds the trained embodiments, by name."""
    if len(embodiments) == 1:
        return {EMBODIMENT_FILE: to_mapping(embodiments[0])}
    return {EMBODIMENTS_FILE: {"embodiments": [to_mapping(embodiment) for embodiment in embodiments]}}


def _write_descriptions(folder: Path, checkpoint: Checkpoint) -> None:
    kind = checkpoint.family
    model_json, vlm_json = kind.dump(checkpoint.config)
    files: dict[str, Mapping[str, Any]] = {
        CONFIG_FILE: model_json,
        **embodiment_files([trained.embodiment for trained in checkpoint.trained]),
        PROJECTORS_FILE: dict(checkpoint.projectors),
        VERSIONS_FILE: _versions(),
        **(_processor_files(checkpoint) if checkpoint.options else _metadata_files(checkpoint)),
    }
    if not kind.omits_released_sizes or _has_own_sizes(kind, model_json, checkpoint.config):
        files[kind.vlm_file] = vlm_json
    for name, content in files.items():
        write_json(folder / name, content)
    copy_regular(checkpoint.tokenizer, folder / TOKENIZER_FILE, CheckpointError)


def _versions() -> dict[str, Any]:
    found = {"format": FORMAT, "gr00t_training": suite_version(), "torch": str(torch.__version__)}
    found["python"] = platform.python_version()
    if torch.cuda.is_initialized():
        found |= {"cuda": str(torch.version.cuda), "gpu": torch.cuda.get_device_name()}
    return found


def _metadata_files(checkpoint: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """Return the files of N1 and N1.5 that describe embodiments."""
    entries = {trained.embodiment.tag: embodiment_metadata(*trained) for trained in checkpoint.trained}
    return {METADATA_FILE: {**checkpoint.metadata, **entries}}


def _processor_files(checkpoint: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """Return the files of N1.6 and N1.7 that describe embodiments and transforms."""
    options = checkpoint.options
    assert options and checkpoint.family.processor
    modalities = read_modalities(checkpoint.processor, Path(PROCESSOR_FILE)) if checkpoint.processor else {}
    entries = {}
    for embodiment, found in checkpoint.trained:
        tag = embodiment.tag
        statistics = {kind: {key: values.to_mapping() for key, values in keys.items()} for kind, keys in found.items()}
        if tag not in modalities or _differ(options, modalities[tag], statistics, embodiment):
            modalities[tag] = modality_from_embodiment(embodiment)
        entries[tag] = statistics
    files: dict[str, Mapping[str, Any]] = {
        PROCESSOR_FILE: dump_processor(checkpoint.processor, checkpoint.family.processor, options, modalities),
        STATISTICS_FILE: {**checkpoint.metadata, **entries},
    }
    if checkpoint.preprocessor:
        files[PREPROCESSOR_FILE] = checkpoint.preprocessor
    return files


def _differ(
    options: ProcessorOptions, modality: Mapping[str, Any], statistics: Mapping[str, Any], embodiment: Embodiment
) -> bool:
    """Whether the description that was read differs from the embodiment; an equal one is written unchanged."""
    try:
        return bool(modality_differences(modality, options, statistics, embodiment))
    except ConfigError:  # its keys are not those of the statistics
        return True


def _has_own_sizes(kind: ModelFamily, model_json: Mapping[str, Any], config: Gr00tConfig) -> bool:
    """Whether the sizes of the vision-language model differ from those of the release."""
    try:
        return kind.parse(model_json, None) != config
    except CheckpointError:  # config.json alone contradicts the sizes of the release
        return True


def _flush(folder: Path) -> None:
    """Sync all files of a folder, so that a power cut after the rename leaves no empty files."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
