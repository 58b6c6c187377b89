# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the figures of a run go: TensorBoard, Weights & Biases, trackio, several of them or none.

A library is imported only if it is chosen. A run that is resumed continues its curves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from uuid import uuid4

from gr00t_training.errors import ConfigError
from gr00t_training.io.text import one_line

NONE = "none"
PROJECT = "gr00t"  # of Weights & Biases and trackio, where their environment variable does not name one
_RUN_FILE = "{}_run.txt"  # holds the id that continues the run's curves
_MODULES = {
    "tensorboard": ("torch.utils.tensorboard.writer", "pip install tensorboard"),
    "wandb": ("wandb", "pip install wandb"),
    "trackio": ("trackio", "pip install trackio"),
}
TRACKERS = (*_MODULES, NONE)


class Tracker(Protocol):
    """Takes the figures of a run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add the values of a step."""

    def close(self) -> None:
        """Write what is left and release the files."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed, before hours of work depend on them.

    Raises:
        ConfigError: names the tracker and the remedy.
    """
    if not names:
        raise ConfigError(f"report_to: names nothing, expected one of {', '.join(TRACKERS)}")
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"report_to: '{name}' is unknown, expected one of {', '.join(TRACKERS)}")
    if NONE in names and len(names) > 1:
        raise ConfigError(f"report_to: 'none' is given with {', '.join(n for n in names if n != NONE)}; leave out one")
    for name in names:
        if name != NONE:
            _library(name)


def open_trackers(
    names: Sequence[str], folder: Path, *, start: int, title: str, config: Mapping[str, Any]
) -> list[Tracker]:
    """Open the trackers of a run.

    Args:
        names: of the trackers, see `check_trackers`.
        folder: for their files; made if it is missing.
        start: steps that are done; what a killed run logged after them is replaced.
        title: name of the run.
        config: settings of the run, plain values.

    Raises:
        ConfigError: one is not installed or refuses to start.
    """
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(folder, start),
        "wandb": lambda: _Service("wandb", folder, title, config),
        "trackio": lambda: _Service("trackio", folder, title, config),
    }
    check_trackers(names)
    opened: list[Tracker] = []
    try:
        for name in names:
            if name != NONE:
                opened.append(makers[name]())
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return opened


class _TensorBoard:
    def __init__(self, folder: Path, start: int) -> None:
        self._writer = _library("tensorboard").SummaryWriter(str(folder), purge_step=start + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Service:
    """Weights & Biases, or trackio, which has the same functions."""

    def __init__(self, name: str, folder: Path, title: str, config: Mapping[str, Any]) -> None:
        library = _library(name)
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {
            "project": os.environ.get(f"{name.upper()}_PROJECT", PROJECT),
            "config": dict(config),
        }
        if name == "wandb":
            options |= {"dir": str(folder), "name": title, "id": _run_id(folder, name), "resume": "allow"}
        else:  # trackio knows a run by its name
            options |= {"name": f"{title}-{_run_id(folder, name)}", "resume": "allow"}
        try:
            self._run = library.init(**options)
        except Exception as error:  # these libraries pass on errors of their transports
            raise ConfigError(
                f"report_to {name}: cannot start ({one_line(error)[:300]}); log in, or choose another --report-to"
            ) from error
        self._finish = library.finish

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._finish()


def _run_id(folder: Path, name: str) -> str:
    file = folder / _RUN_FILE.format(name)
    if not file.exists():
        file.write_text(uuid4().hex[:12] + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _library(name: str) -> ModuleType:
    module, remedy = _MODULES[name]
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"report_to {name}: {name} is not installed ({one_line(error)[:200]}); {remedy}, or choose another "
            "--report-to"
        ) from error
