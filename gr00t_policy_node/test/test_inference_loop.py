# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import threading
from collections.abc import Callable

import numpy as np
import pytest

from gr00t_policy_node.inference import InferenceLoop
from gr00t_training.errors import ObservationError, ServerError
from gr00t_training.types import ActionChunk, Continuation, Observation

WAIT_S = 20.0


class Asked:
    """A policy that remembers what it was asked, and the end of the loop's story."""

    def __init__(self, answer: Callable[[], None] = lambda: None) -> None:
        self.continuations: list[Continuation | None] = []
        self.told: list[tuple[str, str]] = []
        self.count = 0
        self.enough = threading.Event()
        self._answer = answer

    def infer(self, observation: Observation, continuation: Continuation | None = None) -> ActionChunk:
        self.continuations.append(continuation)
        self._answer()
        return ActionChunk({"arm": np.zeros((2, 1))}, observation.stamp_ns, 1)

    def observe(self) -> Observation:
        self.count += 1
        return Observation({}, {}, "lift", stamp_ns=self.count)

    def tell(self, kind: str) -> Callable[..., None]:
        def told(*content: object) -> None:
            self.told.append((kind, str(content[0])))
            if len(self.told) >= 3:
                self.enough.set()

        return told

    def run(self, **options: object) -> None:
        """Run a loop until it has told three things."""
        loop = InferenceLoop(
            self,
            self.observe,
            on_chunk=self.tell("chunk"),
            on_refusal=self.tell("refusal"),
            period_s=0.0,
            **options,  # type: ignore[arg-type]
        )
        try:
            loop.enable(True)
            assert self.enough.wait(WAIT_S)
        finally:
            loop.close()


def test_policy_is_given_what_will_still_be_carried_out() -> None:
    chunk = ActionChunk({"arm": np.zeros((2, 1))}, 0, 1)
    asked = Asked()
    asked.run(continue_from=lambda observation: Continuation(chunk, observation.stamp_ns))
    assert [given.frozen_steps for given in asked.continuations[:3] if given] == [1, 2, 3]
    plain = Asked()
    plain.run()
    assert plain.continuations[:3] == [None, None, None]


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ObservationError("state.arm: NaN"), "refusal", "state.arm: NaN"),
        (ServerError("server: no answer"), "failure", "server: no answer"),
        (RuntimeError("out of memory"), "failure", "policy query failed: RuntimeError: out of memory"),
    ],
)
def test_failure_of_the_policy_is_told_apart_from_an_unusable_input(error: Exception, kind: str, text: str) -> None:
    asked = Asked(raising(error))
    asked.run(on_failure=asked.tell("failure"))
    assert asked.told[:3] == [(kind, text)] * 3
