# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the files of a checkpoint: a local folder, or a repository of the Hugging Face hub, cached on this machine.

The hub's client is imported only if a name is not a local folder. HF_HUB_OFFLINE=1: only its cache is used.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from gr00t_training.checkpoint.files import CONFIG_FILE, INDEX_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from gr00t_training.checkpoint.foreign import nested_message, recognized, recognized_file, recognized_repository
from gr00t_training.errors import CheckpointError
from gr00t_training.io.hub_download import HUB_NAME, download_reason, import_client, is_offline
from gr00t_training.io.object_storage import USE_LOCAL, refuse_remote

_TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
# Files that are downloaded; other checkpoints in sub-folders are not.
_FILES = (
    CONFIG_FILE,
    "model*.safetensors",
    "model.safetensors.index.json",
    "eagle_config.json",
    "processor_config.json",
    "statistics.json",
    "embodiment_id.json",
    "embodiment.json",
    "embodiments.json",
    "versions.json",
    "training_data.json",
    "training_run.json",
    "README.md",
    "LICENSE*",
    "adapter_config.json",
    "adapter_model.safetensors",
    "base_checkpoint.json",
    "trained.safetensors",
    TOKENIZER_FILE,
    *_TOKENIZER_FILES,
    "backbone/*.json",
    "backbone/merges.txt",
    "backbone/tokenizer.model",
    "processor/*.json",
    "experiment_cfg/metadata.json",
)
_NEEDED = (
    "config.json, model.safetensors (or its shards with model.safetensors.index.json), and "
    "experiment_cfg/metadata.json (N1, N1.5) or processor_config.json, statistics.json and embodiment_id.json "
    "(N1.6, N1.7)"
)
_HUB_ID = re.compile(rf"({HUB_NAME}/{HUB_NAME})((?:/{HUB_NAME})*)(?:@([A-Za-z0-9._/-]+))?")


def find_folder(path: str | Path) -> Path:
    """Return the local folder of a checkpoint; fetches a hub's repository into the cache first.

    Args:
        path: folder, or hub id: `org/name`, `org/name/sub/folder`, each optionally with `@revision`.

    Raises:
        CheckpointError: there is no such folder or repository, or it holds checkpoints only in its sub-folders.
    """
    refuse_remote(path, USE_LOCAL, error=CheckpointError)
    folder = Path(path)
    if folder.exists():
        if not folder.is_dir():
            raise CheckpointError(recognized_file(folder))
        _refuse_foreign(folder)
        return folder
    if match := _HUB_ID.fullmatch(str(path)):
        repository, sub_folder, revision = match.groups()
        return _fetch(str(path), repository, sub_folder.strip("/"), revision)
    raise CheckpointError(f"{path}: no such folder, expected a checkpoint; download or train one first")


def fetch_tokenizer(repository: str) -> Path:
    """Return the local `tokenizer.json` of a hub's repository.

    Raises:
        CheckpointError: it is not available, with the reason.
    """
    hub = _client(repository)
    try:
        cached = hub.try_to_load_from_cache(repository, TOKENIZER_FILE)
        if isinstance(cached, str):  # it never changes: no request to the hub, which a robot may not reach
            return Path(cached)
        return Path(hub.hf_hub_download(repository, TOKENIZER_FILE, local_files_only=is_offline()))
    except Exception as error:  # also those of the client's own HTTP library
        raise CheckpointError(f"{repository}: {download_reason(error)}") from error


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder with recognized content but without usable weights."""
    if (folder / WEIGHTS_FILE).exists() or (folder / INDEX_FILE).exists():
        return
    message = recognized(folder)
    if message:
        raise CheckpointError(message)


def _fetch(path: str, repository: str, sub_folder: str, revision: str | None) -> Path:
    hub = _client(path)
    inside = f"{sub_folder}/" if sub_folder else ""
    nested: list[str] = []
    other: str | None = None
    try:
        snapshot = hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[inside + name for name in _FILES],
            local_files_only=is_offline(),
        )
        folder = Path(snapshot, sub_folder)
        if not (folder / CONFIG_FILE).exists() and not is_offline():
            listed = hub.list_repo_files(repository, revision=revision)
            weights = [Path(name) for name in listed if name.startswith(inside) and name.endswith(".safetensors")]
            other = recognized_repository(path, [n.removeprefix(inside) for n in listed if n.startswith(inside)])
            nested = sorted({str(file.parent) for file in weights if file.parent != Path(sub_folder)})
        elif not any(folder.glob("model*.safetensors")) and not is_offline():
            listed = hub.list_repo_files(repository, revision=revision)
            other = recognized_repository(path, [n.removeprefix(inside) for n in listed if n.startswith(inside)])
    except Exception as error:  # also those of the client's own HTTP library
        raise CheckpointError(
            f"{path}: no such folder, and not available from the hub: {download_reason(error)}. Put {_NEEDED} of "
            f"{repository} into a folder and pass that"
        ) from error
    if nested:
        example = f"{repository}/{nested[0]}" + (f"@{revision}" if revision else "")
        raise CheckpointError(nested_message(path, nested, example))
    if other:
        raise CheckpointError(other)
    if not folder.is_dir():
        found = f"folder '{sub_folder}'" if sub_folder else CONFIG_FILE
        raise CheckpointError(f"{path}: {repository} has no {found}; check its list of files")
    _refuse_foreign(folder)
    return folder


def _client(path: str) -> ModuleType:
    try:
        return import_client()
    except ImportError as error:
        raise CheckpointError(
            f"{path}: no such folder; to look for it on the Hugging Face hub install huggingface_hub "
            f"(pip install 'gr00t_training[hub]'), or put {_NEEDED} into a folder and pass that"
        ) from error
