# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy server reports while it works; `gr00t_training.serve.metrics` exports it."""

from __future__ import annotations

from enum import Enum


class Stage(str, Enum):
    """Part of the time of an answer."""

    PREPARE = "prepare"  # decode images, scale the state, tokenize
    QUEUE = "queue"  # from the arrival until its batch starts, preparation included
    ASSEMBLE = "assemble"  # choose a batch, copy its inputs and start it, while the one before it is computed
    COMPUTE = "compute"  # of the batch
    FINISH = "finish"  # scale actions back and pack the reply
    TOTAL = "total"  # from the arrival until the reply is sent

    def __str__(self) -> str:
        return self.value


class Observer:
    """Ignores everything. Methods are called from several threads and must not wait."""

    def add_seconds(self, stage: Stage, seconds: float, checkpoint: str) -> None:
        """Take the time of a stage of one answer of a checkpoint; `ASSEMBLE`: of a batch."""

    def add_batch(self, num_samples: int, size: int, checkpoint: str) -> None:
        """Take the samples of a batch and the size in which it was computed."""

    def add_refused(self, cause: str) -> None:
        """Count a refused request of any kind."""

    def add_expired(self) -> None:
        """Count a request that its client no longer waited for."""
