# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's files are: a local folder, or a repository of the Hugging Face hub, cached on this machine.

The hub's client is imported only when a name is no local folder. HF_HUB_OFFLINE=1 keeps it to its cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

from gr00t_training.checkpoint.files import CONFIG_FILE, TOKENIZER_FILE
from gr00t_training.errors import CheckpointError

# What this package reads of a repository; other checkpoints in sub-folders stay there.
_FILES = (
    CONFIG_FILE,
    "model*.safetensors",
    "model.safetensors.index.json",
    "eagle_config.json",
    "processor_config.json",
    "statistics.json",
    "embodiment_id.json",
    "embodiment.json",
    "versions.json",
    TOKENIZER_FILE,
    "backbone/*.json",
    "processor/*.json",
    "experiment_cfg/metadata.json",
)
_NEEDED = (
    "config.json, model.safetensors (or its shards with model.safetensors.index.json), and "
    "experiment_cfg/metadata.json (N1, N1.5) or processor_config.json, statistics.json and embodiment_id.json "
    "(N1.6, N1.7)"
)
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"({_NAME}/{_NAME})((?:/{_NAME})*)(?:@([A-Za-z0-9._/-]+))?")
_SHOWN_FOLDERS = 20  # of a long list in an error


def find_folder(path: str | Path) -> Path:
    """Return the local folder of a checkpoint; fetches a hub's repository into the cache first.

    Args:
        path: folder, or hub id: `org/name`, `org/name/sub/folder`, each with `@revision` where wanted.

    Raises:
        CheckpointError: there is no such folder or repository, or it holds checkpoints only in its sub-folders.
    """
    folder = Path(path)
    if folder.exists():
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: is a file, expected the folder of a checkpoint; pass its folder")
        _refuse_nested(folder)
        return folder
    if match := _HUB_ID.fullmatch(str(path)):
        repository, sub_folder, revision = match.groups()
        return _fetch(str(path), repository, sub_folder.strip("/"), revision)
    raise CheckpointError(f"{path}: no such folder, expected a checkpoint; download or train one first")


def fetch_tokenizer(repository: str) -> Path:
    """Return the local `tokenizer.json` of a hub's repository.

    Raises:
        CheckpointError: it cannot be had; says why.
    """
    hub = _client(repository)
    try:
        cached = hub.try_to_load_from_cache(repository, TOKENIZER_FILE)
        if isinstance(cached, str):  # it never changes: no need to ask the hub, which a robot may not reach
            return Path(cached)
        return Path(hub.hf_hub_download(repository, TOKENIZER_FILE, local_files_only=_is_offline()))
    except Exception as error:  # also those of the client's own HTTP library
        raise CheckpointError(f"{repository}: {_reason(error)}") from error


def _refuse_nested(folder: Path) -> None:
    """Say which sub-folder to choose where the folder itself holds no checkpoint."""
    if (folder / CONFIG_FILE).exists():
        return
    found = {file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{CONFIG_FILE}")}
    nested = sorted(str(place.relative_to(folder)) for place in found if any(place.glob("model*.safetensors")))
    if nested:
        raise _nested_error(folder, nested, f"{folder}/{nested[0]}")


def _nested_error(path: str | Path, nested: list[str], example: str) -> CheckpointError:
    more = len(nested) - _SHOWN_FOLDERS
    names = ", ".join(nested[:_SHOWN_FOLDERS]) + (f" and {more} more" if more > 0 else "")
    return CheckpointError(
        f"{path}: has no {CONFIG_FILE}, but checkpoints in sub-folders: {names}; choose one, as in {example}"
    )


def _fetch(path: str, repository: str, sub_folder: str, revision: str | None) -> Path:
    hub = _client(path)
    inside = f"{sub_folder}/" if sub_folder else ""
    nested: list[str] = []
    try:
        snapshot = hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[inside + name for name in _FILES],
            local_files_only=_is_offline(),
        )
        folder = Path(snapshot, sub_folder)
        if not (folder / CONFIG_FILE).exists() and not _is_offline():
            listed = hub.list_repo_files(repository, revision=revision)
            weights = [Path(name) for name in listed if name.startswith(inside) and name.endswith(".safetensors")]
            nested = sorted({str(file.parent) for file in weights if file.parent != Path(sub_folder)})
    except Exception as error:  # also those of the client's own HTTP library
        raise CheckpointError(
            f"{path}: no such folder, and not to be had from the hub: {_reason(error)}. Put {_NEEDED} of {repository} "
            "into a folder and pass that"
        ) from error
    if nested:
        example = f"{repository}/{nested[0]}" + (f"@{revision}" if revision else "")
        raise _nested_error(path, nested, example)
    if not folder.is_dir():
        found = f"folder '{sub_folder}'" if sub_folder else CONFIG_FILE
        raise CheckpointError(f"{path}: {repository} has no {found}; look at its list of files")
    _refuse_nested(folder)
    return folder


def _client(path: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{path}: no such folder; to look for it on the Hugging Face hub install huggingface_hub "
            f"(pip install 'gr00t_training[hub]'), or put {_NEEDED} into a folder and pass that"
        ) from error
    return huggingface_hub


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _reason(error: Exception) -> str:
    """Say in a few words why the hub did not answer as hoped."""
    name = type(error).__name__
    if name == "GatedRepoError":
        return "the repository is gated: accept its licence on its page and log in (hf auth login)"
    if name == "RepositoryNotFoundError":
        return "it has no such repository, or a private one (then log in: hf auth login)"
    if name == "RevisionNotFoundError":
        return "the repository has no such revision"
    if name in ("LocalEntryNotFoundError", "IncompleteSnapshotError", "OfflineModeIsEnabled"):
        return "not in the local cache, and " + (
            "HF_HUB_OFFLINE is set" if _is_offline() else "the hub does not answer"
        )
    return (str(error).strip().splitlines() or [name])[0]
