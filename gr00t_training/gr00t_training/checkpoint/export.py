# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Copy a checkpoint in NVIDIA's layout, for programs that are not of this suite.

The copy has the files of a published folder and the model card, and nothing of this suite. Weights that actions do not
need are not trained and not kept here; a loader that insists on them gets those of the base checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch

from gr00t_training.checkpoint.conversion import layout_of, without_output, write_descriptions
from gr00t_training.checkpoint.files import PROJECTORS_FILE
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.model_weights import WeightSource, find_model_weights
from gr00t_training.checkpoint.weight_files import (
    MAX_SHARD_BYTES,
    StoredTensor,
    TensorReader,
    write_weights,
)
from gr00t_training.checkpoint.writing import make_folder
from gr00t_training.errors import CheckpointError

_COPIED = ("backbone/*", "README.md", "LICENSE*")


def export_checkpoint(
    source: Path,
    target: Path,
    *,
    base: Path | None = None,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a checkpoint's folder in NVIDIA's layout. Atomic; one tensor at a time is in memory.

    Args:
        source: local folder.
        target: folder to make; must not exist.
        base: local folder of the checkpoint that it was fine-tuned from, for weights that actions do not need; None:
            they are left out, as NVIDIA's own fine-tuning leaves out tied ones.
        dtype: of floating weights, bfloat16 as published; None: as they are.
        max_shard_bytes: weights are split into files of at most this size.

    Returns:
        `target`.

    Raises:
        CheckpointError: a file is missing or damaged, `base` is another model, or `target` cannot be written.
    """
    folder = read_folder(source)
    stored = without_output(find_model_weights(source, base=base), folder.family.names)
    if base is not None:
        stored |= _unused(folder, stored, base)
    reader = TensorReader(torch.device("cpu"), dtype)
    layout = layout_of(stored, reader)

    def fill(partial: Path) -> None:
        write_descriptions(folder, partial, folder.tags, dtype, _COPIED)
        if not folder.options and folder.projectors.items() <= folder.family.projectors.items():
            (partial / PROJECTORS_FILE).unlink(missing_ok=True)  # N1 and N1.5 have these rows in their code
        write_weights(partial, layout, lambda name: stored[name].read(reader), max_shard_bytes)

    return make_folder(target, fill)


def tags_of_its_own(path: Path) -> list[str]:
    """Return the embodiment tags of a folder that NVIDIA's code of its release does not know."""
    folder = read_folder(path)
    return [tag for tag in folder.tags if tag not in folder.family.projectors]


def _unused(folder: Folder, stored: dict[str, WeightSource], base: Path) -> dict[str, WeightSource]:
    """Return weights of the base that actions do not need; an output layer that equals the embeddings follows them."""
    family = read_folder(base, needs_statistics=False).family
    if family.model_type != folder.family.model_type:
        raise CheckpointError(
            f"{base}: is a checkpoint of {family.name}, {folder.path} is one of {folder.family.name}; pass the one "
            "that it was fine-tuned from"
        )
    table, weights = family.names, find_model_weights(base)
    found = weights.tensors
    names = [name for name in found if name.startswith(table.ignored) and name not in stored]
    unused = {name: WeightSource(weights, name) for name in names}
    for name, output in table.stand_ins.items():
        if output in found and name in stored and (name not in found or _are_equal(found[name], found[output])):
            unused[output] = stored[name]
    return unused


def _are_equal(first: StoredTensor, second: StoredTensor) -> bool:
    reader = TensorReader(torch.device("cpu"))
    return first.shape == second.shape and torch.equal(reader.read(first), reader.read(second))
