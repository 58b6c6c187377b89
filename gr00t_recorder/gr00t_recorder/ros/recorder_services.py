# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The services of recorder_node: messages to requests, answers to error codes."""

from __future__ import annotations

from typing import Any, TypeVar

from gr00t_msgs.msg import ErrorCode
from gr00t_msgs.srv import DiscardLastEpisode, MarkEpisode, RedoEpisode, SetTask, StartEpisode, StopEpisode
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from gr00t_recorder.episodes.requests import Cancel, DiscardLast, Mark, Redo, RefusedError, Request, Start, Stop
from gr00t_recorder.episodes.requests import SetTask as SetTaskRequest
from gr00t_recorder.ros.error_codes import refusal_code, result_code
from gr00t_recorder.ros.recorder_requests import RecorderRequests
from gr00t_recorder.ros.status import MAX_REASON, marks_message, marks_of
from gr00t_training.io.text import TextError, printable

T = TypeVar("T")


class RecorderServices:
    """Offers the services; they answer NOT_ACTIVE until the node is active."""

    def __init__(self, node: Node, requests: RecorderRequests, group: CallbackGroup) -> None:
        self._node = node
        self._requests = requests
        services: list[tuple[Any, str, Any]] = [  # coroutines, which rclpy awaits but does not declare
            (StartEpisode, "~/start_episode", self._on_start),
            (StopEpisode, "~/stop_episode", self._on_stop),
            (Trigger, "~/cancel_episode", self._on_cancel),
            (RedoEpisode, "~/redo_episode", self._on_redo),
            (DiscardLastEpisode, "~/discard_last_episode", self._on_discard_last),
            (MarkEpisode, "~/mark_episode", self._on_mark),
            (SetTask, "~/set_task", self._on_set_task),
        ]
        for kind, name, callback in services:
            node.create_service(kind, name, callback, callback_group=group)

    async def _ask(self, response: Any, request: Request[T]) -> T | None:
        """Await an answer; when the request is refused, `response` says why."""
        try:
            return await self._requests.ask(request)
        except (RefusedError, TextError) as error:
            response.error_code, response.error_msg = refusal_code(error), printable(str(error), MAX_REASON)
            return None

    async def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        episode = await self._ask(response, Start(request.task, self._requests.now_ns()))
        if episode is not None:
            response.episode_index = episode.index
        return response

    async def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        marks = marks_of(request.marks)
        result = await self._ask(response, Stop(request.keep, self._requests.now_ns(), marks))
        if result is not None:
            response.episode_index, response.frames = result.index, result.num_frames if result.is_saved else 0
            response.error_msg, response.marks = printable(result.reason, MAX_REASON), marks_message(result.marks)
            response.error_code = result_code(result, is_discard_requested=not request.keep)
        elif not response.error_code:
            session = self._requests.session
            ended = printable(session.recorder.view.reason, MAX_REASON) if session is not None else ""
            response.error_code = ErrorCode.NOT_RECORDING
            response.error_msg = "no episode is running" + (f"; the last one ended: {ended}" if ended else "")
        return response

    async def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        session = self._requests.session
        result = None if session is None else await self._requests.completion(session.recorder.ask(Cancel()))
        if result is None:
            return await self._cancel_ended(response)
        response.success = not result.is_saved
        response.message = "cancelled" if response.success else f"too late: saved as episode {result.index}"
        return response

    async def _cancel_ended(self, response: Trigger.Response) -> Trigger.Response:
        """Take back the episode that ended by itself, if there is one."""
        answer = StopEpisode.Response()
        result = await self._ask(answer, Stop(False, self._requests.now_ns()))
        response.success = result is not None
        response.message = "cancelled" if response.success else answer.error_msg or "no episode is running"
        return response

    async def _on_redo(self, request: RedoEpisode.Request, response: RedoEpisode.Response) -> RedoEpisode.Response:
        episode = await self._ask(response, Redo())
        if episode is not None:
            response.episode_index = episode.index
        return response

    async def _on_discard_last(
        self, request: DiscardLastEpisode.Request, response: DiscardLastEpisode.Response
    ) -> DiscardLastEpisode.Response:
        found = await self._ask(response, DiscardLast())
        if found is not None:
            index, folder = found
            response.episode_index, response.moved_to = index, str(folder)
            self._node.get_logger().info(f"took episode {index} out of the dataset; its files are in {folder}")
        return response

    async def _on_mark(self, request: MarkEpisode.Request, response: MarkEpisode.Response) -> MarkEpisode.Response:
        index = None if request.episode_index < 0 else request.episode_index
        found = await self._ask(response, Mark(marks_of(request.marks), index))
        if found is not None:
            response.episode_index, response.marks = found[0], marks_message(found[1])
        return response

    async def _on_set_task(self, request: SetTask.Request, response: SetTask.Response) -> SetTask.Response:
        await self._ask(response, SetTaskRequest(request.task))
        return response
