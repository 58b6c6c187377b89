# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's folder read for one embodiment: first what describes the model, then its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from gr00t_training.checkpoint.description import PROMPTS, Checkpoint
from gr00t_training.checkpoint.files import EMBODIMENT_FILE
from gr00t_training.checkpoint.fit import check_fit
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.tokenizer import find_tokenizer
from gr00t_training.checkpoint.weight_files import StoredWeights, TensorReader, find_weights
from gr00t_training.embodiment import Embodiment, differences
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import with_horizon
from gr00t_training.model.gr00t import Gr00tModel, family
from gr00t_training.model.weights import NameTable, assign_weights
from gr00t_training.published import options_for
from gr00t_training.transforms.pipeline import Statistics


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
        embodiment: to run; must agree with what the folder says of it. A tag or its public name, in any case, stands
            for what the folder describes under it. None: the one that was trained here, or the only one.
        statistics: of a dataset that `embodiment` is to be fine-tuned on. They replace what the folder says of it:
            nothing is compared then, and the model takes the embodiment's action horizon (N1.6, N1.7: if it is longer
            than the model's).
        tokenizer: tokenizer.json or its folder, used when the checkpoint has none.
        data_config: N1 and N1.5 with a tag: which keys the model uses and how they are scaled, by published name;
            None: the only data configuration that fits.
        fps: with a tag: tick rate of the data that was trained on [Hz], which N1.6 and N1.7 do not tell.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder is of another embodiment; names each item.
    """
    folder = read_folder(find_folder(path), needs_statistics=statistics is None)
    if statistics is not None:
        if not isinstance(embodiment, Embodiment):
            raise ValueError("statistics belong to an embodiment; pass it too")
        folder = _to_fine_tune(folder, embodiment)
    else:
        embodiment = _choose(folder, embodiment, data_config, fps)
        statistics = folder.statistics(embodiment.tag, embodiment.name)
    check_fit(folder.path, folder.config, folder.options, embodiment, statistics)
    return Checkpoint(
        config=folder.config,
        embodiment=embodiment,
        statistics=statistics,
        tokenizer=find_tokenizer(folder.path, tokenizer, PROMPTS[folder.config.model_type]),
        projectors=folder.projectors,
        metadata=folder.metadata,
        versions=folder.versions,
        path=folder.path,
        options=folder.options,
        processor=folder.processor,
        preprocessor=folder.preprocessor,
    )


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> Gr00tModel:
    """Read the weights of a checkpoint; the model comes in evaluation mode.

    The host's memory never holds more than one copy of the weights, and next to none where they go to a GPU.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit config.json.
    """
    if checkpoint.path is None:
        raise CheckpointError("this checkpoint was never saved, it has no weights; train and save it first")
    kind = family(checkpoint.config.model_type)
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        model = kind.model(checkpoint.config, attention=attention)
    stored = find_weights(checkpoint.path)
    # names and shapes first: a long read may be of another model
    shapes = {name: torch.empty(tensor.shape, device="meta") for name, tensor in stored.tensors.items()}
    assign_weights(model, shapes, kind.names, str(checkpoint.path))
    reader = TensorReader(torch.device(device), dtype)
    weights = {name: reader.read(stored.tensors[name]) for name in _needed(model, stored, kind.names)}
    assign_weights(model, weights, kind.names, str(checkpoint.path))
    return model.eval()


def _choose(folder: Folder, asked: Embodiment | str | None, data_config: str | None, fps: int | None) -> Embodiment:
    """Return the embodiment to run; an Embodiment that is asked for must agree with the folder."""
    stored = folder.embodiment
    folder.check_stored()
    if isinstance(asked, Embodiment):
        if stored and (stored.tag == asked.tag or asked.tag not in folder.modalities):
            _refuse(folder.path, differences(stored, asked))
            return stored
        _refuse(folder.path, folder.differences(asked))
        return asked
    if asked is None:
        if stored:
            return stored
        if len(folder.tags) != 1 or not folder.options:
            raise CheckpointError(
                f"{folder.path}: has no {EMBODIMENT_FILE} (a published folder has none); pass embodiment: your own, or "
                f"one of its tags: {', '.join(folder.tags) or 'none'}"
            )
        asked = folder.tags[0]
    tag = folder.resolve(asked)
    if stored and stored.tag == tag:
        return stored
    return folder.derive(tag, data_config=data_config, fps=fps)


def _refuse(path: Path, items: list[str]) -> None:
    if items:
        raise CheckpointError(
            f"{path}: was trained for another embodiment (found: the checkpoint's, expected: the one asked for): "
            + "; ".join(items)
        )


def _to_fine_tune(folder: Folder, embodiment: Embodiment) -> Folder:
    """Return the folder with the model made ready for an embodiment that it may not know."""
    horizon = embodiment.action_horizon
    if folder.options is None:
        return dataclasses.replace(folder, config=with_horizon(folder.config, horizon))
    horizon = max(horizon, folder.config.action_head.action_horizon)
    options = options_for(embodiment, folder.options)
    options = dataclasses.replace(options, max_action_horizon=max(horizon, options.max_action_horizon))
    return dataclasses.replace(folder, config=with_horizon(folder.config, horizon), options=options)


def _needed(model: nn.Module, stored: StoredWeights, table: NameTable) -> list[str]:
    """Names of the stored tensors that the model takes."""
    own = model.state_dict().keys()
    taken = [name for name in stored.tensors if table.to_ours(name) in own]
    return taken + [
        other for name, other in table.stand_ins.items() if name not in stored.tensors and other in stored.tensors
    ]
