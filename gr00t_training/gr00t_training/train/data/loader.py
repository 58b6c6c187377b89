# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Load the batches of a run, in worker processes if wanted."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gr00t_training.errors import DatasetError, Gr00tError
from gr00t_training.io.machine import num_cores, shared_memory_bytes
from gr00t_training.io.mirror import fetched_ahead, mirror_of
from gr00t_training.io.processes import start_forkserver
from gr00t_training.train.data.access import choose_access
from gr00t_training.train.data.order import LANES, BatchOrder, Position
from gr00t_training.train.data.samples import StepDataset
from gr00t_training.train.settings import Shuffle

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 8  # of which files are fetched from object storage
SMALL_DATASET = 1000  # samples, below which workers are not worth their start
LEAST_SHARED_BYTES = 2**30  # for the batches of all workers; a container has 64 MiB by default
# of what the main module of a command imports, too: workers import that
_PRELOADED = (__name__, "gr00t_training.train.finetune")


def make_loader(
    samples: StepDataset,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    num_workers: int,
    shuffle: Shuffle = Shuffle.FULL,
    collate: Callable[[Sequence[Mapping[str, Tensor]]], Any] | None = None,
    pin_memory: bool = False,
    rank: int = 0,
    size: int = 1,
) -> BatchLoader:
    """Return an iterable of the batches `start` to `stop` of a run.

    Args:
        samples: of all datasets.
        batch_size: samples of a batch, of all processes together.
        seed: of the order.
        start: number of the first batch.
        stop: number behind the last batch.
        num_workers: processes that make samples; 0: this one does.
        shuffle: how samples are ordered.
        collate: joins samples to a batch; None: the pipeline does.
        pin_memory: batches are in page-locked memory.
        rank: number of this process; it gets its part of each batch.
        size: processes of the run.

    Raises:
        DatasetError: a dataset has no rows, or all episodes are shorter than a chunk.
    """
    for source in samples.sources:
        if not len(source):
            raise DatasetError(
                f"{source.path}: the dataset has no rows to train on (minimum {source.shortest_episode} rows per "
                "episode); record longer episodes"
            )
    workers = max(1, num_workers) * size  # that share memory and the samples of a stream
    orders = choose_access(samples, batch_size=batch_size, seed=seed, shuffle=shuffle, num_workers=workers)
    order = BatchOrder(samples.mixture, batch_size, seed, start, stop, orders, rank, size)
    return start_loader(samples, order, num_workers=num_workers, collate=collate, pin_memory=pin_memory)


def start_loader(
    samples: StepDataset,
    batches: Iterable[list[Position]],
    *,
    num_workers: int,
    collate: Callable[[Sequence[Mapping[str, Tensor]]], Any] | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Return an iterable of given batches; args: see `make_loader`."""
    if num_workers:
        prepare_workers()
    if any(mirror_of(source.path) for source in samples.sources):
        batches = FetchedAhead(samples, batches)
    return BatchLoader(
        _Guarded(samples),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_GuardedCollate(collate or samples.pipeline.collate),
        pin_memory=pin_memory,
        # otherwise every start of the loader would use the generator of noise and dropout
        generator=torch.Generator(),
        # a worker that is forked from this process would share file positions with its decoders, and a GPU
        multiprocessing_context="forkserver" if num_workers else None,
        worker_init_fn=_follow_the_trainer if num_workers else None,
    )


class FetchedAhead:
    """Batches of positions; while one is made, files of the next ones are fetched from object storage."""

    def __init__(self, samples: StepDataset, batches: Iterable[list[Position]]) -> None:
        self._samples, self._batches = samples, batches

    def __iter__(self) -> Iterator[list[Position]]:
        return fetched_ahead(self._batches, self._files, BATCHES_AHEAD)

    def _files(self, batch: list[Position]) -> Iterator[Path]:
        for _, number in batch:
            source, sample = self._samples.place(number)
            if mirror_of(source.path):
                yield from source.files(sample)


class BatchLoader(DataLoader[Any]):
    """Batches from workers; an error of one is raised as it is, and workers end with the iteration, however it ends."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return _until_closed(super().__iter__())


def _until_closed(batches: Any) -> Iterator[Any]:
    try:
        for batch in batches:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch
    finally:
        # workers ignore signals, so a command that still has some would wait for them forever
        getattr(batches, "_shutdown_workers", lambda: None)()


@dataclass(frozen=True)
class _Failure:
    """An error in a worker; PyTorch would put a traceback into its message."""

    error: Gr00tError


class _Guarded(Dataset[Any]):
    """Samples, or the error that one raises."""

    def __init__(self, samples: StepDataset) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: Position) -> Any:
        try:
            return self._samples[position]
        except Gr00tError as error:
            return _Failure(error.with_traceback(None))


class _GuardedCollate:
    """Joins samples, or passes the first error on."""

    def __init__(self, collate: Callable[[Sequence[Mapping[str, Tensor]]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Sequence[Any]) -> Any:
        failures = [sample for sample in samples if isinstance(sample, _Failure)]
        return failures[0] if failures else self._collate(samples)


def choose_workers(num_samples: int, device: torch.device) -> int:
    """Return how many workers this machine has room for: a divisor of the lanes of streams, beside the trainer.

    A process that shares the machine with others under torchrun takes its part of the cores.
    """
    cores = num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cpu" or cores <= 2 or num_samples < SMALL_DATASET:
        return 0
    room = shared_memory_bytes()
    if room < LEAST_SHARED_BYTES:
        logger.warning(
            "/dev/shm has %d MiB free (minimum for workers %d): this process decodes all videos, which is slow; start "
            "the container with --shm-size=8g",
            room // 2**20,
            LEAST_SHARED_BYTES // 2**20,
        )
        return 0
    return max(number for number in range(1, cores) if LANES % number == 0)


def prepare_workers() -> None:
    """Start to import what workers need, once and in the background; early, it saves seconds at the first batch."""
    start_forkserver(_PRELOADED)


def _follow_the_trainer(_: int) -> None:
    # Ctrl-C reaches the whole process group, and signals of a cluster all processes of a job: the trainer finishes its
    # step and saves, then it stops its workers
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # each worker is one of as many as there are cores
    pyarrow.set_cpu_count(1)
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # read when cv2 is imported, which only some models need
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    # PyTorch watches the parent of a worker, which is the fork server: it outlives a trainer that was killed, since it
    # waits for the worker
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)
