# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Copy a checkpoint with another type, other shards or fewer embodiments; no model is built.

An adapter is merged into its base. The copy has no output layer of the language model, which is tied to its embeddings,
and no trainer state.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gr00t_training.checkpoint.files import (
    CONFIG_FILE,
    EMBODIMENT_FILE,
    EMBODIMENTS_FILE,
    METADATA_FILE,
    PROCESSOR_FILE,
    PROJECTORS_FILE,
    STATISTICS_FILE,
    TOKENIZER_FILE,
    TRAINING_DATA_FILE,
    TRAINING_RUN_FILE,
    VERSIONS_FILE,
    place,
    read_json,
    write_json,
)
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.model_weights import ModelWeights, WeightSource, find_model_weights
from gr00t_training.checkpoint.weight_files import (
    LEROBOT_PREFIX,
    MAX_SHARD_BYTES,
    TensorReader,
    type_name,
    write_weights,
)
from gr00t_training.checkpoint.writing import embodiment_files, make_folder
from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import copy_regular
from gr00t_training.model.weight_names import NameTable

COPIED = (
    "backbone/*",
    EMBODIMENT_FILE,
    TOKENIZER_FILE,
    VERSIONS_FILE,
    TRAINING_DATA_FILE,
    TRAINING_RUN_FILE,
    "README.md",
    "LICENSE*",
)
_TYPE_KEYS = ("dtype", "torch_dtype")  # of config.json, by the age of its writer


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    tags: Collection[str] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    prefix: str = LEROBOT_PREFIX,
    base: str | Path | None = None,
) -> Path:
    """Write a copy of a checkpoint's folder. Atomic; one tensor at a time is in memory.

    Args:
        source: local folder.
        target: folder to make; must not exist.
        dtype: of floating weights; None: as they are, float32 where an adapter is merged.
        tags: embodiments to keep, by tag or public name; empty: all.
        max_shard_bytes: weights are split into files of at most this size.
        prefix: removed from the names of the weights if all have it.
        base: of an adapter: folder or hub id; None: see `find_base`.

    Returns:
        `target`.

    Raises:
        CheckpointError: a file is missing or damaged, an embodiment is not in it, or `target` cannot be written.
    """
    folder = read_folder(source)
    kept = [folder.resolve(tag) for tag in tags] or folder.tags
    weights = find_model_weights(source, base=base, prefix=prefix)
    if weights.adapter:
        dtype = dtype or torch.float32  # what was trained has more digits than a bfloat16 base
    stored = without_output(weights, folder.family.names)
    reader = TensorReader(torch.device("cpu"), dtype)
    layout = layout_of(stored, reader)

    def fill(partial: Path) -> None:
        write_descriptions(folder, partial, kept, dtype)
        write_weights(partial, layout, lambda name: stored[name].read(reader), max_shard_bytes)

    return make_folder(target, fill)


def without_output(weights: ModelWeights, table: NameTable) -> dict[str, WeightSource]:
    """Return where each weight is read, without the tied output layer, which replaces missing embeddings."""
    names = weights.tensors
    outputs = set(table.stand_ins.values())
    kept = {name: WeightSource(weights, name) for name in names if name not in outputs}
    for name, output in table.stand_ins.items():
        if name not in kept and output in names:
            kept[name] = WeightSource(weights, output)
    return kept


def layout_of(
    stored: Mapping[str, WeightSource], reader: TensorReader
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return type and shape of each weight as the reader gives it."""
    return {name: (reader.type_of(source.tensor), source.tensor.shape) for name, source in stored.items()}


def write_descriptions(
    folder: Folder, target: Path, kept: Collection[str], dtype: torch.dtype | None, copied: Sequence[str] = COPIED
) -> None:
    """Write the JSON files of a copy, and copy other files.

    Args:
        folder: that is copied.
        target: new folder.
        kept: embodiment tags to keep.
        dtype: of the weights; None: as they are.
        copied: patterns of files that are copied unchanged.
    """
    config = read_json(place(folder.path, CONFIG_FILE))
    if dtype:
        config.update({key: type_name(dtype) for key in _TYPE_KEYS if key in config})
    write_json(target / CONFIG_FILE, config)
    names = [
        file.relative_to(folder.path).as_posix() for file in (*folder.path.iterdir(), *folder.path.glob("backbone/*"))
    ]
    patterns = (folder.family.vlm_file, *copied)
    for name in sorted(names):
        is_dropped = name == EMBODIMENT_FILE and folder.embodiments.keys().isdisjoint(kept)
        is_file = (folder.path / name).is_file()
        if is_file and not is_dropped and any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            (target / name).parent.mkdir(exist_ok=True)
            copy_regular(place(folder.path, name), target / name, CheckpointError)
    trained = [embodiment for tag, embodiment in folder.embodiments.items() if tag in kept]
    if trained and (folder.path / EMBODIMENTS_FILE).exists():
        for name, content in embodiment_files(trained).items():
            write_json(target / name, content)
    metadata = {tag: entry for tag, entry in folder.metadata.items() if tag in kept}
    write_json(target / (STATISTICS_FILE if folder.options else METADATA_FILE), metadata)
    projectors = folder.metadata_file.with_name(PROJECTORS_FILE) if folder.options else folder.path / PROJECTORS_FILE
    if projectors.exists():
        copy_regular(projectors, target / PROJECTORS_FILE, CheckpointError)
    if folder.options:
        processor: dict[str, Any] = copy.deepcopy(dict(folder.processor))
        modalities = processor["processor_kwargs"]["modality_configs"]
        processor["processor_kwargs"]["modality_configs"] = {tag: modalities[tag] for tag in modalities if tag in kept}
        write_json(target / PROCESSOR_FILE, processor)
