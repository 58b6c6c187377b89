# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Name, read and write the JSON files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import inside
from gr00t_training.io.json_text import read_json_object

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
METADATA_FILE = "experiment_cfg/metadata.json"
PROCESSOR_FILE = "processor_config.json"
PROCESSOR_FOLDER = "processor"  # holds PROCESSOR_FILE and its neighbors where the folder itself does not
STATISTICS_FILE = "statistics.json"
PROJECTORS_FILE = "embodiment_id.json"
PREPROCESSOR_FILE = "backbone/preprocessor_config.json"
EMBODIMENT_FILE = "embodiment.json"  # of a checkpoint of one embodiment
EMBODIMENTS_FILE = "embodiments.json"  # of several: a list in the place of EMBODIMENT_FILE
TOKENIZER_FILE = "tokenizer.json"
VERSIONS_FILE = "versions.json"
TRAINING_DATA_FILE = "training_data.json"
TRAINING_RUN_FILE = "training_run.json"
TRAINER_SETTINGS_FILE = "trainer_settings.json"
VALIDATION_FILE = "validation.json"  # of the run that saved the checkpoint
ADAPTER_FILE = "adapter_config.json"  # written by PEFT and by us
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
BASE_FILE = "base_checkpoint.json"  # the checkpoint that an adapter of ours was trained on
TRAINED_FILE = "trained.safetensors"  # weights that were trained beside an adapter


def place(folder: Path, name: str) -> Path:
    """Return the path of a file in a checkpoint's folder; it need not exist.

    Raises:
        CheckpointError: the path is outside the folder, also through a link (links of the hub's cache are allowed).
    """
    return inside(folder, name, CheckpointError)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, damaged, or not an object.
    """
    if not file.exists():
        raise CheckpointError(f"{file}: missing; the checkpoint is incomplete")
    return read_json_object(file, CheckpointError, "the checkpoint is damaged")


def read_json_if_there(file: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises:
        CheckpointError: the file is damaged, or not an object.
    """
    return read_json(file) if file.exists() else None


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object; makes the file's folder.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
