# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's folder copied in another type, in other shards, for fewer embodiments; no model is built for it.

Left out is what no program needs again: the language model's output layer, which is tied to its embeddings, and the
state of a trainer.
"""

from __future__ import annotations

import copy
import fnmatch
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from gr00t_training.checkpoint.files import (
    CONFIG_FILE,
    EMBODIMENT_FILE,
    METADATA_FILE,
    PROCESSOR_FILE,
    PROJECTORS_FILE,
    STATISTICS_FILE,
    TOKENIZER_FILE,
    VERSIONS_FILE,
    read_json,
    write_json,
)
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.weight_files import (
    LEROBOT_PREFIX,
    MAX_SHARD_BYTES,
    StoredTensor,
    TensorReader,
    find_weights,
    type_name,
    write_weights,
)
from gr00t_training.checkpoint.writing import make_folder
from gr00t_training.model.weights import NameTable

_COPIED = ("eagle_config.json", "backbone/*", EMBODIMENT_FILE, TOKENIZER_FILE, VERSIONS_FILE, "README.md", "LICENSE*")
_BESIDE_PROCESSOR = (PROCESSOR_FILE, STATISTICS_FILE, PROJECTORS_FILE)
_TYPE_KEYS = ("dtype", "torch_dtype")  # of config.json, by the age of its writer


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    tags: Collection[str] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    prefix: str = LEROBOT_PREFIX,
) -> Path:
    """Write a copy of a checkpoint's folder; it appears complete or not at all.

    The host's memory holds one tensor at a time.

    Args:
        source: local folder.
        target: folder to make; must not exist.
        dtype: of floating weights; None: as they are.
        tags: embodiments to keep, by tag or public name; empty: all.
        max_shard_bytes: weights are split into files of at most this size.
        prefix: taken off the names of the weights where all have it.

    Returns:
        `target`.

    Raises:
        CheckpointError: a file is missing or damaged, an embodiment is not in it, or `target` cannot be written.
    """
    folder = read_folder(source)
    kept = [folder.resolve(tag) for tag in tags] or folder.tags
    stored = _without_output(find_weights(source, prefix=prefix).tensors, folder.family.names)
    reader = TensorReader(torch.device("cpu"), dtype)
    layout = {
        name: (dtype if dtype and tensor.dtype.is_floating_point else tensor.dtype, tensor.shape)
        for name, tensor in stored.items()
    }

    def fill(place: Path) -> None:
        _write_descriptions(folder, place, kept, dtype)
        write_weights(place, layout, lambda name: reader.read(stored[name]), max_shard_bytes)

    return make_folder(target, fill)


def _without_output(tensors: dict[str, StoredTensor] | Any, table: NameTable) -> dict[str, StoredTensor]:
    """Return the tensors without the tied output layer, which stands in for absent embeddings."""
    outputs = set(table.stand_ins.values())
    kept = {name: tensor for name, tensor in tensors.items() if name not in outputs}
    for name, output in table.stand_ins.items():
        if name not in kept and output in tensors:
            kept[name] = tensors[output]
    return kept


def _write_descriptions(folder: Folder, place: Path, kept: Collection[str], dtype: torch.dtype | None) -> None:
    config = read_json(folder.path / CONFIG_FILE)
    if dtype:
        config.update({key: type_name(dtype) for key in _TYPE_KEYS if key in config})
    write_json(place / CONFIG_FILE, config)
    for file in sorted(folder.path.rglob("*")):
        name = file.relative_to(folder.path).as_posix()
        is_dropped = name == EMBODIMENT_FILE and folder.embodiment and folder.embodiment.tag not in kept
        if file.is_file() and not is_dropped and any(fnmatch.fnmatch(name, pattern) for pattern in _COPIED):
            (place / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place / name)
    metadata = {tag: entry for tag, entry in folder.metadata.items() if tag in kept}
    write_json(place / (STATISTICS_FILE if folder.options else METADATA_FILE), metadata)
    projectors = folder.metadata_file.with_name(PROJECTORS_FILE) if folder.options else folder.path / PROJECTORS_FILE
    if projectors.exists():
        shutil.copyfile(projectors, place / PROJECTORS_FILE)
    if folder.options:
        processor: dict[str, Any] = copy.deepcopy(dict(folder.processor))
        modalities = processor["processor_kwargs"]["modality_configs"]
        processor["processor_kwargs"]["modality_configs"] = {tag: modalities[tag] for tag in modalities if tag in kept}
        write_json(place / PROCESSOR_FILE, processor)
