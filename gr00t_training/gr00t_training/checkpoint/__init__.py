# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is a folder: weights, model configuration, embodiment, statistics, tokenizer, versions.

    config.json                                       model_type and sizes, as published
    model.safetensors, or shards with an index        weights under their published names
    embodiment.json                                   the embodiment that was trained         (ours)
    tokenizer.json                                    tokenizer of the prompt                 (ours)
    versions.json                                     versions that wrote the folder          (ours)

    N1, N1.5
    experiment_cfg/metadata.json                      statistics and modalities per embodiment tag, as published
    eagle_config.json                                 sizes of the vision-language model      (ours)
    embodiment_id.json                                embodiment tag -> projector row         (ours)

    N1.6, N1.7 (the first three, as published, may also lie in processor/)
    processor_config.json                             options of the transforms, modalities per embodiment tag
    statistics.json                                   statistics per embodiment tag
    embodiment_id.json                                embodiment tag -> projector row
    backbone/config.json                              sizes of the vision-language model, if not the release's (ours)
    backbone/preprocessor_config.json                 its limits of an image's size, if there were any         (ours)

What a published folder lacks comes from the model family, from the caller, or from the hub. Modules: `description` is
what all of it amounts to, `reading` and `writing` are the ways in and out, `folder` holds what the JSON files say,
`weight_files` the tensors; `report`, `audit` and `conversion` are behind the command `gr00t_checkpoint`.
"""

from gr00t_training.checkpoint.description import Checkpoint, image_processor, new_checkpoint
from gr00t_training.checkpoint.processor import released_options
from gr00t_training.checkpoint.reading import load_checkpoint, load_model
from gr00t_training.checkpoint.writing import embodiment_metadata, save_checkpoint

__all__ = [
    "Checkpoint",
    "embodiment_metadata",
    "image_processor",
    "load_checkpoint",
    "load_model",
    "new_checkpoint",
    "released_options",
    "save_checkpoint",
]
