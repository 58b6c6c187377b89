# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Serve requests in order, one at a time, in one thread that never waits.

A request that has to wait is a generator: it yields what to wait for, and resumes when that is done. Requests that
come meanwhile stay in the queue.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gr00t_recorder.episodes.requests import Refusal, RefusedError, Request

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Asked:
    """A request and the future for its answer."""

    request: Request[Any]
    answer: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True)
class Wait:
    """What a request waits for; a future that the serving thread itself completes."""

    future: Future[Any]
    until_s: float | None = None  # monotonic; None: without a limit
    timeout_text: str = ""


Steps = Generator[Wait, Any, T]


@dataclass
class _Serving:
    asked: Asked
    steps: Steps[Any]
    wait: Wait | None = None  # None: not begun


class RequestQueue:
    """The requests of one thread."""

    def __init__(self, begin: Callable[[Request[Any]], Steps[Any]], before_answer: Callable[[], None]) -> None:
        """Serve with the steps that `begin` gives; `before_answer` is called before each answer."""
        self._begin = begin
        self._before_answer = before_answer
        self._waiting: deque[Asked] = deque()
        self._serving: _Serving | None = None

    def add(self, asked: Asked) -> None:
        """Append a request."""
        self._waiting.append(asked)

    def refuse_waiting(self, error: Exception) -> None:
        """Refuse all requests that are not being served yet."""
        while self._waiting:
            self.refuse(self._waiting.popleft(), error)

    @property
    def until_s(self) -> float | None:
        """Monotonic time at which `serve` must be called at the latest."""
        return self._serving.wait.until_s if self._serving and self._serving.wait else None

    def serve(self) -> None:
        """Continue the request at hand and then the next ones, until one has to wait."""
        while self._serving is not None or self._waiting:
            if self._serving is None:
                asked = self._waiting.popleft()
                self._serving = _Serving(asked, self._begin(asked.request))
            if not self._continue(self._serving):
                return
            self._serving = None

    def answer(self, asked: Asked, value: Any) -> None:
        """Answer with a value, or with what a future will bring."""
        self._before_answer()
        if isinstance(value, Future):
            value.add_done_callback(lambda done: asked.answer.set_result(done.result()))
        else:
            asked.answer.set_result(value)

    def refuse(self, asked: Asked, error: Exception) -> None:
        """Answer with an error."""
        self._before_answer()
        asked.answer.set_exception(error)

    def _continue(self, serving: _Serving) -> bool:
        """Take the steps that are possible now; return whether the request is answered."""
        try:
            while True:
                wait = serving.wait
                if wait is None:
                    serving.wait = next(serving.steps)
                elif wait.future.done():
                    error = wait.future.exception()
                    serving.wait = serving.steps.throw(error) if error else serving.steps.send(wait.future.result())
                elif wait.until_s is not None and time.monotonic() >= wait.until_s:
                    serving.wait = serving.steps.throw(RefusedError(Refusal.BUSY, wait.timeout_text))
                else:
                    return False
        except StopIteration as end:
            self.answer(serving.asked, end.value)
        except Exception as error:
            self.refuse(serving.asked, error)
        return True
