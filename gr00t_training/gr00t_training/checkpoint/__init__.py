# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is a folder: weights, model configuration, embodiment, statistics, tokenizer, versions.

    config.json                                       model_type and sizes, as published
    model.safetensors, or shards with an index        weights under their published names
    embodiment.json                                   the embodiment that was trained         (ours)
    embodiments.json                                  in its place: several of them           (ours)
    tokenizer.json                                    tokenizer of the prompt                 (ours)
    versions.json                                     versions that wrote the folder          (ours)
    training_data.json                                datasets and episodes that were trained (ours)

    N1, N1.5
    experiment_cfg/metadata.json                      statistics and modalities per embodiment tag, as published
    eagle_config.json                                 sizes of the vision-language model      (ours)
    embodiment_id.json                                embodiment tag -> projector row         (ours)

    N1.6, N1.7 (the first three, as published, may also be in processor/)
    processor_config.json                             options of the transforms, modalities per embodiment tag
    statistics.json                                   statistics per embodiment tag
    embodiment_id.json                                embodiment tag -> projector row
    backbone/config.json                              sizes of the vision-language model, if not the release's (ours)
    backbone/preprocessor_config.json                 its limits of an image's size, if there were any         (ours)

Files that a published folder does not have come from the model family, the caller or the hub. Modules: `description` is
the checkpoint in memory, `reading` and `writing` load and save it, `folder` has the contents of the JSON files,
`weight_files` the tensors; `report`, `audit` and `conversion` are behind the command `gr00t_checkpoint`.
"""

from gr00t_training.checkpoint.description import Checkpoint, new_checkpoint
from gr00t_training.checkpoint.reading import load_checkpoint, load_model
from gr00t_training.checkpoint.writing import embodiment_metadata, save_checkpoint

__all__ = [
    "Checkpoint",
    "embodiment_metadata",
    "load_checkpoint",
    "load_model",
    "new_checkpoint",
    "save_checkpoint",
]
