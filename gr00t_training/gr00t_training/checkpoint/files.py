# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of a checkpoint's files, and its JSON files read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr00t_training.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
METADATA_FILE = "experiment_cfg/metadata.json"
PROCESSOR_FILE = "processor_config.json"
PROCESSOR_FOLDER = "processor"  # holds PROCESSOR_FILE and its neighbours where the folder itself does not
STATISTICS_FILE = "statistics.json"
PROJECTORS_FILE = "embodiment_id.json"
PREPROCESSOR_FILE = "backbone/preprocessor_config.json"
EMBODIMENT_FILE = "embodiment.json"
TOKENIZER_FILE = "tokenizer.json"
VERSIONS_FILE = "versions.json"


def read_json(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); the checkpoint is incomplete") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error}); the checkpoint is damaged") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds {type(content).__name__}, expected an object; the checkpoint is damaged")
    return content


def read_json_if_there(file: Path) -> dict[str, Any] | None:
    """Return the object that a JSON file holds, or None where there is no such file.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
    """
    return read_json(file) if file.exists() else None


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object; makes the file's folder.

    Raises:
        OSError: the disk refuses.
    """
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
