# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Uploading a dataset to the Hugging Face Hub. The client is imported when it is needed and only then."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import ModuleType

from gr00t_training.dataset import schema
from gr00t_training.errors import DatasetError

# Of the recorder, of tools, of runs that were interrupted.
_NOT_UPLOADED = [f"{schema.STAGING}/**", ".cache/**", f"*{schema.STAGED_SUFFIX}", ".git/**"]


def push_dataset(path: Path, repository: str, version: str, *, private: bool, branch: str | None = None) -> str:
    """Upload the folder of a dataset, and tag it with its version, which is how lerobot finds it.

    Args:
        path: the dataset.
        repository: `name` or `organisation/name`; made where there is none.
        version: of the dataset's format.
        private: whether a new repository is seen by its owner only.
        branch: to upload to; None: the main one.

    Returns:
        Address of the dataset.

    Raises:
        DatasetError: no client, no token, no right, or no network.
    """
    hub = _client()
    if hub.get_token() is None:
        raise DatasetError(
            f"{repository}: no token of the Hugging Face Hub; log in with 'hf auth login' or set HF_TOKEN"
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DatasetError(f"{repository}: HF_HUB_OFFLINE is set; unset it to upload")
    api = hub.HfApi()
    try:
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        name = url.repo_id
        if branch is not None:
            api.create_branch(name, branch=branch, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=path, repo_type="dataset", revision=branch, ignore_patterns=_NOT_UPLOADED
        )
        if branch is None:
            with contextlib.suppress(hub.utils.RevisionNotFoundError):
                api.delete_tag(name, tag=version, repo_type="dataset")
            api.create_tag(name, tag=version, repo_type="dataset")
    except Exception as error:  # the client lets the errors of its transports through, which are no family
        raise DatasetError(f"{repository}: cannot be uploaded: {_reason(error)}") from error
    return str(url)


def _client() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DatasetError(
            "uploading needs the client of the Hugging Face Hub: pip install 'gr00t_training[hub]'"
        ) from error
    return huggingface_hub


def _reason(error: Exception) -> str:
    """Say in a few words why the hub did not take it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the token is not valid (log in: hf auth login)"
    if status == 403:
        return "the token may not write there; use one with write access, or another name"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "connect" in type(error).__name__.lower() or "connect" in text.lower() or "resolve" in text.lower():
        return f"the hub does not answer ({text}); check the network"
    return text
