# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The interface of a policy: a checkpoint in this process, a client of a policy server, or a test's own. No torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from gr00t_training.embodiment import Embodiment
from gr00t_training.types import ActionChunk, Continuation, Observation


class PolicyLike(Protocol):
    """Answers observations with action chunks. A subclass implements `infer_batch`, and `reset` if it keeps a state."""

    embodiment: Embodiment  # of the robot that the policy controls

    def infer(self, observation: Observation, continuation: Continuation | None = None) -> ActionChunk:
        """Answer one observation.

        Args:
            observation: newest images and state, and the instruction.
            continuation: the chunk that the robot carries out now, which the answer continues; None: start a new one.

        Raises:
            ObservationError: an input is missing, malformed or not finite; names key, found and expected.
            Gr00tError: the policy cannot answer: CheckpointError (NaN or infinity), ServerError (no answer).
        """
        return self.infer_batch([observation], [continuation])[0]

    @abstractmethod
    def infer_batch(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> list[ActionChunk]:
        """Answer several observations at once; `continuations`: one per observation, or None for none."""
        ...

    def reset(self, seed: int | None = None) -> None:
        """Start an episode; `seed`: of its noise, where the policy draws some, None: as it was made."""
