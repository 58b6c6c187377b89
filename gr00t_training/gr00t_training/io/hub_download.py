# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The client of the Hugging Face hub, and what downloads through it and its cache have in common."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

HUB_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"  # pattern of an organization or a repository
_DATASET_ID = re.compile(rf"({HUB_NAME}/{HUB_NAME})(?:@([A-Za-z0-9._/-]+))?")


def import_client() -> ModuleType:
    """Import the client of the hub, which keeps quiet: a line for each of its attempts would hide our own.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # read on import, which overwrites the level of its logger
    import huggingface_hub

    return huggingface_hub


def dataset_id(path: str) -> tuple[str, str | None] | None:
    """Return repository and revision of a hub id, `org/name` or `org/name@revision`; None: a folder, or no id."""
    found = None if Path(path).exists() else _DATASET_ID.fullmatch(path)
    return (found[1], found[2]) if found else None


def is_offline() -> bool:
    """Whether only the client's cache may be used (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def download_reason(error: Exception) -> str:
    """Return a short reason for an error of the hub's client."""
    name = type(error).__name__
    if name == "GatedRepoError":
        return "the repository is gated: accept its license on its page and log in (hf auth login)"
    if name == "RepositoryNotFoundError":
        return "it has no such repository, or a private one (then log in: hf auth login)"
    if name == "RevisionNotFoundError":
        return "the repository has no such revision"
    if name in ("LocalEntryNotFoundError", "IncompleteSnapshotError", "OfflineModeIsEnabled"):
        return "not in the local cache, and " + ("HF_HUB_OFFLINE is set" if is_offline() else "the hub does not answer")
    return (str(error).strip().splitlines() or [name])[0]
