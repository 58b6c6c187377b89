# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The best checkpoint of a run: that of the lowest validation loss.

Each checkpoint holds its own validation, so the best one is known after a kill at any instant; `best.json` in the
folder of the run names it for people and programs.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from gr00t_training.checkpoint.files import VALIDATION_FILE, read_json_if_there, write_json
from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import replacing
from gr00t_training.train.run_folder import saved_checkpoints
from gr00t_training.train.validation import ValidationResult

BEST_FILE = "best.json"  # in the folder of a run


@dataclass(frozen=True)
class Best:
    """A checkpoint with its validation loss."""

    checkpoint: Path
    step: int
    loss: float


def write_validation(folder: Path, result: ValidationResult) -> None:
    """Write a validation into the folder of a checkpoint."""
    write_json(folder / VALIDATION_FILE, result.to_mapping())


def best_checkpoint(output_dir: Path) -> Best | None:
    """Return the best checkpoint of a run, the earlier of equal ones; None if none was validated."""
    found = [best for path in saved_checkpoints(output_dir) if (best := _validated(path))]
    return min(found, key=lambda best: best.loss, default=None)


def name_best(output_dir: Path) -> Best | None:
    """Write `best.json` and return the best checkpoint. A reader or a crash sees the old file or the new one.

    Raises:
        CheckpointError: it cannot be written.
    """
    best = best_checkpoint(output_dir)
    if best is None:
        return None
    content = {"checkpoint": best.checkpoint.name, "step": best.step, "validation_loss": best.loss}
    path = output_dir / BEST_FILE
    try:
        path.with_name(f"{BEST_FILE}.part").unlink(missing_ok=True)  # of a run that was killed here
        with replacing(path) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error}); check free space and permissions") from error
    return best


def _validated(path: Path) -> Best | None:
    try:
        content = read_json_if_there(path / VALIDATION_FILE)
    except CheckpointError:  # damaged: as if it had not been validated
        return None
    step, loss = (content or {}).get("step"), (content or {}).get("loss")
    if type(step) is not int or not isinstance(loss, (int, float)) or not math.isfinite(loss):
        return None
    return Best(path, step, float(loss))
