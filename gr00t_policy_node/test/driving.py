# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep the state that guard and player take and return, so that a test reads as a sequence of calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gr00t_policy_node.chunking.player import ChunkPlayer, Plan, newest_chunk
from gr00t_policy_node.safety.guard import GuardedCommand, GuardState, MotionGuard
from gr00t_training.types import ActionChunk, Continuation


class DrivenGuard:
    """A motion guard and its state; arguments as of `MotionGuard`."""

    state: GuardState

    def __init__(self, *arguments: Any) -> None:
        self._guard = MotionGuard(*arguments)
        self.warnings = self._guard.warnings

    @property
    def last(self) -> np.ndarray:
        return self.state.last

    @property
    def must_brake(self) -> bool:
        return self._guard.must_brake(self.state)

    def start_at(self, positions: np.ndarray) -> None:
        self.state = self._guard.start_at(positions)

    def apply(self, target: np.ndarray, elapsed_s: float) -> GuardedCommand:
        self.state, command = self._guard.apply(self.state, target, elapsed_s)
        return command

    def brake(self, elapsed_s: float) -> np.ndarray:
        self.state = self._guard.brake(self.state, elapsed_s)
        return self.state.last

    def braking(self) -> Iterator[np.ndarray]:
        for state in self._guard.braking(self.state):
            self.state = state
            yield state.last


class PlayedPlan:
    """A chunk player and its plan; arguments as of `ChunkPlayer`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._player = ChunkPlayer(*arguments, **options)
        self._plan: Plan = ()

    @property
    def chunk(self) -> ActionChunk | None:
        return newest_chunk(self._plan)

    def accept(self, chunk: ActionChunk, now_ns: int | None = None) -> bool:
        plan = self._player.accept(self._plan, chunk, now_ns)
        self._plan = self._plan if plan is None else plan
        return plan is not None

    def sample(self, now_ns: int) -> dict[str, np.ndarray] | None:
        self._plan, due = self._player.sample(self._plan, now_ns)
        return due

    def continuation(self, stamp_ns: int, latency_ns: int) -> Continuation | None:
        return self._player.continuation(self._plan, stamp_ns, latency_ns)
