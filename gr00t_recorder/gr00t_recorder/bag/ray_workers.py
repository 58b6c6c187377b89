# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert bags as Ray tasks: one task a bag, on this machine or on a cluster whose nodes see the same folders.

Ray only runs `converting.convert_bag`; what is converted, in which order it is published and what counts as done is the
same as with processes. A task whose worker or node dies starts again, in a new folder: a node that is only cut off may
still write into the old one. Ray is imported when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2

from gr00t_recorder.bag.converting import POLL_S, BatchSettings, ConvertedBag, convert_bag, staging_folder
from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.bag.sources import BagSource
from gr00t_training.io.ray_cluster import connect, import_ray
from gr00t_training.io.text import printable

MAX_ATTEMPTS = 4  # of a bag; one that ends every worker must not run forever
OBJECT_STORE_BYTES = 512 * 2**20  # for results, which are rows without images; Ray spills more to disk


class RayWorkers:
    """Tasks that convert bags."""

    def __init__(self, sources: Sequence[BagSource], settings: BatchSettings) -> None:
        """Connect to Ray, or start it here; ConfigError where that is not possible."""
        self.shares = [0.0] * len(sources)  # of each bag that is read
        self.num_attempts = [0] * len(sources)
        self._sources, self._settings = sources, settings
        self._ray = import_ray("--engine ray", "gr00t_recorder")
        self._running: dict[int, Any] = {}
        self._start()
        self._convert = self._ray.remote(num_cpus=1, max_retries=0)(_convert_task)
        self._common = self._ray.put(settings)

    def submit(self, number: int) -> None:
        """Start the conversion of a bag, unless it is running."""
        if number in self._running:
            return
        folder = staging_folder(self._settings, number)
        if self.num_attempts[number]:
            folder = folder.with_name(f"{folder.name}_{self.num_attempts[number]}")
        self.num_attempts[number] += 1
        self._running[number] = self._convert.remote(self._sources[number], self._common, folder, os.getcwd())

    def result(self, number: int, wait: Callable[[], None]) -> ConvertedBag:
        """Return the result of a bag; `wait` is called periodically until then."""
        path = self._sources[number].name
        reason = ""
        while self.num_attempts[number] < MAX_ATTEMPTS or number in self._running:
            self.submit(number)
            while not self._ray.wait([self._running[number]], timeout=POLL_S)[0]:
                self._note_finished()
                wait()
            try:
                return self._ray.get(self._running.pop(number))
            except self._ray.exceptions.RayTaskError as error:  # it ran: the same happens again
                reason = printable(str(error.cause), 300)
                break
            except self._ray.exceptions.RayError as error:
                reason = f"{type(error).__name__}, {self.num_attempts[number]} attempts"
        reason = f"the converting worker died (out of memory?): {reason}; check this bag, or use fewer --jobs"
        return ConvertedBag(BagReport(str(path), error=f"{path}: {reason}"), [], None)

    def close(self, *, is_needed: bool) -> None:
        """Disconnect; running conversions are cancelled unless they are needed."""
        if not is_needed:
            for task in self._running.values():
                self._ray.cancel(task, force=True)
        self._ray.shutdown()

    def _note_finished(self) -> None:
        """Update the shares: a task tells nothing before it is done."""
        tasks = {task: number for number, task in self._running.items()}
        done, _ = self._ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        for task in done:
            self.shares[tasks[task]] = 1.0

    def _start(self) -> None:
        local = {"num_cpus": self._settings.jobs, "object_store_memory": OBJECT_STORE_BYTES}
        connect(self._ray, self._settings.ray_address, local=local, log_to_driver=False)


def _convert_task(source: BagSource, settings: BatchSettings, folder: Path, current: str) -> ConvertedBag:
    os.chdir(current)  # which relative paths of the command are relative to
    cv2.setNumThreads(1)  # the tasks are the parallelism
    return convert_bag(source, settings, folder, lambda done, total: None)
