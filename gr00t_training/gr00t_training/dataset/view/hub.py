# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Upload a dataset to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from gr00t_training.dataset import schema
from gr00t_training.errors import DatasetError
from gr00t_training.io.hub_upload import push_folder

# Hidden files (of the recorder and of tools, keys, personal settings), and staged files of interrupted runs.
_NOT_UPLOADED = [".*", "*/.*", f"*{schema.STAGED_SUFFIX}"]
_NOT_CHECKED = (schema.STAGING, ".cache", ".git")


def push_dataset(path: Path, repository: str, version: str, *, private: bool, branch: str | None = None) -> str:
    """Upload the folder of a dataset, and tag it with its version, which is how lerobot finds it.

    Args:
        path: the dataset.
        repository: `name` or `organization/name`; created if missing.
        version: of the dataset's format.
        private: whether a new repository is seen by its owner only.
        branch: to upload to; None: the main one.

    Returns:
        Address of the dataset.

    Raises:
        DatasetError: a link in the folder, no client, no token, no right, or no network.
    """
    return push_folder(
        path,
        repository,
        "dataset",
        DatasetError,
        private=private,
        ignored=_NOT_UPLOADED,
        not_checked=_NOT_CHECKED,
        branch=branch,
        tag=version,
    )
