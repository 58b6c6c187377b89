# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Share one policy between clients; each gets the answers that it would get if it were alone.

A policy with stages (`gr00t_training.policy.policy.Policy`) computes requests of several clients as one batch and
prepares and finishes them in other threads. Any other `PolicyLike` answers one request after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.waiting import Client
from gr00t_training.types import ActionChunk, Continuation, Observation

Wait = Callable[[], tuple[Sequence[Any], float]]  # returns a result per request, and the time of the device [s]


class Stages(Protocol):
    """The stages of an answer. `stage` and `finish` may run in any thread, the others in one."""

    overlaps: bool  # whether `start` returns while the batch is computed

    def stage(self, observations: Sequence[Observation], continuation: Continuation | None) -> Any:
        """Prepare a request; raises what `PolicyLike.infer` raises."""
        ...

    def key(self, staged: Any) -> Hashable | None:
        """Return what requests must share to be computed together; None: this one is computed alone."""
        ...

    def start(self, requests: Sequence[tuple[Client, Any]], size: int) -> Wait:
        """Start a batch of `size` samples; return what waits for its results."""
        ...

    def finish(self, staged: Any, result: Any) -> list[ActionChunk]:
        """Return the chunks of a request."""
        ...

    def reset(self, client: Client) -> None:
        """Start an episode of this client: no other one gets other noise."""
        ...


def stages_of(policy: PolicyLike, checkpoint: str) -> Stages:
    """Return the stages of the policy of a checkpoint."""
    return JoiningStages(policy, checkpoint) if hasattr(policy, "stage") else PlainStages(policy, checkpoint)


class _Noise:
    """Keep a noise state per client; a policy without `noise_state` uses no noise."""

    def __init__(self, policy: Any, checkpoint: str) -> None:
        self._policy, self._checkpoint = policy, checkpoint
        self._first = self._state

    @property
    def _state(self) -> Any:
        return getattr(self._policy, "noise_state", None)

    def run(self, client: Client, call: Callable[[], Any]) -> Any:
        """Call with the noise state that this client's last request left."""
        if self._first is not None:
            self._policy.noise_state = client.noise.get(self._checkpoint, self._first)
        try:
            return call()
        finally:
            self._keep(client)

    def reset(self, client: Client) -> None:
        self._policy.reset()
        self._keep(client)

    def _keep(self, client: Client) -> None:
        client.noise = {**client.noise, self._checkpoint: self._state}


class JoiningStages:
    """Those of a policy that has them."""

    def __init__(self, policy: Any, checkpoint: str) -> None:
        """Take the policy in its initial state."""
        self._policy = policy
        self._noise = _Noise(policy, checkpoint)
        self.overlaps: bool = policy.overlaps

    def stage(self, observations: Sequence[Observation], continuation: Continuation | None) -> Any:
        """Prepare a request (`Stages.stage`)."""
        return self._policy.stage(observations, None if continuation is None else [continuation])

    def key(self, staged: Any) -> Hashable | None:
        """Return its key (`Stages.key`)."""
        return staged.key

    def start(self, requests: Sequence[tuple[Client, Any]], size: int) -> Wait:
        """Start a batch, each request with the noise of its client (`Stages.start`)."""
        noises = [
            self._noise.run(client, lambda count=staged.num_samples: self._policy.draw_noise(count))
            for client, staged in requests
        ]
        return self._policy.start([staged for _, staged in requests], noises, size).wait

    def finish(self, staged: Any, result: Any) -> list[ActionChunk]:
        """Return the chunks (`Stages.finish`)."""
        return self._policy.finish(staged, result)

    def reset(self, client: Client) -> None:
        """Start an episode (`Stages.reset`)."""
        self._noise.reset(client)


@dataclass(frozen=True)
class _Whole:
    observations: Sequence[Observation]
    continuation: Continuation | None


class PlainStages:
    """A policy that answers a request as a whole."""

    overlaps = False

    def __init__(self, policy: PolicyLike, checkpoint: str) -> None:
        """Take the policy in its initial state."""
        self._policy = policy
        self._noise = _Noise(policy, checkpoint)

    def stage(self, observations: Sequence[Observation], continuation: Continuation | None) -> _Whole:
        """Return the request as it is (`Stages.stage`)."""
        return _Whole(observations, continuation)

    def key(self, staged: _Whole) -> None:
        """Return None (`Stages.key`)."""

    def start(self, requests: Sequence[tuple[Client, _Whole]], size: int) -> Wait:
        """Answer the only request (`Stages.start`)."""
        ((client, asked),) = requests
        continuations = None if asked.continuation is None else [asked.continuation]
        started_s = time.monotonic()
        chunks = self._noise.run(client, lambda: self._policy.infer_batch(asked.observations, continuations))
        seconds = time.monotonic() - started_s
        return lambda: ([chunks], seconds)

    def finish(self, staged: _Whole, result: list[ActionChunk]) -> list[ActionChunk]:
        """Return the chunks (`Stages.finish`)."""
        return result

    def reset(self, client: Client) -> None:
        """Start an episode (`Stages.reset`)."""
        self._noise.reset(client)


def device_memory(policy: PolicyLike) -> Mapping[str, int]:
    """Return the bytes of the policy's device by use; empty where it has none of its own."""
    report = getattr(policy, "device_memory", None)
    return {} if report is None else report()
