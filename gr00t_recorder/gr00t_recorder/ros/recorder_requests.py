# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Send requests of recorder_node's doors (services, action, markers, joystick) to its recorder; await the answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from typing import TypeVar

from rclpy.node import Node
from rclpy.task import Future

from gr00t_recorder.episodes.operations import not_active
from gr00t_recorder.episodes.requests import Refusal, RefusedError, Request
from gr00t_recorder.ros.recorder_session import RecorderSession
from gr00t_recorder.ros.status import MAX_REASON
from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import printable

T = TypeVar("T")


class RecorderRequests:
    """The recorder as the doors see it. The node says what is configured, and whether it is active."""

    def __init__(self, node: Node) -> None:
        self.session: RecorderSession | None = None
        self.is_active = False
        self._node = node

    @property
    def active_session(self) -> RecorderSession | None:
        """What is configured while the node is active."""
        return self.session if self.is_active else None

    def now_ns(self) -> int:
        """Return the node's time."""
        return self._node.get_clock().now().nanoseconds

    async def ask(self, request: Request[T]) -> T:
        """Await the answer of a request; raises RefusedError or TextError."""
        return await self.completion(self._ask(request))

    def send(self, request: Request[T], subject: str, on_answer: Callable[[T], None] = lambda answer: None) -> None:
        """Send a request of somebody who gets no answer: a refusal goes to the log, with `subject` as what is ignored.

        Args:
            request: what to do.
            subject: names it in the log.
            on_answer: called in the recorder's thread.
        """

        def finish(answer: ThreadFuture[T]) -> None:
            try:
                on_answer(answer.result())
            except Gr00tError as error:
                if not isinstance(error, RefusedError) or error.refusal is not Refusal.NOT_ACTIVE:
                    self._node.get_logger().error(f"{subject} ignored: {printable(str(error), MAX_REASON)}")
            except Exception as error:  # a bug must not be hidden in a future that is never read
                self._node.get_logger().error(f"{subject} failed: {printable(repr(error), MAX_REASON)}")

        self._ask(request).add_done_callback(finish)

    async def completion(self, source: ThreadFuture[T]) -> T:
        """Await what another thread completes."""
        done: Future = Future()

        def complete(source: ThreadFuture[T]) -> None:
            error = source.exception()
            if error is not None:
                done.set_exception(error)  # type: ignore[arg-type]
            else:
                done.set_result(source.result())
            if self._node.executor is not None:
                self._node.executor.wake()

        source.add_done_callback(complete)
        return await done  # type: ignore[return-value]

    def _ask(self, request: Request[T]) -> ThreadFuture[T]:
        session = self.active_session
        if session is not None:
            return session.recorder.ask(request)
        refused: ThreadFuture[T] = ThreadFuture()
        refused.set_exception(not_active())
        return refused
