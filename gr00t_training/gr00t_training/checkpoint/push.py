# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Upload a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from gr00t_training.errors import CheckpointError
from gr00t_training.io.hub_upload import push_folder

# What only continues a run (several times the size of the weights), and hidden files: keys, personal settings.
_NOT_UPLOADED = ("trainer_state.pt", "optimizer*", "scheduler*", "rng_state*", ".*", "*/.*")
_NOT_CHECKED = (".cache", ".git")


def push_checkpoint(path: Path, repository: str, *, private: bool, branch: str | None = None) -> str:
    """Upload the folder of a checkpoint without the state of its trainer.

    Args:
        path: local folder.
        repository: `name` or `organization/name`; created if missing.
        private: whether a new repository is seen by its owner only.
        branch: to upload to; None: the main one.

    Returns:
        Address of the checkpoint.

    Raises:
        CheckpointError: a link in the folder, no client, no token, no right, or no network.
    """
    return push_folder(
        path,
        repository,
        "model",
        CheckpointError,
        private=private,
        ignored=_NOT_UPLOADED,
        not_checked=_NOT_CHECKED,
        branch=branch,
    )


def upload_bytes(path: Path) -> int:
    """Return the size of what `push_checkpoint` uploads [bytes]."""
    names = {file: file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    return sum(
        file.stat().st_size
        for file, name in names.items()
        if not any(fnmatch.fnmatch(name, pattern) for pattern in _NOT_UPLOADED)
    )
