# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Changes to the files of a dataset that lose nothing: whatever is replaced or moved is kept in the staging folder.

Originals of replaced files go to a folder `.staging/backup-<time>` under their own names (with `.part` behind them, so
that no reader counts them), files that belong to no episode to `.staging/ignored`. A dry run only takes down what would
be done.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.files import DatasetFiles, sync_file


@dataclass
class Changes:
    """Applies changes, or only lists them."""

    root: Path
    is_dry_run: bool
    done: list[str] = field(default_factory=list)  # one line each
    backup: Path | None = None  # where the originals are
    files: DatasetFiles = field(init=False)

    def __post_init__(self) -> None:
        self.files = DatasetFiles(self.root)

    def note(self, text: str) -> None:
        """Take down what is done."""
        self.done.append(text)

    def write_text(self, name: str, text: str, why: str) -> None:
        """Replace a text file unless it has this content already; OSError when it cannot be written."""
        current = self.root / name
        if current.is_file() and current.read_bytes() == text.encode():
            return
        self.note(f"{name}: {why}")
        if not self.is_dry_run:
            self._keep_original(name)
            self.files.move(self.files.stage_text(name, text))

    def write_table(self, name: str, table: pa.Table, why: str) -> None:
        """Replace a parquet file; OSError when it cannot be written."""
        self.note(f"{name}: {why}")
        if not self.is_dry_run:
            self._keep_original(name)
            staged = self.files.staged(name)
            pq.write_table(table, staged, compression="snappy")
            sync_file(staged)
            self.files.move({name: staged})

    def replace(self, name: str, staged: Path, why: str) -> None:
        """Replace a file by another that was built in the staging folder; OSError when that fails."""
        self.note(f"{name}: {why}")
        sync_file(staged)
        self._keep_original(name)
        self.files.move({name: staged})

    def rename(self, name: str, target: str, why: str) -> None:
        """Rename a file within the dataset; OSError when that fails."""
        self.note(f"{name}: {why}")
        if not self.is_dry_run:
            self.files.move({target: self.root / name})

    def set_aside(self, name: str, why: str) -> None:
        """Move a file out of the readers' sight; OSError when that fails."""
        self.note(f"{name}: {why}, set aside in {schema.IGNORED}")
        if not self.is_dry_run:
            self.files.set_aside(name)

    def _keep_original(self, name: str) -> None:
        if not (self.root / name).is_file():
            return
        if self.backup is None:
            self.backup = self._new_folder()
        kept = self.backup / (name + schema.STAGED_SUFFIX)
        if kept.exists():
            return  # the original, of before an earlier change
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.root / name, kept)  # replaced, never changed: the link keeps the content
        except OSError:  # file systems without links
            shutil.copy2(self.root / name, kept)

    def _new_folder(self) -> Path:
        first = self.root / schema.STAGING / time.strftime("backup-%Y%m%d-%H%M%S")
        path, number = first, 1
        while path.exists():
            path, number = first.with_name(f"{first.name}-{number}"), number + 1
        path.mkdir(parents=True)
        return path
