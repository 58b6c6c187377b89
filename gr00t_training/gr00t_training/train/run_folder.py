# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its checkpoints, and what a checkpoint holds to continue the run."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gr00t_training.checkpoint.files import TRAINER_SETTINGS_FILE, read_json, write_json
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.io.files import check_regular
from gr00t_training.io.text import one_line, printable, size_text
from gr00t_training.settings import parse_settings
from gr00t_training.train.settings import TrainerSettings

STATE_FILE = "trainer_state.pt"
LOCK_FILE = "run.lock"
_LOCK_CHARACTERS = 200  # of the file that are read
OTHER_BYTES = 16 * 2**20  # of a checkpoint in addition to its tensors: tokenizer, statistics, digests


class RunLock:
    """Keeps a second run out of a folder while the first one lives; a context manager.

    The kernel holds the lock for the process, so a run that was killed leaves none; the file stays and says who had it.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            ConfigError: another run has it; names its process and machine.
        """
        path = folder / LOCK_FILE
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(open(path, "a+", encoding="utf-8"))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if not isinstance(error, BlockingIOError):  # a file system without locks
                    stack.pop_all()
                    return
                self._file.seek(0)
                who = printable(one_line(self._file.read(_LOCK_CHARACTERS))) or "unknown process"
                raise ConfigError(
                    f"{folder}: another run trains here ({who}); stop it, or choose another --output"
                ) from error
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()
            stack.pop_all()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True)
class RunState:
    """What continues a run, in addition to the weights of a checkpoint."""

    step: int  # optimizer steps that are done
    num_samples: int  # of the dataset, one epoch
    optimizer: dict[str, Any] | None  # None: in a folder, see `sharding`
    rng: torch.Tensor
    cuda_rng: torch.Tensor | None
    trained: dict[str, torch.Tensor] | None  # weights, where the checkpoint has their averages

    def write(self, folder: Path) -> None:
        """Write the state into the folder of a checkpoint.

        Raises:
            OSError: the disk is full.
        """
        try:
            torch.save(
                {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, folder / STATE_FILE
            )
        except RuntimeError as error:  # of the archive's writer, where the disk is full
            raise OSError(f"{STATE_FILE}: {one_line(error)[:200]}") from error

    @classmethod
    def read(cls, path: Path) -> RunState:
        """Read the state of a checkpoint.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        file = path / STATE_FILE
        check_regular(file, CheckpointError)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            return cls(
                int(state["step"]),
                int(state["num_samples"]),
                *(state[name] for name in ("optimizer", "rng", "cuda_rng", "trained")),
            )
        except Exception as error:  # torch.load raises anything on a damaged file
            raise CheckpointError(
                f"{path}: no state to resume from ({one_line(error)[:200]}); start a new run from it"
            ) from error


def write_settings(folder: Path, settings: TrainerSettings) -> None:
    """Write the trainer settings into the folder of a checkpoint."""
    write_json(folder / TRAINER_SETTINGS_FILE, dataclasses.asdict(settings))


def saved_settings(path: Path) -> TrainerSettings:
    """Return the trainer settings that a checkpoint was made with; unknown ones are ignored.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    if not (path / TRAINER_SETTINGS_FILE).exists():
        raise CheckpointError(
            f"{path}: has no {TRAINER_SETTINGS_FILE} to resume with; start a new run with --base-model"
        )
    found = read_json(path / TRAINER_SETTINGS_FILE)
    known = {field.name for field in dataclasses.fields(TrainerSettings)}
    values = {name: value for name, value in found.items() if name in known}
    try:
        return parse_settings(TrainerSettings, json.dumps(values), str(path / TRAINER_SETTINGS_FILE))
    except ConfigError as error:
        raise CheckpointError(f"{error}; start a new run from the checkpoint") from error


def saved_checkpoints(output_dir: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def checkpoint_bytes(weights: int, trained: int, settings: TrainerSettings) -> int:
    """Return the size of the tensors of a checkpoint: weights, two moments and maybe averages [bytes].

    Args:
        weights: size of all weights [bytes].
        trained: size of those that train [bytes].
        settings: of the run.
    """
    return weights + (3 if settings.ema_decay else 2) * trained


def check_room(output_dir: Path, needed: int) -> None:
    """Refuse to begin a checkpoint that the disk has no room for.

    Args:
        output_dir: folder of the run.
        needed: size of its tensors [bytes].

    Raises:
        CheckpointError: not enough room; says how much is missing.
    """
    needed += OTHER_BYTES
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise CheckpointError(
            f"{output_dir}: a checkpoint needs {size_text(needed)}, the disk has {size_text(free)} free; make room or "
            "lower --keep-checkpoints, then --resume continues from the last checkpoint"
        )


def remove_unfinished(output_dir: Path) -> None:
    """Remove what a run that was killed had half written or half removed; each may be as large as a checkpoint."""
    for state in ("partial", "removed"):
        for path in output_dir.glob(f".checkpoint-*.{state}"):
            shutil.rmtree(path, ignore_errors=True)


def remove_old(output_dir: Path, keep: int, spared: Path | None = None) -> None:
    """Remove all but the newest `keep` checkpoints and `spared`; a folder called checkpoint-N is always complete."""
    for old in [path for path in saved_checkpoints(output_dir)[:-keep] if path != spared]:
        doomed = old.with_name(f".{old.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)  # of a run that was killed here
        os.replace(old, doomed)
        try:
            shutil.rmtree(doomed, ignore_errors=True)
        finally:  # interrupted by a signal
            shutil.rmtree(doomed, ignore_errors=True)
