# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Make the folder of results before hours of work depend on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gr00t_training.errors import ConfigError
from gr00t_training.io.object_storage import WRITE_FIRST, refuse_remote


def make_folder(path: Path) -> None:
    """Make a folder, with its parents, and check that files can be written to it.

    Raises:
        ConfigError: it is in object storage, or cannot be made or written.
    """
    refuse_remote(path, WRITE_FIRST, error=ConfigError)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, expected a folder or a new name; choose another --output")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        what = "written" if path.is_dir() else "made"
        raise ConfigError(f"{path}: cannot be {what} ({error.strerror}); choose another --output") from error
