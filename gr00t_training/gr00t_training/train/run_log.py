# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One progress line of a run, and its figures for TensorBoard and other trackers.

In a terminal the line is a bar that is redrawn; elsewhere it is printed again every few seconds, so that the log file
of a job stays readable. Nothing here waits for the device, except the reading of loss and norm where an entry is
written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from gr00t_training.io.text import duration_text
from gr00t_training.train.run_names import LAST_STEP
from gr00t_training.train.settings import TrainerSettings
from gr00t_training.train.trackers import NONE, open_trackers

T = TypeVar("T")
LINE_S = 10.0  # between lines where stderr is no terminal
_NEWEST_SHARE = 0.3  # of the newest interval in the average from which the time left follows
_BAR = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}"


class RunLog:
    """Progress line and trackers of a run; a context manager."""

    def __init__(
        self,
        folder: Path,
        start: int,
        stop: int,
        settings: TrainerSettings,
        device: torch.device | None = None,
        *,
        is_main: bool = True,
    ) -> None:
        """Open the trackers.

        Args:
            folder: for the files of the trackers, in the folder of the run.
            start: steps that are done.
            stop: last step.
            settings: of the run; its `report_to` chooses the trackers.
            device: that trains; None: the CPU.
            is_main: whether this process of the run logs; the others only count.

        Raises:
            ConfigError: a tracker is not installed or refuses to start.
        """
        self._settings, self._stop = settings, stop
        self._device = device or torch.device("cpu")
        self._is_main = is_main
        self._trackers = open_trackers(
            settings.report_to if is_main else (NONE,),
            folder,
            start=start,
            title=folder.resolve().parent.name,
            config=dataclasses.asdict(settings),
        )
        self.entry(start, {LAST_STEP: stop})  # who reads the curves knows how long the run takes
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=stop, initial=start, dynamic_ncols=True, bar_format=_BAR)
        self._losses: list[Tensor] = []
        self.losses: list[tuple[int, float]] = []  # step and mean loss of each entry
        self._waits = _WaitClock(self._device)
        self._since_s = time.perf_counter()
        self._step_s = 0.0  # average
        self._num_entries = 0
        self._shown_s = -LINE_S

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches and measure how long the device waits for them."""
        iterator = iter(batches)
        while True:
            with self._waits:
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def add(self, step: int, found: Tensor, learning_rate: float, is_logged: bool) -> None:
        """Add a step with its loss and gradient norm, which stay on the device until an entry is written."""
        self._waits.step_is_queued()
        self._losses.append(found[0])
        if self._bar is not None:
            self._bar.update()
        if not self._is_main:
            self._losses.clear()
        if not is_logged or not self._is_main:
            return
        mean_loss, grad_norm = float(torch.stack(self._losses).mean()), float(found[1])
        now_s = time.perf_counter()
        elapsed_s, num_steps = now_s - self._since_s, len(self._losses)
        entries = {
            "loss": mean_loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "samples_per_s": num_steps * self._settings.batch_size / elapsed_s,
            "data_wait": min(self._waits.take() / elapsed_s, 1.0),
        }
        if self._device.type == "cuda":
            entries["gpu_memory_gib"] = torch.cuda.max_memory_reserved(self._device) / 2**30
        self.losses.append((step, mean_loss))
        self._average(elapsed_s / num_steps)
        self.entry(step, {f"train/{name}": value for name, value in entries.items()})
        self._show(step, entries, now_s)
        self._losses.clear()
        self._since_s = now_s

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time of a block out of the rates."""
        began_s = time.perf_counter()
        yield
        self._since_s += time.perf_counter() - began_s

    def entry(self, step: int, values: Mapping[str, float]) -> None:
        """Give figures to the trackers; names are like `train/loss`."""
        for tracker in self._trackers:
            tracker.log(values, step)

    def note(self, text: str) -> None:
        """Print a line above the progress line."""
        if not self._is_main:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def _average(self, step_s: float) -> None:
        # the first steps of a run compile; a second interval replaces them
        share = _NEWEST_SHARE if self._num_entries > 1 else 1.0
        self._step_s += share * (step_s - self._step_s)
        self._num_entries += 1

    def _show(self, step: int, entries: Mapping[str, float], now_s: float) -> None:
        left_s = (self._stop - step) * self._step_s
        texts = [
            f"loss {entries['loss']:.4f}",
            f"lr {entries['learning_rate']:.2g}",
            f"{entries['samples_per_s']:.1f} samples/s",
            f"waits for data {entries['data_wait']:.0%}",
        ]
        if "gpu_memory_gib" in entries:
            texts.append(f"GPU {entries['gpu_memory_gib']:.1f} GiB")
        texts.append(f"{duration_text(left_s)} left")
        line = ", ".join(texts)
        if self._bar is not None:
            self._bar.set_postfix_str(line)
        elif now_s - self._shown_s >= LINE_S or step == self._stop:
            self._shown_s = now_s
            print(f"step {step}/{self._stop}: {line}", file=sys.stderr, flush=True)


class _WaitClock:
    """Sums the time in which the device has nothing to do because the next batch is not there; never waits for it.

    A GPU works while this process waits. It idles from the end of its last step to the start of the next one at most,
    which two events on its stream measure; what of that is due to data is at most the time that `next` took.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._device = device
        self._total_s = 0.0
        self._start_s = 0.0
        self._step_end: torch.cuda.Event | None = None
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event, float]] = []

    def __enter__(self) -> None:
        self._start_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        waited_s = time.perf_counter() - self._start_s
        if self._is_cuda and self._step_end is not None:
            self._gaps.append((self._step_end, self._event(), waited_s))
        else:
            self._total_s += waited_s

    def step_is_queued(self) -> None:
        """Mark the end of a step on the device."""
        if self._is_cuda:
            self._step_end = self._event()

    def take(self) -> float:
        """Return the sum since the last call [s]; the device must have finished the step before."""
        gaps = sum(min(end.elapsed_time(start) / 1e3, waited_s) for end, start, waited_s in self._gaps)
        total_s, self._total_s = self._total_s + gaps, 0.0
        self._gaps.clear()
        return total_s

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
