# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert bags in this process, in several or as Ray tasks (`ray_workers`), and return them in order.

Each bag is converted into a separate staging folder of the dataset. What converts them does not change the result.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import cv2

from gr00t_recorder.bag.converting import POLL_S, BatchSettings, ConvertedBag, Engine, convert_bag, staging_folder
from gr00t_recorder.bag.ray_workers import RayWorkers
from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.bag.sources import BagSource
from gr00t_training.io.processes import starting_workers

WAITING_PER_PROCESS = 2  # bags converted ahead of the one that is published next
_shares: Any = None  # of each bag that is read, shared by the processes; set in the workers only
_is_ending = False  # whether this worker must end
_is_converting = False  # whether this worker has temporary files to remove


def convert_in_order(
    sources: Sequence[BagSource], settings: BatchSettings, progress: Callable[[Sequence[float]], None]
) -> Generator[tuple[BagSource, ConvertedBag], None, None]:
    """Yield the result of each bag, in order."""
    shares = [0.0] * len(sources)
    if settings.engine is Engine.PROCESSES and (settings.jobs <= 1 or len(sources) <= 1):
        for number, source in enumerate(sources):

            def count(done: int, total: int, number: int = number) -> None:
                share = done / total if total else 0.0
                if share - shares[number] >= 0.01:
                    shares[number] = share
                    progress(shares)

            converted = convert_bag(source, settings, staging_folder(settings, number), count)
            shares[number] = 1.0
            progress(shares)
            yield source, converted
        return
    yield from _converted_in_parallel(sources, settings, progress)


def _converted_in_parallel(
    sources: Sequence[BagSource], settings: BatchSettings, progress: Callable[[Sequence[float]], None]
) -> Iterator[tuple[BagSource, ConvertedBag]]:
    workers = _start_engine(sources, settings)
    is_done = False
    try:
        for turn, source in enumerate(sources):
            for number in range(turn, min(turn + settings.jobs * WAITING_PER_PROCESS, len(sources))):
                workers.submit(number)
            converted = workers.result(turn, lambda: progress(workers.shares[:]))
            workers.shares[turn] = 1.0
            progress(workers.shares[:])
            yield source, converted
        is_done = True
    finally:
        workers.close(is_needed=is_done)


class Workers(Protocol):
    """What converts bags ahead of their turn."""

    @property
    def shares(self) -> Any:
        """Share of each bag that is read."""
        ...

    def submit(self, number: int) -> None:
        """Start the conversion of a bag, unless it is running."""
        ...

    def result(self, number: int, wait: Callable[[], None]) -> ConvertedBag:
        """Return the result of a bag; `wait` is called periodically until then."""
        ...

    def close(self, *, is_needed: bool) -> None:
        """Stop; end running conversions unless they are needed."""
        ...


def _start_engine(sources: Sequence[BagSource], settings: BatchSettings) -> Workers:
    if settings.engine is Engine.PROCESSES:
        return _Processes(sources, settings)
    return RayWorkers(sources, settings)


class _Processes:
    """Processes that convert bags. A process that dies is replaced; a bag that kills two is refused."""

    def __init__(self, sources: Sequence[BagSource], settings: BatchSettings) -> None:
        self._context = multiprocessing.get_context("spawn")  # threads of decoders and encoders do not survive a fork
        self._shares: Any = self._context.Array("d", len(sources), lock=False)  # of each bag that is read
        self._sources, self._settings = sources, settings
        self._running: dict[int, concurrent.futures.Future[ConvertedBag]] = {}
        self._pool = self._start()

    @property
    def shares(self) -> Any:
        """Share of each bag that is read."""
        return self._shares

    def submit(self, number: int) -> None:
        """Start the conversion of a bag, unless it is running."""
        if number in self._running:
            return
        arguments = (self._sources[number], self._settings, staging_folder(self._settings, number), number)
        with starting_workers():
            try:
                self._running[number] = self._pool.submit(_convert_in_worker, *arguments)
            except BrokenProcessPool:
                self._pool = self._start()
                self._running[number] = self._pool.submit(_convert_in_worker, *arguments)

    def result(self, number: int, wait: Callable[[], None]) -> ConvertedBag:
        """Return the result of a bag; `wait` is called periodically until then."""
        for _ in range(2):  # a dying process breaks the pool: the second time this bag runs alone
            self.submit(number)
            future = self._running[number]
            while not concurrent.futures.wait([future], timeout=POLL_S).done:
                wait()
            try:
                return self._running.pop(number).result()
            except BrokenProcessPool:
                self._running.clear()
        path = self._sources[number].name
        reason = "the converting process died (out of memory?); check this bag, or use fewer --jobs"
        return ConvertedBag(BagReport(str(path), error=f"{path}: {reason}"), [], None)

    def close(self, *, is_needed: bool) -> None:
        """Stop the processes; terminate running conversions unless they are needed."""
        if not is_needed:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> concurrent.futures.ProcessPoolExecutor:
        return concurrent.futures.ProcessPoolExecutor(
            self._settings.jobs, mp_context=self._context, initializer=_start_worker, initargs=(self._shares,)
        )


def _start_worker(shares: Any) -> None:
    global _shares
    _shares = shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    signal.signal(signal.SIGTERM, _break_off)
    threading.Thread(target=_follow_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the processes are the parallelism


def _break_off(number: int, frame: object) -> None:
    global _is_ending
    if not _is_converting:
        os._exit(128 + number)
    _is_ending = True  # the pool treats SystemExit as the result of one bag and would start the next
    raise SystemExit(128 + number)  # unlike the default, it removes temporary files


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _convert_in_worker(source: BagSource, settings: BatchSettings, folder: Path, number: int) -> ConvertedBag:
    def count(done: int, total: int) -> None:
        if _is_ending:
            raise SystemExit(128 + signal.SIGTERM)
        _shares[number] = done / total if total else 0.0

    global _is_converting
    _is_converting = True
    try:
        count(0, 1)
        return convert_bag(source, settings, folder, count)
    finally:
        _is_converting = False
