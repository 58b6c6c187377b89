# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find a dataset: a folder, here or in object storage, or a repository of the Hugging Face hub, cached here."""

from __future__ import annotations

from pathlib import Path

from gr00t_training.errors import DatasetError
from gr00t_training.io.hub_download import dataset_id, download_reason, import_client, is_offline
from gr00t_training.io.mirror import open_folder

_FILES = ("meta/*", "data/*", "videos/*")  # patterns match sub-folders too


def find_dataset(path: str) -> Path:
    """Return the local folder of a dataset; fetches a hub's repository into the cache first.

    Args:
        path: folder, `s3://bucket/prefix` (`open_folder`), or hub id (`dataset_id`).

    Raises:
        DatasetError: there is no such folder or repository.
    """
    found = dataset_id(path)
    if found is None:
        return open_folder(path)
    repository, revision = found
    try:
        client = import_client()
    except ImportError as error:
        raise DatasetError(
            f"{path}: no such folder; to look for it on the Hugging Face hub install huggingface_hub "
            "(pip install 'gr00t_training[hub]')"
        ) from error
    try:
        return Path(
            client.snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(_FILES),
                local_files_only=is_offline(),
            )
        )
    except Exception as error:  # also those of the client's own HTTP library
        raise DatasetError(
            f"{path}: no such folder, and not available from the hub: {download_reason(error)}; check the path"
        ) from error
