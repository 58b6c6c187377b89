# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Upload a folder to the Hugging Face Hub. The client is imported only when needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType

from gr00t_training.errors import Gr00tError
from gr00t_training.io.files import check_links
from gr00t_training.io.hub_download import import_client


def push_folder(
    path: Path,
    repository: str,
    kind: str,
    error: type[Gr00tError],
    *,
    private: bool,
    ignored: Sequence[str],
    not_checked: Collection[str] = (),
    branch: str | None = None,
    tag: str | None = None,
) -> str:
    """Upload a folder; the repository is created if it is missing.

    Args:
        path: local folder.
        repository: `name` or `organization/name`.
        kind: of the repository: "dataset" or "model".
        error: type of the errors.
        private: whether a new repository is seen by its owner only.
        ignored: patterns of files that stay here.
        not_checked: folders that are not searched for links.
        branch: to upload to; None: the main one.
        tag: that the main branch gets, moved if it is there; None: none.

    Returns:
        Address of the repository.

    Raises:
        error: a link in the folder, no client, no token, no right, or no network.
    """
    check_links(path, error, not_checked)  # the client would upload what they point to
    hub = _client(error)
    if hub.get_token() is None:
        raise error(f"{repository}: no token of the Hugging Face Hub; log in with 'hf auth login' or set HF_TOKEN")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise error(f"{repository}: HF_HUB_OFFLINE is set; unset it to upload")
    api = hub.HfApi()
    try:
        url = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        name = url.repo_id
        if branch is not None:
            api.create_branch(name, branch=branch, repo_type=kind, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=path, repo_type=kind, revision=branch, ignore_patterns=list(ignored)
        )
        if branch is None and tag is not None:
            with contextlib.suppress(hub.utils.RevisionNotFoundError):
                api.delete_tag(name, tag=tag, repo_type=kind)
            api.create_tag(name, tag=tag, repo_type=kind)
    except Exception as reason:  # the client passes on errors of its transports, which have no common base
        raise error(f"{repository}: cannot be uploaded: {_reason(reason)}") from reason
    return str(url)


def _client(error: type[Gr00tError]) -> ModuleType:
    try:
        return import_client()
    except ImportError as reason:
        raise error("uploading needs the client of the Hugging Face Hub: pip install 'gr00t_training[hub]'") from reason


def _reason(error: Exception) -> str:
    """Return in a few words why the Hub refused."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the token is not valid (log in: hf auth login)"
    if status == 403:
        return "the token may not write there; use one with write access, or another name"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "connect" in type(error).__name__.lower() or "connect" in text.lower() or "resolve" in text.lower():
        return f"the hub does not answer ({text}); check the network"
    return text
