# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure the disk of a folder. The file that is written has no name, so that nothing is left if this is killed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

BLOCK = 4 * 2**20  # [bytes]
MOST = 256 * 2**20  # [bytes]
SHARE = 0.05  # of what is free, at most
SECONDS = 3.0


def main(folder: str, is_quick: bool) -> None:
    """Print free space, file system and the speed of writing [bytes/s]."""
    path = Path(folder).absolute()
    while not path.is_dir():
        path = path.parent
    free = shutil.disk_usage(path).free
    found = {"folder": str(path), "free": free, "type": _file_system(path), "rate": 0.0, "error": ""}
    if not is_quick:
        try:
            found["rate"] = _measure(path, min(MOST, int(free * SHARE)))
        except OSError as error:
            found["error"] = error.strerror or str(error)
    print(f"\n{json.dumps(found)}")


def _measure(folder: Path, most: int) -> float:
    block = os.urandom(BLOCK)  # some file systems compress
    written, start = 0, time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while written < max(most, BLOCK) and time.perf_counter() - start < SECONDS:
            written += file.write(block)
        os.fsync(file.fileno())
    return written / (time.perf_counter() - start)


def _file_system(path: Path) -> str:
    """Return the type of the mount that a path is on."""
    best, kind = Path("/"), ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, found, *_ = line.split()
        mount = Path(place.replace("\\040", " "))
        if path.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, found
    return kind


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "quick")
