# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read a checkpoint's folder for one embodiment: first the description of the model, then its weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gr00t_training.checkpoint.description import Checkpoint, TrainedEmbodiment, common_horizon, common_options
from gr00t_training.checkpoint.files import EMBODIMENT_FILE
from gr00t_training.checkpoint.fit import check_fit, check_options
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.model_weights import find_model_weights
from gr00t_training.checkpoint.tokenizer import find_tokenizer
from gr00t_training.checkpoint.trial import shape_model
from gr00t_training.checkpoint.weight_files import (
    StoredTensor,
    TensorReader,
    count_not_finite,
    type_name,
)
from gr00t_training.checkpoint.widening import widen, with_projectors, with_room, with_rows
from gr00t_training.embodiment import Embodiment, differences
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import with_horizon
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.weight_names import NameTable, assign_weights
from gr00t_training.transforms.pipeline import Statistics

logger = logging.getLogger(__name__)


def load_checkpoint(
    path: str | Path,
    *,
    embodiment: Embodiment | str | None = None,
    statistics: Statistics | None = None,
    tokenizer: str | Path | None = None,
    data_config: str | None = None,
    fps: int | None = None,
) -> Checkpoint:
    """Read a checkpoint's folder, without its weights.

    Args:
        path: folder of ours or as published, or hub id (`gr00t_training.checkpoint.hub.find_folder`).
        embodiment: to run; must agree with the folder. A tag or its public name (upper or lower case) selects that
            entry of the folder. None: the one that was trained, or the only one. Others that were trained together
            with it are in `Checkpoint.others`.
        statistics: of a dataset for fine-tuning `embodiment`. They replace those of the folder: nothing is compared,
            the model gets the embodiment's action horizon (N1.6, N1.7: if it is longer than the model's) and room for
            its channels, and an unknown tag a row of its own (`gr00t_training.checkpoint.widening`).
        tokenizer: tokenizer.json or its folder, used when the checkpoint has none.
        data_config: N1 and N1.5 with a tag: which keys the model uses and how they are scaled, by published name;
            None: the only data configuration that fits.
        fps: with a tag: tick rate of the data that was trained on [Hz], which files of N1.6 and N1.7 do not contain.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder belongs to another embodiment; names each item.
    """
    if statistics is not None:
        if not isinstance(embodiment, Embodiment):
            raise ValueError("statistics belong to an embodiment; pass it too")
        return load_to_fine_tune(path, [TrainedEmbodiment(embodiment, statistics)], tokenizer=tokenizer)
    folder = read_folder(find_folder(path))
    chosen = _choose(folder, embodiment, data_config, fps)
    together = [chosen]
    if chosen.tag in folder.embodiments:
        together += [other for other in folder.embodiments.values() if other.tag != chosen.tag]
    return _fitting(folder, [TrainedEmbodiment(e, folder.statistics(e.tag, e.name)) for e in together], tokenizer)


def load_to_fine_tune(
    path: str | Path, trained: Sequence[TrainedEmbodiment], *, tokenizer: str | Path | None = None
) -> Checkpoint:
    """Read a checkpoint's folder, without its weights, to fine-tune it for embodiments that may be new to it.

    Args:
        path: as in `load_checkpoint`.
        trained: embodiments to train together, with statistics that replace those of the folder. The model gets their
            action horizon (N1.6, N1.7: if it is longer than the model's) and room for their channels, and an unknown
            tag a row of its own (`gr00t_training.checkpoint.widening`).
        tokenizer: as in `load_checkpoint`.

    Raises:
        CheckpointError: as `load_checkpoint`.
        ConfigError: the embodiments do not fit one model.
    """
    stored = read_folder(find_folder(path), needs_statistics=False)
    folder = _to_fine_tune(stored, [each.embodiment for each in trained])
    fresh = tuple(row for tag, row in folder.projectors.items() if tag not in stored.projectors)
    narrow = with_horizon(stored.config, folder.config.action_head.action_horizon)  # no weight depends on it
    return dataclasses.replace(_fitting(folder, trained, tokenizer), stored_config=narrow, fresh_rows=fresh)


def _fitting(folder: Folder, trained: Sequence[TrainedEmbodiment], tokenizer: str | Path | None) -> Checkpoint:
    for each in trained:
        check_fit(folder.path, folder.config, folder.options, *each)
    found = find_tokenizer(folder.path, tokenizer, folder.family.prompt)
    return describe(folder, *trained[0], found, trained[1:])


def describe(
    folder: Folder,
    embodiment: Embodiment,
    statistics: Statistics,
    tokenizer: Path,
    others: Sequence[TrainedEmbodiment] = (),
) -> Checkpoint:
    """Combine the contents of a folder with one embodiment, and others that are trained together with it."""
    return Checkpoint(
        config=folder.config,
        embodiment=embodiment,
        statistics=statistics,
        tokenizer=tokenizer,
        projectors=folder.projectors,
        metadata=folder.metadata,
        versions=folder.versions,
        path=folder.path,
        options=folder.options,
        processor=folder.processor,
        preprocessor=folder.preprocessor,
        others=tuple(others),
    )


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    merges_adapter: bool = True,
) -> Gr00tModel:
    """Read the weights of a checkpoint; the model is in evaluation mode.

    Host memory has at most one copy of the weights, and a small buffer only if they go to a GPU. What is wider than the
    stored weights draws its initial values from PyTorch's generator.

    Args:
        checkpoint: whose weights are read.
        device: of the model.
        dtype: of the model.
        attention: as in `Gr00tModel`.
        merges_adapter: an adapter's layers have their merged weights; False: those of its base, to train it further.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit config.json; or the base of an adapter is missing.
    """
    if checkpoint.path is None:
        raise CheckpointError("this checkpoint has no weights because it was never saved; train and save it first")
    names = checkpoint.family.names
    # no memory and no time for initial weights
    model = shape_model(checkpoint.stored_config or checkpoint.config, attention=attention)
    stored = find_model_weights(checkpoint.path, merges=merges_adapter)
    # names, shapes and types first: a long read may be of another model
    shapes = {name: torch.empty(tensor.shape, device="meta") for name, tensor in stored.tensors.items()}
    assign_weights(model, shapes, names, str(checkpoint.path))
    needed = needed_names(model, stored.tensors, names)
    for name in needed:
        tensor = stored.tensors[name]
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(
                f"{tensor.file}: {name} has type {type_name(tensor.dtype)}, expected floats; use a checkpoint that is "
                "not quantized"
            )
    reader = TensorReader(torch.device(device), dtype)
    weights = {name: _finite(stored.read(name, reader), stored.tensors[name], name) for name in needed}
    assign_weights(model, weights, names, str(checkpoint.path))
    if checkpoint.is_widened:
        narrow, model = model, shape_model(checkpoint.config, attention=attention)
        widen(narrow, model, checkpoint.fresh_rows)
    return model.eval()


def _choose(folder: Folder, asked: Embodiment | str | None, data_config: str | None, fps: int | None) -> Embodiment:
    """Return the embodiment to run; a requested Embodiment must agree with the folder."""
    known = folder.embodiments
    folder.check_stored()
    if isinstance(asked, Embodiment):
        by_name = [stored for stored in known.values() if stored.name == asked.name]
        # of several, the robot's own: if only its tag differs, the message says so
        stored = by_name[0] if len(by_name) == 1 and len(known) > 1 else known.get(asked.tag)
        if stored is None and len(known) == 1 and asked.tag not in folder.modalities:
            stored = next(iter(known.values()))
        if stored:
            _refuse(folder.path, differences(stored, asked))
            return stored
        if known and asked.tag not in folder.modalities:
            raise CheckpointError(
                f"{folder.path}: was trained for embodiment tags {_listed(known)}, embodiment '{asked.name}' has "
                f"'{asked.tag}'; set its tag to one of them"
            )
        _refuse(folder.path, folder.differences(asked))
        return asked
    if asked is None:
        if len(known) == 1:
            return next(iter(known.values()))
        if known:
            raise CheckpointError(
                f"{folder.path}: was trained for several embodiments; pass embodiment: one of the tags {_listed(known)}"
            )
        if len(folder.tags) != 1 or not folder.options:
            raise CheckpointError(
                f"{folder.path}: has no {EMBODIMENT_FILE} (a published folder has none); pass embodiment: your own, or "
                f"one of its tags: {', '.join(folder.tags) or 'none'}"
            )
        asked = folder.tags[0]
    named = [tag for tag, embodiment in known.items() if embodiment.name == asked]
    tag = named[0] if len(named) == 1 else folder.resolve(asked)
    return known.get(tag) or folder.derive(tag, data_config=data_config, fps=fps)


def _listed(known: Mapping[str, Embodiment]) -> str:
    return ", ".join(f"{tag} ({embodiment.name})" for tag, embodiment in known.items())


def _refuse(path: Path, items: list[str]) -> None:
    if items:
        raise CheckpointError(
            f"{path}: was trained for another embodiment (found: the checkpoint's, expected: the requested one): "
            + "; ".join(items)
        )


def _to_fine_tune(folder: Folder, embodiments: Sequence[Embodiment]) -> Folder:
    """Return the folder prepared for fine-tuning embodiments that may be new to it, or wider than its model."""
    options, tags = folder.options, [embodiment.tag for embodiment in embodiments]
    horizon = common_horizon(embodiments, is_padded=options is not None)
    if options is not None:
        horizon = max(horizon, folder.config.action_head.action_horizon)
    projectors = with_projectors(folder.projectors, tags, folder.config.action_head.num_embodiments)
    for tag in tags:
        if tag not in folder.projectors:
            logger.info("new embodiment tag '%s': row %d of the model's tables", tag, projectors[tag])
    try:
        if options is not None:
            check_options(folder.config, options)
        config = with_rows(with_room(folder.config, embodiments, horizon), projectors)
    except ValueError as error:
        raise CheckpointError(f"{folder.path}: {error}") from error
    if options is not None:
        options = dataclasses.replace(
            common_options(embodiments, options),
            max_state_dim=config.action_head.state_dim,
            max_action_dim=config.action_head.action_dim,
            max_action_horizon=max(horizon, options.max_action_horizon),
        )
    return dataclasses.replace(folder, config=config, options=options, projectors=projectors)


def needed_names(model: nn.Module, stored: Mapping[str, StoredTensor], table: NameTable) -> list[str]:
    """Return the names of the stored tensors that the model uses."""
    own = model.state_dict().keys()
    taken = [name for name in stored if table.to_ours(name) in own]
    return taken + [other for name, other in table.stand_ins.items() if name not in stored and other in stored]


def _finite(weight: Tensor, stored: StoredTensor, name: str) -> Tensor:
    wrong = count_not_finite(weight)
    if wrong:
        raise CheckpointError(
            f"{stored.file}: {name}: {wrong} of {stored.num_values} values are NaN or infinite; take an earlier "
            "checkpoint"
        )
    return weight
