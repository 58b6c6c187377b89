# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Share one policy between clients; each gets the answers that it would get if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.waiting import Client
from gr00t_training.types import ActionChunk, Continuation, Observation


class PolicySessions:
    """Keep a noise state per client: a reset applies only to the client that requested it."""

    def __init__(self, policy: PolicyLike) -> None:
        """Take the policy in its initial state; one without `noise_state` uses no noise."""
        self._policy = policy
        self._first_noise = self._noise

    def infer(
        self, client: Client, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None
    ) -> list[ActionChunk]:
        """Answer with the noise state that this client's last request left."""
        if self._first_noise is not None:
            noise = self._first_noise if client.noise is None else client.noise
            self._policy.noise_state = noise  # type: ignore[attr-defined]
        try:
            return self._policy.infer_batch(observations, continuations)
        finally:
            client.noise = self._noise

    def reset(self, client: Client) -> None:
        """Start an episode of this client."""
        self._policy.reset()
        client.noise = self._noise

    @property
    def _noise(self) -> Any:
        return getattr(self._policy, "noise_state", None)
