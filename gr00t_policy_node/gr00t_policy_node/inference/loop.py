# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Query the policy in a thread next to the control loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gr00t_training.errors import Gr00tError, ObservationError
from gr00t_training.types import ActionChunk, Continuation, Observation

logger = logging.getLogger(__name__)

POLL_S = 0.05  # longest sleep: an input that stops arriving does not wake the loop
CLOSE_TIMEOUT_S = 10.0


class InferenceLoop:
    """Turns the newest observation into a chunk repeatedly, while it is enabled."""

    def __init__(
        self,
        infer: Callable[[Observation, Continuation | None], ActionChunk],
        observe: Callable[[], Observation],
        *,
        on_chunk: Callable[[ActionChunk, Observation, float], None],
        on_refusal: Callable[[str], None],
        period_s: float,
        on_failure: Callable[[str], None] | None = None,
        continue_from: Callable[[Observation], Continuation | None] | None = None,
        is_paced_by_stamp: bool = False,
    ) -> None:
        """Start the thread, disabled.

        Args:
            infer: of the policy; answers one observation at a time.
            observe: makes the newest observation; raises ObservationError when an input is not usable.
            on_chunk: called in the thread with the chunk, its observation and the latency [s].
            on_refusal: called in the thread when there was no usable observation.
            period_s: shortest time between the starts of two queries.
            on_failure: called in the thread when the policy did not answer a usable observation; None: `on_refusal`.
            continue_from: returns what the answer to an observation must continue; None: nothing.
            is_paced_by_stamp: the period counts between the stamps of observations: a simulator's clock may run at any
                pace.
        """
        self._infer = infer
        self._observe = observe
        self._on_chunk = on_chunk
        self._on_refusal = on_refusal
        self._on_failure = on_failure or on_refusal
        self._continue_from = continue_from
        self._period_s = period_s
        self._is_paced_by_stamp = is_paced_by_stamp
        self._last_stamp_ns: int | None = None  # of the newest observation that was asked about
        self._is_enabled = False
        self._is_closed = False
        self._has_news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def enable(self, is_enabled: bool) -> None:
        """Start or stop querying."""
        with self._has_news:
            if is_enabled and not self._is_enabled:
                self._last_stamp_ns = None  # what was asked before is over
            self._is_enabled = is_enabled
            self._has_news.notify()

    def wake(self) -> None:
        """Signal that a new input has arrived."""
        with self._has_news:
            self._has_news.notify()

    def close(self) -> None:
        """End the thread after the query that is running."""
        with self._has_news:
            self._is_closed = True
            self._has_news.notify()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        earliest_s = 0.0
        while self._wait_until(earliest_s):
            try:
                observation = self._observe()
            except ObservationError as error:
                self._on_refusal(str(error))
                self._sleep(POLL_S)
                continue
            if not self._is_due(observation.stamp_ns):
                self._sleep(POLL_S)
                continue
            self._last_stamp_ns = observation.stamp_ns
            started_s = time.perf_counter()
            earliest_s = 0.0 if self._is_paced_by_stamp else started_s + self._period_s
            self._query(observation, started_s)

    def _is_due(self, stamp_ns: int) -> bool:
        """Return whether an observation is new, and late enough if stamps give the pace."""
        last_ns = self._last_stamp_ns
        if last_ns is None or stamp_ns < last_ns:  # the clock was set back
            return True
        return stamp_ns > last_ns and (not self._is_paced_by_stamp or stamp_ns - last_ns >= self._period_s * 1e9)

    def _query(self, observation: Observation, started_s: float) -> None:
        try:
            continuation = self._continue_from(observation) if self._continue_from else None
            chunk = self._infer(observation, continuation)
        except ObservationError as error:
            self._on_refusal(str(error))
        except Gr00tError as error:  # a server that does not answer
            self._on_failure(str(error))
        except Exception as error:  # a fault of the model must end in a hold with its reason, not in a silent thread
            logger.exception("policy query failed")
            self._on_failure(f"policy query failed: {type(error).__name__}: {error}")
        else:
            self._on_chunk(chunk, observation, time.perf_counter() - started_s)

    def _wait_until(self, earliest_s: float) -> bool:
        """Wait until a query may start; False when the loop is closed."""
        with self._has_news:
            while not self._is_closed:
                remaining_s = earliest_s - time.perf_counter()
                if self._is_enabled and remaining_s <= 0.0:
                    return True
                self._has_news.wait(remaining_s if self._is_enabled else None)
            return False

    def _sleep(self, timeout_s: float) -> None:
        with self._has_news:
            if not self._is_closed:
                self._has_news.wait(timeout_s)
