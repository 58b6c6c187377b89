# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from gr00t_policy_node.inference.loop import InferenceLoop
from gr00t_training.errors import ObservationError, ServerError
from gr00t_training.types import ActionChunk, Continuation, Observation

WAIT_S = 120.0


class Asked:
    """A policy that records its calls and the reports of the loop."""

    def __init__(self, answer: Callable[[], None] = lambda: None) -> None:
        self.continuations: list[Continuation | None] = []
        self.reports: list[tuple[str, str]] = []
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

    def report(self, kind: str) -> Callable[..., None]:
        def reported(*content: object) -> None:
            self.reports.append((kind, str(content[0])))
            if len(self.reports) >= 3:
                self.enough.set()

        return reported

    def run(self, **options: object) -> None:
        """Run a loop until it has sent three reports."""
        loop = InferenceLoop(
            self.infer,
            self.observe,
            on_chunk=self.report("chunk"),
            on_refusal=self.report("refusal"),
            period_s=0.0,
            **options,  # type: ignore[arg-type]
        )
        try:
            loop.enable(True)
            assert self.enough.wait(WAIT_S)
        finally:
            loop.close()


def test_policy_gets_the_actions_that_are_still_to_be_executed() -> None:
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
def test_failure_of_the_policy_differs_from_an_unusable_input(error: Exception, kind: str, text: str) -> None:
    asked = Asked(raising(error))
    asked.run(on_failure=asked.report("failure"))
    assert asked.reports[:3] == [(kind, text)] * 3


def test_stamps_give_the_pace_where_a_simulator_has_the_clock() -> None:
    asked = Asked()
    answered: list[int] = []
    loop = InferenceLoop(
        asked.infer,
        lambda: Observation({}, {}, "lift", stamp_ns=asked.observe().stamp_ns * 50_000_000),
        on_chunk=lambda chunk, *_: (answered.append(chunk.start_ns // 50_000_000), asked.report("chunk")(chunk)),
        on_refusal=asked.report("refusal"),
        period_s=0.2,
        is_paced_by_stamp=True,
    )
    try:
        loop.enable(True)
        end_s = time.monotonic() + WAIT_S
        while not asked.enough.is_set():  # each input that comes is looked at
            loop.wake()
            assert time.monotonic() < end_s
        assert answered[:3] == [1, 5, 9]
    finally:
        loop.close()


def test_new_task_is_asked_about_at_once() -> None:
    asked = Asked()
    loop = InferenceLoop(
        asked.infer,
        lambda: Observation({}, {}, "lift", stamp_ns=7),
        on_chunk=asked.report("chunk"),
        on_refusal=asked.report("refusal"),
        period_s=0.2,
        is_paced_by_stamp=True,
    )
    end_s = time.monotonic() + WAIT_S
    try:
        for count in (1, 2, 3):
            loop.enable(True)
            while len(asked.reports) < count:
                assert time.monotonic() < end_s
            loop.enable(False)
        assert asked.enough.wait(WAIT_S)
    finally:
        loop.close()
