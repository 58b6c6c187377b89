# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`meta/embodiment.json`: this suite's, or a file of another tool with the same name, which is not changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gr00t_training.dataset import schema
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import read_text
from gr00t_training.settings import parse_settings

FOREIGN = "belongs to another tool (no 'state' and 'action'); ignored"


def read_embodiment(root: Path) -> Embodiment | None:
    """Return the embodiment that the dataset in `root` was recorded for; None if this suite wrote none.

    Raises:
        DatasetError: the file cannot be read or is not JSON.
        ConfigError: it is this suite's and wrong; names the key.
    """
    path = schema.meta_file(root, schema.EMBODIMENT_FILE)
    if not path.exists():
        return None
    if not _is_ours(schema.read_json(path)):
        return None
    return parse_settings(Embodiment, read_text(path, DatasetError, schema.JSON_LIMIT), str(path))


def has_foreign_embodiment(root: Path) -> bool:
    """Whether a file of that name is there that another tool wrote; raises as `read_embodiment` does."""
    path = schema.meta_file(root, schema.EMBODIMENT_FILE)
    return path.exists() and not _is_ours(schema.read_json(path))


def _is_ours(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(content.get(name), Mapping) for name in ("state", "action"))
