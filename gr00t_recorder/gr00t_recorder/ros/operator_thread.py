# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Do what may take a while in a thread of its own, in order, and let service coroutines await it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rclpy.node import Node
from rclpy.task import Future

from gr00t_training.errors import Gr00tError

T = TypeVar("T")


class NotActiveError(Exception):
    """The node's lifecycle state is not active."""


class OperatorThread:
    """One thread for the wishes of operators; the executor's thread only hands them over."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="operator")

    async def do(self, action: Callable[[], T]) -> T:
        """Await the result of `action`; its exception is raised here."""
        return await self.completion(self._thread.submit(action))

    def submit(self, action: Callable[[], object], subject: str) -> None:
        """Do something that nobody waits for: a refusal goes to the log, with `subject` as what is ignored."""

        def attempt() -> None:
            try:
                action()
            except Gr00tError as error:
                self._node.get_logger().error(f"{subject} ignored: {error}")
            except NotActiveError:
                pass  # it was, when the wish came
            except Exception as error:  # a bug must not stay in a future that nobody reads
                self._node.get_logger().error(f"{subject} failed: {error!r}")

        self._thread.submit(attempt)

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

    def close(self) -> None:
        """Finish what is being done and drop the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)
