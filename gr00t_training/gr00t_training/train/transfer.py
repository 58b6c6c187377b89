# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Copy a step's samples to the GPU while the step before computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from gr00t_training.train.planned_batch import PlannedBatch


def on_device(steps: Iterable[Sequence[PlannedBatch]], device: torch.device) -> Iterator[list[PlannedBatch]]:
    """Yield the parts of each step on the device; on a GPU two steps are there at a time.

    The copies have a stream of their own. They wait for the step before last, so that the memory of its parts, which
    belongs to that stream, is not overwritten too early.

    Args:
        steps: parts on the host, in page-locked memory for a GPU.
        device: of the model; its current stream computes the steps.
    """
    if device.type != "cuda":
        yield from ([part.to(device) for part in parts] for parts in steps)
        return
    copies, copied, used = torch.cuda.Stream(device), torch.cuda.Event(), torch.cuda.Event()
    ready: list[PlannedBatch] | None = None
    for parts in steps:
        if ready is not None:
            torch.cuda.current_stream(device).wait_event(copied)
        with torch.cuda.stream(copies):
            copies.wait_event(used)
            moved = [part.to(device) for part in parts]
            arrived = torch.cuda.Event()
            arrived.record(copies)
        if ready is not None:
            yield ready
            used = torch.cuda.Event()
            used.record(torch.cuda.current_stream(device))
        ready, copied = moved, arrived
    if ready is not None:
        torch.cuda.current_stream(device).wait_event(copied)
        yield ready
